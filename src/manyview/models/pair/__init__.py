"""DUSt3R, MASt3R and SAB3R: one encoder, a decoder of two branches, heads per branch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from manyview.errors import UserError
from manyview.models import croco
from manyview.models.croco import decoder_sizes
from manyview.models.family import FAMILIES, Family, State, dpt_sizes, quarter_taps, stated
from manyview.models.keymaps import KeyMap, Pairs, croco_encoder, cross_decoder, dpt, dpt_aliases
from manyview.models.pair import network
from manyview.models.pair.constructor import Call, parse
from manyview.models.pair.network import PairConfig, PairReconstructor

# SAB3R's names of its feature heads, and ours.
FEATURES = {"clip_head": "clip", "dino_head": "dino"}
CONSTRUCTORS = ("AsymmetricCroCo3DStereo", "AsymmetricMASt3R")
CONF_MODE = ("exp", 1, math.inf)
# Pixel activations that are built; every published file has these.
BUILT: dict[str, tuple[Any, ...]] = {
    **croco.BUILT,
    "depth_mode": (("exp", -math.inf, math.inf),),
    "conf_mode": (CONF_MODE,),
    "two_confs": (True,),
    "desc_mode": ("norm", ("norm",)),
    **{f"{name}_type": ("dpt", None) for name in FEATURES},
}


def head_pairs(official: str = "") -> Pairs:
    """The heads of both branches: `official` is what stands before downstream_head1."""
    pairs: list[tuple[str, str]] = []
    for branch in range(2):
        theirs, ours = f"{official}downstream_head{branch + 1}", f"heads.{branch}"
        pairs += dpt(f"{theirs}.dpt", f"{ours}.pointmap.dpt")
        pairs.append((f"{theirs}.proj.", f"{ours}.pointmap.linear.map."))
        pairs.append((f"{theirs}.head_local_features.", f"{ours}.descriptors.body.map."))
        for name, ours_too in FEATURES.items():
            pairs += dpt(f"{theirs}.{name}", f"{ours}.{ours_too}.body")
    return tuple(pairs)


def head_aliases(official: str = "") -> Pairs:
    """The second names of four weights in every DPT."""
    heads = [f"{official}downstream_head{side}.{name}" for side in (1, 2) for name in ("dpt", *FEATURES)]
    return tuple(alias for head in heads for alias in dpt_aliases(head))


KEYMAP = KeyMap(
    pairs=(*croco_encoder(), *cross_decoder(), *head_pairs()),
    aliases=head_aliases(),
    missing=("decoder.mask_token",),
    copies=(("dec_blocks2.", "dec_blocks."),),
)


def sizes(state: State, preset: PairConfig) -> dict[str, Any]:
    """Fields that the shapes decide; the taps are where DUSt3R's rule puts them.

    Raises UserError when a head that the name promises is missing.
    """
    promised = [*(["descriptors"] if preset.descriptor_dim else []), *(name for name, _ in preset.feature_heads)]
    for name in promised:
        if not any(key.startswith(f"heads.0.{name}.") for key in state):
            raise UserError(f"it has no head for {name}")
    shapes = decoder_sizes(state, preset)
    depth, kind = shapes["decoder_depth"], "heads.0.pointmap.dpt"
    features = [name for name in FEATURES.values() if f"heads.0.{name}.body.predict.weight" in state]
    shapes |= {
        "taps": quarter_taps(depth),
        "head": "dpt" if f"{kind}.narrow.weight" in state else "linear",
        "descriptor_dim": 0,
        "feature_heads": tuple((n, state[f"heads.0.{n}.body.predict.weight"].shape[0]) for n in features),
    }
    if shapes["head"] == "dpt":
        spare = f"{kind}.merge.3.skip.conv1.weight" in state
        shapes |= {**dpt_sizes(state, kind), "head_spare_unit": spare}
    mlp = "heads.0.descriptors.body.map"
    if f"{mlp}.fc2.weight" in state:
        channels = state[f"{mlp}.fc2.weight"].shape[0] // shapes["encoder"]["patch_size"] ** 2
        hidden, dim = state[f"{mlp}.fc1.weight"].shape
        shapes |= {"descriptor_dim": channels - 1, "descriptor_hidden": hidden / dim}
    return shapes


def says(about: Mapping[str, Any], preset: PairConfig) -> dict[str, Any]:
    """The constructor call in the training arguments of naver's files, or a Hugging Face configuration."""
    text = getattr(about.get("args"), "model", None)
    if isinstance(text, str):
        return model_fields(parse(text))
    config = about.get("config")
    if isinstance(config, Mapping) and "enc_embed_dim" in config:
        return model_fields(Call(CONSTRUCTORS[0], (), _words(config)))
    return {}


def _words(config: Mapping[str, Any]) -> dict[str, Any]:
    """A Hugging Face configuration as constructor words: JSON has lists and no infinity."""
    numbers = {"inf": math.inf, "-inf": -math.inf}
    words = {}
    for word, value in config.items():
        if isinstance(value, list):
            value = tuple(numbers.get(v, v) if isinstance(v, str) else v for v in value)
        words[word] = value
    return words


def model_fields(call: Call) -> dict[str, Any]:
    """Configuration fields that a constructor call states. Raises UserError for a layout that is not built."""
    if call.name not in CONSTRUCTORS or call.arguments:
        raise UserError(f"the file's model is a {call.name}; a pair model is one of {', '.join(CONSTRUCTORS)}")
    words = dict(call.keywords)
    head, output = words.pop("head_type", "linear"), words.pop("output_mode", "pts3d")
    fields: dict[str, Any] = {"head": "linear" if head == "linear" else "dpt"}
    if (head, output.startswith("pts3d+desc")) not in (("linear", False), ("dpt", False), ("catmlp+dpt", True)):
        raise UserError(f"head_type={head!r} with output_mode={output!r} is not built")
    own = words.pop("desc_conf_mode", CONF_MODE)
    if own[0] != "exp" or own[2] != math.inf:
        raise UserError(f"the file's constructor says desc_conf_mode={own!r}; only ('exp', least, inf) is built")
    if output != "pts3d":
        fields |= {"descriptor_dim": int(output.removeprefix("pts3d+desc")), "descriptor_floor": float(own[1])}
        words.setdefault("two_confs", False)
    return fields | stated(words, croco.FIELDS, BUILT, silent=croco.SILENT)


FAMILIES.add("pair")(
    Family(
        network=PairReconstructor,
        config=PairConfig,
        presets={
            "dust3r-vitl16-224-linear": partial(network.dust3r, "linear", size=224),
            "dust3r-vitl16-512-linear": partial(network.dust3r, "linear"),
            "dust3r-vitl16-512-dpt": network.dust3r,
            "mast3r-vitl16": network.mast3r,
            "sab3r-c": partial(network.sab3r, ("clip", 512)),
            "sab3r-cd": partial(network.sab3r, ("clip", 512), ("dino", 384)),
        },
        keymap=KEYMAP,
        debug=network.debug,
        sizes=sizes,
        says=says,
        cards=__name__,
    )
)
