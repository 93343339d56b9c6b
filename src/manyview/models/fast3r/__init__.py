"""Fast3R: the Hugging Face directory (config.json beside the weights), or a Lightning checkpoint of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.errors import UserError
from manyview.models.croco import rope_base
from manyview.models.family import FAMILIES, Family
from manyview.models.keymaps import KeyMap, croco_encoder
from manyview.models.reconstructor import ALIASES, DECODER, sizes
from manyview.models.reconstructor.network import Reconstructor, ReconstructorConfig, debug
from manyview.models.vit import HALF, croco_vit

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


def fast3r() -> ReconstructorConfig:
    """The published Fast3R: CroCo's ViT-L with the large decoder, 647,551,368 parameters."""
    return ReconstructorConfig(
        encoder=croco_vit(image_size=512, image_mean=HALF, image_std=HALF),
        decoder_dim=1024,
        decoder_depth=24,
        decoder_heads=16,
        taps=(0, 12, 18, 24),
    )


def says(about: Mapping[str, Any], preset: ReconstructorConfig) -> dict[str, Any]:
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
                raise UserError(f"config.json says {name}.{key} is {section[key]!r}, and only {built!r} is built")
    stated = {ours: sections.get(name, {}).get(key) for (name, key), ours in STATED.items()}
    fields = {ours: value for ours, value in stated.items() if value is not None}
    word = sections.get("encoder_args", {}).get("pos_embed")
    return {**fields, "rope_base": rope_base(word)} if word else fields


FAMILIES.add("fast3r")(
    Family(
        network=Reconstructor,
        config=ReconstructorConfig,
        presets={"fast3r-vitl16": fast3r},
        keymap=KeyMap(pairs=(*croco_encoder("encoder."), *DECODER), aliases=ALIASES),
        debug=debug,
        sizes=sizes,
        says=says,
        prefixes=("net.",),
        cards=__name__,
    )
)
