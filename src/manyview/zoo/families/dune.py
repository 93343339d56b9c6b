"""DUNE: the encoder with its projectors, as published in five files."""

from __future__ import annotations

from functools import partial
from typing import Any

from manyview.models import dune
from manyview.models.dune import Dune, DuneConfig
from manyview.zoo.family import FAMILIES, Family, State, encoder_sizes
from manyview.zoo.keymaps import KeyMap, nested_encoder

# Our names of the teachers and the published ones.
TEACHERS = {
    "dinov2": "dino2reg_vitlarge_14",
    "mast3r": "mast3r_vitlarge_16",
    "multihmr": "multihmr_vitlarge_14_672",
}

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
    ),
)


def sizes(state: State, preset: DuneConfig) -> dict[str, Any]:
    teachers = tuple(name for name in TEACHERS if f"projectors.{name}.linear.weight" in state)
    found = {**encoder_sizes(state, preset), "teachers": teachers}
    if teachers:
        found["teacher_dim"] = state[f"projectors.{teachers[0]}.linear.weight"].shape[0]
    return {
        **found,
        "cls_teachers": tuple(name for name in teachers if f"statistics.{name}.cls.mean" in state),
    }


FAMILIES.add("dune")(
    Family(
        model=Dune,
        config=DuneConfig,
        presets={
            "dune-vits14-336": partial(dune.dune, "s", 336),
            "dune-vits14-448": partial(dune.dune, "s", 448),
            "dune-vitb14-336": partial(dune.dune, "b", 336),
            "dune-vitb14-448": partial(dune.dune, "b", 448),
            "dune-vitb14-448-paper": partial(dune.dune, "b", 448),
        },
        keymap=KEYMAP,
        debug=dune.debug,
        sizes=sizes,
    )
)
