"""Feature maps of pictures for protocols that ask about features: of the encoder, or of a head for another's space.

SAB3R's heads say features at every pixel; the maps here keep the resolution that the model gives.

Legend: N pictures, H x W pixels, h x w cells, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.models.family import encoder_of
from manyview.models.model import EncodesTexts, ReconstructsPairs
from manyview.pipelines.answers import told

ENCODER = ""
"""The space of the encoder's own tokens."""


@dataclass(frozen=True)
class FeatureMaps:
    """Pictures (N, 3, H, W) in [0, 1] -> features (N, h, w, D) in a space of the model; "" is the encoder's own."""

    model: Any
    space: str = ENCODER
    norm: bool = True

    def __post_init__(self) -> None:
        if self.space and self.space not in (known := spaces_of(self.model)):
            kinds = ", ".join(known) or "none: it has no feature heads"
            raise UserError(f"head={self.space}: the feature spaces of this model are {kinds}")

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        if not self.space or isinstance(self.model, EncodesTexts):
            features = encoder_of(self.model).encode(images, norm=self.norm)
            return features.patches.unflatten(1, features.grid)
        if not isinstance(self.model, ReconstructsPairs):
            return torch.stack([told(self.model, [image])[0]["features"][self.space] for image in images])
        first, second = self.model.encode_views(
            torch.stack([images, images], 1)
        )  # each beside itself, as single pictures are asked
        return self.model.decode(first, second, heads=(self.space,))["features"][self.space][:, 0]


def spaces_of(model: Any) -> list[str]:
    """The feature spaces a model has heads for; a model that encodes texts speaks in its own, "clip"."""
    if isinstance(model, EncodesTexts):
        return ["clip"]
    heads = getattr(model.config, "feature_heads", ())
    return [str(head[0]) for head in heads]


def space_with_words(model: Any, wanted: str) -> str:
    """The feature space that class names are looked up in. Raises UserError for none."""
    spaces = [space for space in spaces_of(model) if space != "dino"]
    if not spaces:
        raise UserError(
            "this model has no features that answer to words; judge one with such a head (manyview-small-words, "
            "sab3r-…) or maskclip-vitb16"
        )
    if wanted and wanted not in spaces:
        raise UserError(f"space={wanted}: the features with words of this model are {', '.join(spaces)}")
    return wanted or spaces[0]
