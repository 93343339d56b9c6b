"""DINOv2's encoders, with and without registers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from manyview.models import vit
from manyview.models.vit import EncoderConfig
from manyview.zoo.family import FAMILIES, Family, State, encoder_sizes
from manyview.zoo.keymaps import KeyMap


@dataclass(frozen=True, kw_only=True)
class Dinov2Config(EncoderConfig):
    """An encoder in DINOv2's published layout."""


def dinov2(size: str, registers: int) -> Dinov2Config:
    """The published layouts: size "s", "b" or "l", no or four registers."""
    dim, depth, heads = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}[size]
    return Dinov2Config(dim=dim, depth=depth, heads=heads, registers=registers, antialias=registers > 0)


def sizes(state: State, preset: Dinov2Config) -> dict[str, Any]:
    found = encoder_sizes(state, preset, prefix="")
    return {**found, "antialias": found["registers"] > 0}


FAMILIES.add("dinov2")(
    Family(
        model=vit.encoder,
        config=Dinov2Config,
        presets={
            f"dinov2-vit{size}14{suffix}": partial(dinov2, size, registers)
            for size in "sbl"
            for suffix, registers in (("", 0), ("-reg4", 4))
        },
        keymap=KeyMap(pairs=(("", ""),)),
        debug=vit.debug,
        sizes=sizes,
    )
)
