"""CroCo v2: the network for cross-view completion whose encoder DUSt3R and its heirs start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.models.croco import network
from manyview.models.croco.network import Croco, CrossDecoderConfig
from manyview.models.family import FAMILIES, Family, State, count, encoder_sizes, heads_of, stated
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
    "img_size": "image_size",
    "pos_embed": "rope_base",
}
BUILT = {"mlp_ratio": (4,), "norm_im2_in_dec": (True,)}
# Words about training, or about ways to store a batch; they change no result.
SILENT = ("mask_ratio", "freeze", "landscape_only", "patch_embed_cls", "norm_layer")


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
    return stated(about.get("croco_kwargs") or {}, FIELDS, BUILT, silent=SILENT)


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
