"""MASt3R on DUNE: a frozen DUNE encoder, a LayerNorm of its own, MASt3R's decoder and heads at patch 14.

The published files hold everything but the encoder: convert takes it from `encoder=NAME or DIR`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from manyview.errors import UserError
from manyview.models.dune.network import dune
from manyview.models.family import FAMILIES, Family, State
from manyview.models.keymaps import KeyMap, cross_decoder, nested_encoder
from manyview.models.pair import head_aliases, head_pairs, model_fields, sizes
from manyview.models.pair.constructor import parse
from manyview.models.pair.network import PairConfig, PairReconstructor, debug


def dunemast3r(size: str, resolution: int = 448) -> PairConfig:
    """The published layouts: DUNE's size "s" or "b", with MASt3R's base decoder."""
    encoder = replace(dune(size, resolution).encoder, image_size=518)
    return PairConfig(encoder=encoder, own_norm=True, descriptor_dim=24)


KEYMAP = KeyMap(
    pairs=(*nested_encoder("dune_backbone"), ("norm.", "norm."), *cross_decoder("mast3r."), *head_pairs("mast3r.")),
    aliases=head_aliases("mast3r."),
    # MASt3R's own encoder, which the wrapper replaces, and constants that our encoder knows.
    carried=("mast3r.patch_embed.", "mast3r.enc_blocks.", "mast3r.enc_norm.", "imagenet_"),
    missing=("decoder.mask_token",),
    copies=(("mast3r.dec_blocks2.", "mast3r.dec_blocks."),),
)


def sizes_with_encoder(state: State, preset: PairConfig) -> dict[str, Any]:
    """As of any pair model. Raises UserError when the encoder is missing."""
    if "encoder.patch_embed.proj.weight" not in state:
        size = "s" if preset.encoder.dim == 384 else "b"
        raise UserError(
            f"the file has no encoder, as published; name the DUNE it was trained on: encoder=dune-vit{size}14-448"
        )
    return sizes(state, preset)


def says(about: Mapping[str, Any], preset: PairConfig) -> dict[str, Any]:
    """The encoder's published name, and the constructor call of the MASt3R around it.

    What that call says of an encoder is of the one that DUNE replaces.
    """
    fields: dict[str, Any] = {}
    name = re.fullmatch(r"dune_vit(small|base)_14_(\d+)(_paper)?(_encoder)?", str(about.get("dune_backbone_name")))
    if name:
        encoder = dune(name[1][0], int(name[2])).encoder
        fields = {"dim": encoder.dim, "heads": encoder.heads, "positions": encoder.positions}
    if isinstance(text := about.get("mast3r_model_str"), str):
        replaced = ("dim", "depth", "heads", "patch_size", "image_size")
        fields |= {name: value for name, value in model_fields(parse(text)).items() if name not in replaced}
    return fields


FAMILIES.add("dunemast3r")(
    Family(
        network=PairReconstructor,
        config=PairConfig,
        presets={f"dunemast3r-vit{size}14": partial(dunemast3r, size) for size in "sb"},
        keymap=KEYMAP,
        debug=debug,
        sizes=sizes_with_encoder,
        says=says,
        cards=__name__,
    )
)
