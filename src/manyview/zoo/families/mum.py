"""MuM: the masked autoencoder of many views (`mum-…-full`), and its encoder alone (`mum-vitl16`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.models import mum, vit
from manyview.models.mum import Mum, MumConfig
from manyview.models.vit import EncoderConfig
from manyview.zoo.family import FAMILIES, Family, State, count, decoder_heads, encoder_sizes
from manyview.zoo.keymaps import KeyMap

DECODER = (
    "mask_token",
    "rope_embed_decoder.",
    "decoder_embed.",
    "decoder_frame_blocks.",
    "decoder_global_blocks.",
    "decoder_norm.",
    "decoder_pred.",
)


@dataclass(frozen=True, kw_only=True)
class MumEncoderConfig(EncoderConfig):
    """MuM's encoder alone. Normed with the epsilon of its published class, which is the one it was trained with."""


def encoder_only() -> MumEncoderConfig:
    """The published ViT-L encoder."""
    return MumEncoderConfig(
        dim=1024,
        depth=24,
        heads=16,
        patch_size=16,
        positions=0,
        rope="axial",
        layer_scale=None,
        eps=1e-5,
        mask_token=False,
        image_size=256,
    )


def rotated_heads(dim: int, periods: Tensor | None, base: float, otherwise: int) -> int:
    """Heads of a width whose rotary periods a file carries: no other weight tells their number.

    Raises UserError when the periods are not those of this base.
    """
    if periods is None:
        return otherwise
    expected = base ** (torch.arange(len(periods)) / len(periods))
    if not torch.allclose(periods.float(), expected, rtol=2e-2):  # some files keep them in bfloat16
        raise UserError(
            f"its rotary periods {periods.tolist()[:3]}… are not those of base {base:g}; set rope_base"
        )
    return dim // (4 * len(periods))


def encoder_sizes_with_heads(state: State, preset: EncoderConfig, prefix: str) -> dict[str, Any]:
    found = encoder_sizes(state, preset, prefix=prefix)
    periods = state.get(f"{prefix}rope.periods")
    heads = rotated_heads(found["dim"], periods, preset.rope_base, found["heads"])
    return {**found, "heads": heads, "rope": preset.rope if not found["positions"] else "none"}


def sizes(state: State, preset: MumConfig) -> dict[str, Any]:
    dim = state["embed.weight"].shape[0]
    heads = rotated_heads(dim, state.get("rope.periods"), preset.rope_base, decoder_heads(dim, preset))
    return {
        **encoder_sizes_with_heads(state, preset, "encoder."),
        "decoder_dim": dim,
        "decoder_depth": 2 * count(state, r"decoder\.frame\.(\d+)\."),
        "decoder_heads": heads,
    }


FAMILIES.add("mum")(
    Family(
        model=Mum,
        config=MumConfig,
        presets={
            "mum-vitl16-full": partial(mum.mum, "l"),
            "mum-vitb16-full": partial(mum.mum, "b"),
            "mum-vits16-full": partial(mum.mum, "s"),
            "mum-tiny12-full": partial(mum.mum, "tiny"),
        },
        keymap=KeyMap(
            pairs=(
                ("", "encoder."),
                ("rope_embed.", "encoder.rope."),
                ("mask_token", "mask_token"),
                ("rope_embed_decoder.", "rope."),
                ("decoder_embed.", "embed."),
                ("decoder_frame_blocks.", "decoder.frame."),
                ("decoder_global_blocks.", "decoder.everywhere."),
                ("decoder_norm.", "norm."),
                ("decoder_pred.", "head."),
                ("decoder_pos_embed", "positions"),
            ),
            missing=("encoder.rope.periods", "rope.periods"),
        ),
        debug=mum.debug,
        sizes=sizes,
    )
)

FAMILIES.add("mum_encoder")(
    Family(
        model=vit.encoder,
        config=MumEncoderConfig,
        presets={"mum-vitl16": encoder_only},
        keymap=KeyMap(pairs=(("", ""), ("rope_embed.", "rope.")), ignored=DECODER, missing=("rope.periods",)),
        debug=vit.debug,
        sizes=partial(encoder_sizes_with_heads, prefix=""),
    )
)
