"""MuM: the masked autoencoder of many views (`mum-…-full`), and its encoder alone (`mum-vitl16`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.models import vit
from manyview.models.family import FAMILIES, Family, State, count, encoder_sizes, heads_of
from manyview.models.keymaps import KeyMap
from manyview.models.mum import network
from manyview.models.mum.network import Mum, MumConfig
from manyview.models.vit import EncoderConfig

# Official name -> ours, of everything but the encoder.
DECODER = (
    ("mask_token", "mask_token"),
    ("rope_embed_decoder.", "rope."),
    ("decoder_embed.", "embed."),
    ("decoder_frame_blocks.", "decoder.frame."),
    ("decoder_global_blocks.", "decoder.everywhere."),
    ("decoder_norm.", "norm."),
    ("decoder_pred.", "head."),
)


def rotated_heads(dim: int, periods: Tensor | None, base: float, otherwise: int) -> int:
    """Heads of a width whose rotary periods a file carries: no other weight tells their number.

    Raises UserError when the periods are not those of this base.
    """
    if periods is None:
        return otherwise
    expected = base ** (torch.arange(len(periods)) / len(periods))
    if not torch.allclose(periods.float(), expected, rtol=2e-2):  # some files keep them in bfloat16
        raise UserError(f"its rotary periods {periods.tolist()[:3]}… are not those of base {base:g}; set rope_base")
    return dim // (4 * len(periods))


def rotary_sizes(state: State, preset: EncoderConfig, prefix: str = "") -> dict[str, Any]:
    """Fields of an encoder whose heads its rotary periods tell."""
    shapes = encoder_sizes(state, preset, prefix=prefix)
    periods = state.get(f"{prefix}rope.periods")
    heads = rotated_heads(shapes["dim"], periods, preset.rope_base, shapes["heads"])
    return {**shapes, "heads": heads, "rope": preset.rope if not shapes["positions"] else "none"}


def sizes(state: State, preset: MumConfig) -> dict[str, Any]:
    dim = state["embed.weight"].shape[0]
    heads = heads_of(dim, preset.decoder_dim, preset.decoder_heads)
    return {
        "encoder": rotary_sizes(state, preset.encoder, "encoder."),
        "decoder_dim": dim,
        "decoder_depth": 2 * count(state, r"decoder\.frame\.(\d+)\."),
        "decoder_heads": rotated_heads(dim, state.get("rope.periods"), preset.encoder.rope_base, heads),
    }


FAMILIES.add("mum")(
    Family(
        network=Mum,
        config=MumConfig,
        presets={
            "mum-vitl16-full": partial(network.mum, "l"),
            "mum-vitb16-full": partial(network.mum, "b"),
            "mum-vits16-full": partial(network.mum, "s"),
            "mum-tiny12-full": partial(network.mum, "tiny"),
        },
        keymap=KeyMap(
            pairs=(("", "encoder."), ("rope_embed.", "encoder.rope."), *DECODER, ("decoder_pos_embed", "positions")),
            missing=("encoder.rope.periods", "rope.periods"),
        ),
        debug=network.debug,
        sizes=sizes,
        cards=__name__,
    )
)

# Normed with the epsilon of its published class, which is the one it was trained with.
ENCODER = partial(vit.masked_vit, "l", rope="axial", eps=1e-5, image_size=256)

FAMILIES.add("mum_encoder")(
    Family(
        network=vit.Encoder,
        config=EncoderConfig,
        presets={"mum-vitl16": ENCODER},
        keymap=KeyMap(
            pairs=(("", ""), ("rope_embed.", "rope.")),
            ignored=tuple(official for official, _ in DECODER),
            missing=("rope.periods",),
        ),
        debug=vit.debug,
        sizes=rotary_sizes,
    )
)
