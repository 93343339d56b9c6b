"""VGGT-1B, whose track head is carried through unused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyview.errors import UserError
from manyview.models.family import FAMILIES, Family, State, count, dpt_sizes, encoder_sizes
from manyview.models.keymaps import KeyMap, dpt
from manyview.models.vggt.network import Vggt, VggtConfig, debug
from manyview.models.vit import SIZES
from manyview.registry import did_you_mean

# Where its DPTs keep what DUSt3R's keep elsewhere.
LAYOUT = (
    "projects.{}.",
    "resize_layers.{}.",
    ("scratch.output_conv1.", "scratch.output_conv2.0.", "scratch.output_conv2.2."),
)
KEYMAP = KeyMap(
    pairs=(
        ("aggregator.patch_embed.", "encoder."),
        ("aggregator.camera_token", "camera_token"),
        ("aggregator.register_token", "register_token"),
        ("aggregator.frame_blocks.", "aggregator.frame."),
        ("aggregator.global_blocks.", "aggregator.everywhere."),
        ("camera_head.empty_pose_tokens", "camera.nothing_yet"),
        ("camera_head.token_norm.", "camera.token_norm."),
        ("camera_head.embed_pose.", "camera.embed."),
        ("camera_head.poseLN_modulation.1.", "camera.modulation."),
        ("camera_head.trunk.", "camera.trunk."),
        ("camera_head.trunk_norm.", "camera.norm."),
        ("camera_head.pose_branch.", "camera.branch."),
        ("depth_head.norm.", "depth.norm."),
        *dpt("depth_head", "depth.dpt", LAYOUT),
        ("point_head.norm.", "points.norm."),
        *dpt("point_head", "points.dpt", LAYOUT),
    ),
    carried=("track_head.",),
)


# Encoders that a `patch_embed` may name: those of the zoo's DINOv2, at VGGT's own position fitting.
PATCH_EMBEDS: dict[str, tuple[int, int, int, int]] = {
    f"dinov2-vit{size}14{suffix}": (*shape, registers)
    for size, shape in SIZES.items()
    for suffix, registers in (("", 0), ("-reg4", 4))
} | {"debug": (8, 2, 2, 2)}


def words(values: Mapping[str, Any]) -> dict[str, Any]:
    """`patch_embed` names the encoder; older directories have its other fields beside it. Raises UserError."""
    fields = dict(values)
    name = fields.pop("patch_embed", None)
    if name is None:
        return fields
    if name not in PATCH_EMBEDS:
        raise UserError(f"patch_embed is {name!r}; {did_you_mean(str(name), PATCH_EMBEDS)}")
    encoder = dict(zip(("dim", "depth", "heads", "registers"), PATCH_EMBEDS[name], strict=True))
    return {**fields, "encoder": {**encoder, **fields.get("encoder", {})}}


def sizes(state: State, preset: VggtConfig) -> dict[str, Any]:
    """Raises UserError when the encoder is none of those that are built."""
    encoder = encoder_sizes(state, preset.encoder)
    choices = {(dim, depth, registers): heads for dim, depth, heads, registers in PATCH_EMBEDS.values()}
    shape = (encoder["dim"], encoder["depth"], encoder["registers"])
    if shape not in choices:
        raise UserError(
            f"its encoder is {shape[0]} wide and {shape[1]} deep with {shape[2]} registers, and we know "
            f"{', '.join(PATCH_EMBEDS)}"
        )
    dim = state["camera.token_norm.weight"].shape[0] // 2
    depth = count(state, r"aggregator\.frame\.(\d+)\.")
    image_size = encoder["positions"] * encoder["patch_size"]
    return {
        "encoder": {**encoder, "heads": choices[shape], "image_size": image_size},
        "dim": dim,
        "depth": depth,
        "heads": dim // state["aggregator.frame.0.attn.q_norm.weight"].shape[0],
        "registers": state["register_token"].shape[2],
        "taps": preset.taps if depth == preset.depth else tuple(depth * (i + 1) // 4 - 1 for i in range(4)),
        "camera_depth": count(state, r"camera\.trunk\.(\d+)\."),
        **dpt_sizes(state, "depth.dpt"),
    }


FAMILIES.add("vggt")(
    Family(
        network=Vggt,
        config=VggtConfig,
        presets={"vggt-1b": VggtConfig},
        keymap=KEYMAP,
        debug=debug,
        sizes=sizes,
        words=words,
        cards=__name__,
    )
)
