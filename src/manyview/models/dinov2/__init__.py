"""DINOv2's encoders, with and without registers: the plain ViT in its published layout."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyview.models.family import FAMILIES, Family, State, encoder_sizes
from manyview.models.keymaps import KeyMap
from manyview.models.vit import SIZES, Encoder, EncoderConfig, debug, vit


def sizes(state: State, preset: EncoderConfig) -> dict[str, Any]:
    shapes = encoder_sizes(state, preset, prefix="")
    return {**shapes, "antialias": shapes["registers"] > 0}


def _from_timm(state: State) -> dict[str, Tensor]:
    """timm's name of the registers; it adds the class token's position to the token itself: it is zero here."""
    state = {"register_tokens" if key == "reg_token" else key: tensor for key, tensor in state.items()}
    table = state.get("pos_embed")
    if "cls_token" in state and table is not None and round(table.shape[1] ** 0.5) ** 2 == table.shape[1]:
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], 1)
    return state


FAMILIES.add("dinov2")(
    Family(
        network=Encoder,
        config=EncoderConfig,
        presets={
            f"dinov2-vit{size}14{suffix}": partial(vit, size, registers=registers, antialias=registers > 0)
            for size in SIZES
            for suffix, registers in (("", 0), ("-reg4", 4))
        },
        keymap=KeyMap(
            pairs=(("", ""), ("blocks.{}.{}.", "blocks.{1}.")),
            ignored=("head.", "fc.", "dino_head.", "ibot_head.", "linear_head."),
            missing=("mask_token",),
        ),
        adapt=_from_timm,
        debug=debug,
        sizes=sizes,
        cards=__name__,
    )
)
