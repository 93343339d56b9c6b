"""FeatUp's upsamplers for MaskCLIP and DINOv2: a Lightning file that also holds what they were trained with."""

from __future__ import annotations

from functools import partial
from typing import Any

from manyview.models.family import FAMILIES, Family, State
from manyview.models.featup.network import STAGES, FeatupConfig, Upsampler, debug
from manyview.models.keymaps import KeyMap

KEYMAP = KeyMap(
    pairs=(
        *((f"up{stage + 1}.", f"stages.{stage}.") for stage in range(STAGES)),
        ("fixup_proj.", "correct."),
        ("norm.", "norm."),
    ),
    # The frozen encoder, and what only the training needed.
    ignored=("model.", "scale_net.", "downsampler."),
)


def sizes(state: State, preset: FeatupConfig) -> dict[str, Any]:
    window = state["stages.0.fixup_proj.3.weight"].shape[0]
    return {
        "dim": state["correct.1.weight"].shape[0],
        "channel_norm": "norm.weight" in state,
        "key_dim": state["stages.0.range_proj.3.weight"].shape[0],
        "radius": round(window**0.5) // 2,
    }


FAMILIES.add("featup")(
    Family(
        network=Upsampler,
        config=FeatupConfig,
        presets={
            "featup-jbu-maskclip": FeatupConfig,
            "featup-jbu-dinov2": partial(FeatupConfig, dim=384, channel_norm=True),
        },
        keymap=KEYMAP,
        debug=debug,
        sizes=sizes,
        cards=__name__,
        prefixes=("upsampler.", "model.1."),  # the stack, and the norm between encoder and stack
    )
)
