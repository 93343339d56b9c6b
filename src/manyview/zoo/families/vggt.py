"""VGGT-1B, whose track head is carried through unused."""

from __future__ import annotations

from typing import Any

from manyview.errors import UserError
from manyview.models import vggt
from manyview.models.vggt import PATCH_EMBEDS, Vggt, VggtConfig
from manyview.zoo.family import FAMILIES, Family, State, count, encoder_sizes
from manyview.zoo.keymaps import KeyMap, Pairs


def dense(official: str, ours: str) -> Pairs:
    """A dense head."""
    scratch, dpt = f"{official}.scratch", f"{ours}.dpt"
    pairs = [(f"{official}.norm.", f"{ours}.norm.")]
    for level in range(4):
        merge, published = f"{dpt}.merge.{level}", f"{scratch}.refinenet{level + 1}"
        pairs += [
            (f"{official}.projects.{level}.", f"{dpt}.project.{level}."),
            (f"{official}.resize_layers.{level}.", f"{dpt}.resize.{level}."),
            (f"{scratch}.layer{level + 1}_rn.", f"{dpt}.reduce.{level}."),
            (f"{published}.resConfUnit1.", f"{merge}.skip."),
            (f"{published}.resConfUnit2.", f"{merge}.refine."),
            (f"{published}.out_conv.", f"{merge}.out."),
        ]
    last = (("output_conv1", "narrow"), ("output_conv2.0", "smooth"), ("output_conv2.2", "predict"))
    return (*pairs, *((f"{scratch}.{theirs}.", f"{dpt}.{name}.") for theirs, name in last))


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
        *dense("depth_head", "depth"),
        *dense("point_head", "points"),
    ),
    carried=("track_head.",),
)


def sizes(state: State, preset: VggtConfig) -> dict[str, Any]:
    """Raises UserError when the encoder is none of those that are built."""
    encoder = encoder_sizes(state, preset)
    known = {(dim, depth, registers): name for name, (dim, depth, _, registers) in PATCH_EMBEDS.items()}
    shape = (encoder["dim"], encoder["depth"], encoder["registers"])
    if shape not in known:
        raise UserError(
            f"its encoder is {shape[0]} wide and {shape[1]} deep with {shape[2]} registers, and we know "
            f"{', '.join(known.values())}"
        )
    head = state["camera.token_norm.weight"].shape[0] // 2
    query = state["aggregator.frame.0.attn.q_norm.weight"].shape[0]
    return {
        **encoder,
        "dim": head,
        "depth": (depth := count(state, r"aggregator\.frame\.(\d+)\.")),
        "heads": head // query,
        "patch_embed": known[shape],
        "registers": state["register_token"].shape[2],
        "image_size": encoder["positions"] * encoder["patch_size"],
        "taps": preset.taps if depth == preset.depth else tuple(depth * (i + 1) // 4 - 1 for i in range(4)),
        "camera_depth": count(state, r"camera\.trunk\.(\d+)\."),
        "head_layer_dims": tuple(state[f"depth.dpt.project.{i}.weight"].shape[0] for i in range(4)),
        "head_dim": state["depth.dpt.narrow.weight"].shape[1],
        "head_last_dim": state["depth.dpt.smooth.weight"].shape[0],
    }


FAMILIES.add("vggt")(
    Family(
        model=Vggt,
        config=VggtConfig,
        presets={"vggt-1b": vggt.vggt},
        keymap=KEYMAP,
        debug=vggt.debug,
        sizes=sizes,
    )
)
