"""Distill3R and our own reconstructors: encoder, fusion transformer, two pointmap heads."""

from __future__ import annotations

from typing import Any

from manyview.models import reconstructor
from manyview.models.reconstructor import Reconstructor, ReconstructorConfig
from manyview.zoo.family import FAMILIES, Family, State, count, decoder_heads, encoder_sizes
from manyview.zoo.keymaps import KeyMap, dpt, dpt_aliases, nested_encoder

# Everything after the encoder: Distill3R kept Fast3R's names.
DECODER = (
    ("decoder.decoder_embed.", "fusion.embed."),
    ("decoder.dec_blocks.", "fusion.blocks."),
    ("decoder.dec_norm.", "fusion.norm."),
    *dpt("downstream_head.dpt", "head.dpt"),
    *dpt("downstream_head_local.dpt", "head_local.dpt"),
)
ALIASES = (*dpt_aliases("downstream_head.dpt"), *dpt_aliases("downstream_head_local.dpt"))


def sizes(state: State, preset: ReconstructorConfig) -> dict[str, Any]:
    dim = state["fusion.embed.weight"].shape[0]
    depth = count(state, r"fusion\.blocks\.(\d+)\.")
    return {
        **encoder_sizes(state, preset),
        "decoder_dim": dim,
        "decoder_depth": depth,
        "decoder_heads": decoder_heads(dim, preset),
        "taps": preset.taps if depth == preset.decoder_depth else (0, depth // 2, depth * 3 // 4, depth),
        "head_layer_dims": tuple(state[f"head.dpt.project.{level}.weight"].shape[0] for level in range(4)),
        "head_dim": state["head.dpt.narrow.weight"].shape[1],
        "head_last_dim": state["head.dpt.narrow.weight"].shape[0],
        "head_spare_unit": "head.dpt.merge.3.skip.conv1.weight" in state,
    }


FAMILIES.add("reconstructor")(
    Family(
        model=Reconstructor,
        config=ReconstructorConfig,
        presets={"manyview-tiny": reconstructor.tiny, "distill3r": reconstructor.distill3r},
        keymap=KeyMap(
            pairs=(*nested_encoder("encoder"), *DECODER), aliases=ALIASES, ignored=("teacher_filter",)
        ),
        debug=reconstructor.debug,
        sizes=sizes,
        prefixes=("student.",),
    )
)
