"""Fast3R: the Hugging Face directory (config.json beside the weights), or a Lightning checkpoint of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.models.family import FAMILIES, Family, stated
from manyview.models.keymaps import KeyMap, croco_encoder
from manyview.models.reconstructor import ALIASES, DECODER, sizes
from manyview.models.reconstructor.network import Reconstructor, ReconstructorConfig, debug
from manyview.models.vit import HALF, croco_vit

# Its words for what the shapes of weights cannot tell, and ours; heads go with the width they were stated for.
FIELDS = {
    "encoder_args.embed_dim": "dim",
    "encoder_args.num_heads": "heads",
    "encoder_args.img_size": "image_size",
    "encoder_args.pos_embed": "rope_base",
    "decoder_args.embed_dim": "decoder_dim",
    "decoder_args.num_heads": "decoder_heads",
}
# A file that says otherwise is another network.
BUILT: dict[str, tuple[Any, ...]] = {
    "encoder_args.encoder_type": ("croco",),
    "decoder_args.decoder_type": ("fast3r",),
    "head_args.head_type": ("dpt",),
    "head_args.output_mode": ("pts3d",),
    "head_args.depth_mode": (["exp", "-inf", "inf"],),
    "head_args.conf_mode": (["exp", 1, "inf"],),
    "head_args.with_local_head": (True,),
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
    sections = {name: part for name, part in dict(config or {}).items() if isinstance(part, Mapping)}
    words = {f"{name}.{key}": value for name, part in sections.items() for key, value in part.items()}
    return stated({word: value for word, value in words.items() if value is not None}, FIELDS, BUILT)


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
