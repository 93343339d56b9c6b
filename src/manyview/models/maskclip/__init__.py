"""MaskCLIP: OpenAI's CLIP ViT-B/16, from the official names or from those of the transformers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manyview.models.family import FAMILIES, Family, State, count, encoder_sizes, heads_of
from manyview.models.keymaps import KeyMap
from manyview.models.maskclip.network import Maskclip, MaskclipConfig, debug

# Names of weights: OpenAI's, those of the transformers library (where q, k and v are fused before), ours.
NAMES = (
    ("visual.class_embedding", "vision_model.embeddings.class_embedding", "encoder.cls_token"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight", "encoder.pos_embed"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding.", "encoder.patch_embed.proj."),
    ("visual.ln_pre.", "vision_model.pre_layrnorm.", "encoder.pre_norm."),
    ("visual.ln_post.", "vision_model.post_layernorm.", "encoder.norm."),
    ("visual.proj", "visual_projection.weight", "projection"),
    ("token_embedding.", "text_model.embeddings.token_embedding.", "text.embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight", "text.positions"),
    ("ln_final.", "text_model.final_layer_norm.", "text.norm."),
    ("text_projection", "text_projection.weight", "text.projection"),
    ("logit_scale", "logit_scale", "logit_scale"),
    *(
        tuple(f"{tower}.{{}}.{name}" for tower, name in zip(towers, names, strict=True))
        for towers in (
            ("visual.transformer.resblocks", "vision_model.encoder.layers", "encoder.blocks"),
            ("transformer.resblocks", "text_model.encoder.layers", "text.blocks"),
        )
        for names in (
            ("ln_1.", "layer_norm1.", "norm1."),
            ("attn.in_proj_", "self_attn.in_proj_", "attn.qkv."),
            ("attn.out_proj.", "self_attn.out_proj.", "attn.proj."),
            ("ln_2.", "layer_norm2.", "norm2."),
            ("mlp.c_fc.", "mlp.fc1.", "mlp.fc1."),
            ("mlp.c_proj.", "mlp.fc2.", "mlp.fc2."),
        )
    ),
)
KEYMAP = KeyMap(
    pairs=tuple((official, ours) for official, _, ours in NAMES),
    ignored=("input_resolution", "context_length", "vocab_size"),  # numbers beside the weights
)
TRANSFORMERS = KeyMap(
    pairs=tuple((theirs, official) for official, theirs, _ in NAMES),
    ignored=("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"),
)
# Official name -> the leading axes of one that our encoder's tensor has and the file's has not.
UNIT_AXES = {"visual.class_embedding": 2, "visual.positional_embedding": 1}


def adapt(state: State) -> dict[str, Tensor]:
    """Either layout of a file to the official names, in our shapes."""
    if any(key.startswith("vision_model.") for key in state):
        state = _from_transformers(state)
    return {key: tensor[(None,) * UNIT_AXES[key]] if key in UNIT_AXES else tensor for key, tensor in state.items()}


def restore(state: State) -> dict[str, Tensor]:
    """Official names in our shapes to the shapes of the official file."""
    return {
        key: tensor.reshape(tensor.shape[UNIT_AXES[key] :]) if key in UNIT_AXES else tensor
        for key, tensor in state.items()
    }


def _from_transformers(state: State) -> dict[str, Tensor]:
    """Queries, keys and values fused, projections turned round, names the official ones."""
    fused = dict(state)
    for key in [key for key in state if ".self_attn.q_proj." in key]:
        parts = [fused.pop(key.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        fused[key.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    for key in ("visual_projection.weight", "text_projection.weight"):
        fused[key] = fused[key].T
    return TRANSFORMERS.to_ours(fused)


def sizes(state: State, preset: MaskclipConfig) -> dict[str, Any]:
    (vocabulary, dim), context = state["text.embedding.weight"].shape, len(state["text.positions"])
    return {
        "encoder": encoder_sizes(state, preset.encoder),
        "embed_dim": state["projection"].shape[1],
        "text_dim": dim,
        "text_depth": count(state, r"text\.blocks\.(\d+)\."),
        "text_heads": heads_of(dim, preset.text_dim, preset.text_heads),
        "context": context,
        "vocabulary": vocabulary,
    }


FAMILIES.add("maskclip")(
    Family(
        network=Maskclip,
        config=MaskclipConfig,
        presets={"maskclip-vitb16": MaskclipConfig},
        keymap=KEYMAP,
        debug=debug,
        sizes=sizes,
        cards=__name__,
        adapt=adapt,
        restore=restore,
    )
)
