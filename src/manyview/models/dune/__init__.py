"""DUNE: the encoder with its projectors, as published in five files."""

from __future__ import annotations

from functools import partial
from typing import Any

from manyview.models.dune.network import Dune, DuneConfig, debug, dune
from manyview.models.family import FAMILIES, Family, State, encoder_sizes
from manyview.models.keymaps import KeyMap, nested_encoder

# Our names of the teachers and the published ones.
TEACHERS = {"dinov2": "dino2reg_vitlarge_14", "mast3r": "mast3r_vitlarge_16", "multihmr": "multihmr_vitlarge_14_672"}

KEYMAP = KeyMap(
    pairs=(
        *nested_encoder("encoder"),
        *(
            pair
            for name, full in TEACHERS.items()
            for pair in (
                (f"projectors.{full}.blocks.0.", f"projectors.{name}.block."),
                (f"projectors.{full}.linear.", f"projectors.{name}.linear."),
                (f"teacher_norms.{full}.normalizers.", f"statistics.{name}."),
            )
        ),
    )
)


def sizes(state: State, preset: DuneConfig) -> dict[str, Any]:
    teachers = tuple(name for name in TEACHERS if f"projectors.{name}.linear.weight" in state)
    widths = [state[f"projectors.{name}.linear.weight"].shape[0] for name in teachers[:1]]
    return {
        "encoder": encoder_sizes(state, preset.encoder),
        "teachers": teachers,
        "teacher_dim": widths[0] if widths else preset.teacher_dim,
        "cls_teachers": tuple(name for name in teachers if f"statistics.{name}.cls.mean" in state),
    }


FAMILIES.add("dune")(
    Family(
        network=Dune,
        config=DuneConfig,
        presets={
            "dune-vits14-336": partial(dune, "s", 336),
            "dune-vits14-448": partial(dune, "s", 448),
            "dune-vitb14-336": partial(dune, "b", 336),
            "dune-vitb14-448": partial(dune, "b", 448),
            "dune-vitb14-448-paper": partial(dune, "b", 448),
        },
        keymap=KEYMAP,
        debug=debug,
        sizes=sizes,
        cards=__name__,
    )
)
