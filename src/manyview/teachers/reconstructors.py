"""Reconstructors as teachers: any model of the zoo or a model directory that turns views into pointmaps."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from manyview import zoo
from manyview.config import to_dict
from manyview.errors import UserError
from manyview.models.model import Reconstructs, ReconstructsPairs, weights_digest
from manyview.teachers.base import licence_of
from manyview.types import Signal, Teacher, Views, WeightRule
from manyview.zoo.models import load_as

MAPS = ("pointmap", "confidence", "pointmap_local", "confidence_local", "depth", "depth_confidence")
"""What is kept of what a model says, beside its feature maps; cameras follow from the pointmaps."""
BY_QUANTILE = WeightRule(0.9, 0.1, 1.0, by="quantile")
"""For models whose card does not say how confident is confident: full weight for the surest tenth of a sample."""


class ReconstructorTeacher(Teacher):
    """Signals "pointmap", "pointmap_local", "depth" and their confidences, as far as the model says them, and its
    feature maps as "features.NAME".

    The model sees the views at the size they have, less at most a patch at the borders where the size is no
    multiple of its patch: there its maps are invalid. The card of its weights says the licence, and may say the
    weight rule. source: a zoo name or a model directory. model: `source`, where it is loaded. Raises UserError for
    one that is no reconstructor.
    """

    weighted_by = MappingProxyType({**Teacher.weighted_by, "depth": "depth_confidence"})
    has_network = True

    def __init__(self, source: str, *, name: str = "", model: nn.Module | None = None) -> None:
        network: Any = load_as(source if model is None else model, Reconstructs)[0]
        self.network = network.eval().requires_grad_(False)
        self.name, self.licence = name or source, licence_of(self.network)
        rule = zoo.card_of(source).get("weight_rule")
        self.weight_rule = WeightRule(**rule) if rule else BY_QUANTILE
        self._digest = ""

    def settings(self) -> dict[str, Any]:
        return {"network": to_dict(self.network.config), "borders": "cropped to whole patches"}

    def weights_digest(self) -> str:
        self._digest = self._digest or weights_digest(self.network)
        return self._digest

    def prepare(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) -> their middle, whose sides are multiples of the patch. Raises UserError for none."""
        top, left, height, width = self._inside(images.shape[-2], images.shape[-1])
        return images[..., top : top + height, left : left + width]

    def _inside(self, height: int, width: int) -> tuple[int, int, int, int]:
        patch = int(self.network.config.patch_size)
        if min(height, width) < patch:
            raise UserError(f"teacher {self.name} sees patches of {patch} pixels; {height}x{width} has none")
        return height % patch // 2, width % patch // 2, height // patch * patch, width // patch * patch

    @torch.inference_mode()
    def __call__(self, views: Views) -> dict[str, Signal]:
        if isinstance(self.network, ReconstructsPairs) and views.views != 2:
            raise UserError(f"teacher {self.name} sees pairs of views, not {views.views}; build with --views 2")
        maps = self.network.to(views.images.device)(self.prepare(views.images))
        signals = {name: self._placed(maps[name], views.size) for name in MAPS if name in maps}
        for name, values in maps.get("features", {}).items():
            signals[f"features.{name}"] = Signal(values.clone())
        return self.weigh(signals)

    def _placed(self, values: Tensor, size: tuple[int, int]) -> Signal:
        """Maps (B, V, h, w, ...) of the middle, on all of the (H, W) pixels."""
        top, left, height, width = self._inside(*size)
        whole = values.new_zeros(*values.shape[:2], *size, *values.shape[4:])
        valid = torch.zeros(whole.shape[:4], dtype=torch.bool, device=whole.device)
        whole[:, :, top : top + height, left : left + width] = values
        valid[:, :, top : top + height, left : left + width] = True
        finite = torch.isfinite(whole)
        return Signal(whole, valid=valid & (finite.all(-1) if whole.ndim > 4 else finite))
