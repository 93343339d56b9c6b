"""Fast3R: the Hugging Face directory (config.json beside the weights), or a Lightning checkpoint of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.errors import UserError
from manyview.models import reconstructor
from manyview.models.reconstructor import Fast3rConfig, Reconstructor
from manyview.zoo.families.reconstructor import ALIASES, DECODER, sizes
from manyview.zoo.family import FAMILIES, Family
from manyview.zoo.keymaps import KeyMap

# What we build, by section of config.json; a file that says otherwise is another network.
BUILT: dict[str, dict[str, Any]] = {
    "encoder_args": {"encoder_type": "croco"},
    "decoder_args": {"decoder_type": "fast3r"},
    "head_args": {
        "head_type": "dpt",
        "output_mode": "pts3d",
        "depth_mode": ["exp", "-inf", "inf"],
        "conf_mode": ["exp", 1, "inf"],
        "with_local_head": True,
    },
}
# Its names of what the shapes of weights cannot tell, and ours; heads go with the width they were stated for.
STATED = {
    ("encoder_args", "embed_dim"): "dim",
    ("encoder_args", "num_heads"): "heads",
    ("encoder_args", "img_size"): "image_size",
    ("decoder_args", "embed_dim"): "decoder_dim",
    ("decoder_args", "num_heads"): "decoder_heads",
}


def says(about: Mapping[str, Any], preset: Fast3rConfig) -> dict[str, Any]:
    """Widths, heads, image size and rotary base of a parsed config.json; nothing when there is none.

    Raises UserError when it describes a network of another kind.
    """
    config = about.get("config")
    if not isinstance(config, Mapping):
        return {}
    sections = {name: config[name] for name in BUILT if isinstance(config.get(name), Mapping)}
    for name, section in sections.items():
        for key, built in BUILT[name].items():
            if section.get(key, built) != built:
                raise UserError(
                    f"config.json says {name}.{key} is {section[key]!r}, and only {built!r} is built"
                )
    found = {ours: sections.get(name, {}).get(key) for (name, key), ours in STATED.items()}
    return {**{ours: value for ours, value in found.items() if value is not None}, **_rope(sections)}


def _rope(sections: Mapping[str, Any]) -> dict[str, float]:
    """The base of the rotary positions, written as RoPE100."""
    kind = sections.get("encoder_args", {}).get("pos_embed", "")
    base = str(kind).removeprefix("RoPE")
    if not kind:
        return {}
    if not str(kind).startswith("RoPE") or not base.isdigit():
        raise UserError(
            f"config.json says encoder_args.pos_embed is {kind!r}, and only RoPE positions are built"
        )
    return {"rope_base": float(base)}


FAMILIES.add("fast3r")(
    Family(
        model=Reconstructor,
        config=Fast3rConfig,
        presets={"fast3r-vitl16": reconstructor.fast3r},
        keymap=KeyMap(
            pairs=(
                ("encoder.patch_embed.", "encoder.patch_embed."),
                ("encoder.enc_blocks.", "encoder.blocks."),
                ("encoder.enc_norm.", "encoder.norm."),
                *DECODER,
            ),
            aliases=ALIASES,
        ),
        debug=reconstructor.debug,
        sizes=sizes,
        says=says,
        prefixes=("net.",),
    )
)
