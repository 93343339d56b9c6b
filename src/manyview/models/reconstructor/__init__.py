"""Distill3R and our own reconstructors: encoder, fusion transformer, two pointmap heads."""

from __future__ import annotations

from typing import Any

from manyview.models.family import FAMILIES, Family, State, count, dpt_sizes, encoder_sizes, heads_of, quarter_taps
from manyview.models.keymaps import KeyMap, dpt, dpt_aliases, nested_encoder
from manyview.models.reconstructor.network import (
    Reconstructor,
    ReconstructorConfig,
    debug,
    distill3r,
    small,
    small_words,
    tiny,
)

# Everything after the encoder: Distill3R kept Fast3R's names.
DECODER = (
    ("decoder.decoder_embed.", "fusion.embed."),
    ("decoder.dec_blocks.", "fusion.blocks."),
    ("decoder.dec_norm.", "fusion.norm."),
    *dpt("downstream_head.dpt", "head.dpt"),
    *dpt("downstream_head_local.dpt", "head_local.dpt"),
    ("feature_heads.", "feature_heads."),
)
ALIASES = (*dpt_aliases("downstream_head.dpt"), *dpt_aliases("downstream_head_local.dpt"))


def sizes(state: State, preset: ReconstructorConfig) -> dict[str, Any]:
    dim = state["fusion.embed.weight"].shape[0]
    depth = count(state, r"fusion\.blocks\.(\d+)\.")
    return {
        "encoder": encoder_sizes(state, preset.encoder),
        "decoder_dim": dim,
        "decoder_depth": depth,
        "decoder_heads": heads_of(dim, preset.decoder_dim, preset.decoder_heads),
        "taps": preset.taps if depth == preset.decoder_depth else quarter_taps(depth),
        **dpt_sizes(state, "head.dpt"),
        "head_spare_unit": "head.dpt.merge.3.skip.conv1.weight" in state,
        "feature_heads": tuple(
            (name, len(state[f"feature_heads.{name}.space.weight"])) for name, _ in preset.feature_heads
        ),
    }


FAMILIES.add("reconstructor")(
    Family(
        network=Reconstructor,
        config=ReconstructorConfig,
        presets={
            "manyview-tiny": tiny,
            "manyview-small": small,
            "manyview-small-words": small_words,
            "distill3r": distill3r,
        },
        keymap=KeyMap(pairs=(*nested_encoder("encoder"), *DECODER), aliases=ALIASES, ignored=("teacher_filter",)),
        debug=debug,
        sizes=sizes,
        cards=__name__,
        prefixes=("student.",),
    )
)
