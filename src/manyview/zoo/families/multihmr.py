"""The backbone of Multi-HMR, a DINOv2 encoder fine-tuned on people: one of DUNE's teachers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from manyview.models import vit
from manyview.models.vit import EncoderConfig
from manyview.zoo.family import FAMILIES, Family, State, encoder_sizes
from manyview.zoo.keymaps import KeyMap


@dataclass(frozen=True, kw_only=True)
class MultihmrConfig(EncoderConfig):
    """An encoder in the layout of Multi-HMR's backbone."""


def backbone() -> MultihmrConfig:
    """ViT-L/14 at 672 pixels, without registers."""
    return MultihmrConfig(dim=1024, depth=24, heads=16, image_size=672)


def adapt(state: State) -> dict[str, Tensor]:
    """DUNE's copies of the file have their blocks in one chunk, blocks.0.<i>; the published one has not."""
    return {re.sub(r"^(backbone\.encoder\.blocks\.)0\.(\d+\.)", r"\1\2", key): t for key, t in state.items()}


FAMILIES.add("multihmr")(
    Family(
        model=vit.encoder,
        config=MultihmrConfig,
        presets={"multihmr-vitl14-672": backbone},
        keymap=KeyMap(
            pairs=(("backbone.encoder.", ""),),
            # Camera embedding, detection, body model and its decoder.
            carried=("camera.", "mlp_classif.", "mlp_offset.", "smpl_layer.", "x_attention_head."),
        ),
        debug=vit.debug,
        sizes=partial(encoder_sizes, prefix=""),
        adapt=adapt,
    )
)
