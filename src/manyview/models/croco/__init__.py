"""CroCo v2: the network for cross-view completion whose encoder DUSt3R and its heirs start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.errors import UserError
from manyview.models.croco import network
from manyview.models.croco.network import Croco, CrossDecoderConfig
from manyview.models.family import FAMILIES, Family, State, count, encoder_sizes, heads_of
from manyview.models.keymaps import KeyMap, croco_encoder, cross_decoder

KEYMAP = KeyMap(pairs=(*croco_encoder(), *cross_decoder(), ("prediction_head.", "predict.")))

# Words of CroCo's constructor, and the fields they state.
FIELDS = {
    "enc_embed_dim": "dim",
    "enc_depth": "depth",
    "enc_num_heads": "heads",
    "dec_embed_dim": "decoder_dim",
    "dec_depth": "decoder_depth",
    "dec_num_heads": "decoder_heads",
    "patch_size": "patch_size",
}
# Words about training, or about ways to store a batch; they change no result.
SILENT = ("mask_ratio", "freeze", "landscape_only", "patch_embed_cls", "norm_layer")


def constructor_fields(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration fields that CroCo's constructor words state. Raises UserError for another layout."""
    fields: dict[str, Any] = {}
    for word, value in keywords.items():
        if word in FIELDS:
            fields[FIELDS[word]] = value
        elif word == "img_size":
            fields["image_size"] = max(value) if isinstance(value, (tuple, list)) else value
        elif word == "pos_embed":
            fields["rope_base"] = rope_base(value)
        elif (word, value) not in (("mlp_ratio", 4), ("norm_im2_in_dec", True)) and word not in SILENT:
            raise UserError(f"the file's constructor says {word}={value!r}, which this layout does not know")
    return fields


def rope_base(word: Any) -> float:
    """100 of "RoPE100". Raises UserError for positions of another kind."""
    base = str(word).removeprefix("RoPE")
    if not str(word).startswith("RoPE") or not base.isdigit():
        raise UserError(f"its positions (pos_embed) are {word!r}, and only RoPE positions are built")
    return float(base)


def decoder_sizes(state: State, preset: CrossDecoderConfig) -> dict[str, Any]:
    """Fields of encoder and decoder from the shapes."""
    dim = state["decoder.embed.weight"].shape[0]
    return {
        "encoder": encoder_sizes(state, preset.encoder),
        "decoder_dim": dim,
        "decoder_depth": count(state, r"decoder\.branches\.0\.(\d+)\."),
        "decoder_heads": heads_of(dim, preset.decoder_dim, preset.decoder_heads),
    }


def says(about: Mapping[str, Any], preset: CrossDecoderConfig) -> dict[str, Any]:
    """CroCo's files hold the words of their constructor as a dictionary."""
    return constructor_fields(about.get("croco_kwargs") or {})


FAMILIES.add("croco")(
    Family(
        network=Croco,
        config=CrossDecoderConfig,
        presets={"croco-v2-vitl16": network.croco},
        keymap=KEYMAP,
        debug=network.debug,
        sizes=decoder_sizes,
        says=says,
        cards=__name__,
    )
)
