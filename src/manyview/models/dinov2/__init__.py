"""DINOv2's encoders, with and without registers: the plain ViT in its published layout."""

from __future__ import annotations

from functools import partial
from typing import Any

from manyview.models.family import FAMILIES, Family, State, encoder_sizes
from manyview.models.keymaps import KeyMap
from manyview.models.vit import SIZES, Encoder, EncoderConfig, debug, vit


def sizes(state: State, preset: EncoderConfig) -> dict[str, Any]:
    shapes = encoder_sizes(state, preset, prefix="")
    return {**shapes, "antialias": shapes["registers"] > 0}


FAMILIES.add("dinov2")(
    Family(
        network=Encoder,
        config=EncoderConfig,
        presets={
            f"dinov2-vit{size}14{suffix}": partial(vit, size, registers=registers, antialias=registers > 0)
            for size in SIZES
            for suffix, registers in (("", 0), ("-reg4", 4))
        },
        keymap=KeyMap(pairs=(("", ""),)),
        debug=debug,
        sizes=sizes,
        cards=__name__,
    )
)
