"""Which model a weights file looks like, by its names alone: for the error message when it is another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from manyview.config import to_dict
from manyview.errors import UserError
from manyview.models.family import FAMILIES, Family, lookup
from manyview.zoo.directory import unfilled
from manyview.zoo.reading import bare

# Share of a model's kinds of names, and of the file's, that must agree before we say anything.
ENOUGH = 0.6


def recognise(weights: Mapping[str, Tensor]) -> str | None:
    """The zoo name whose published layout the names fit best; None when none is near.

    Names are compared without their numbers; among models that differ only in size, shapes decide.
    """
    best: tuple[float, int, float, str] | None = None
    for family_name in FAMILIES.names():
        family = FAMILIES.get(family_name)
        names = {bare(key, family.prefixes): tensor for key, tensor in weights.items()}
        spare = (*family.keymap.ignored, *family.keymap.carried)
        kinds = {_kind(key) for key in names if not key.startswith(spare)}
        for arch in family.presets:
            expected = _expected(arch)
            likeness = len(kinds & expected) / max(1, len(kinds | expected))
            if likeness >= ENOUGH and (best is None or likeness >= best[0]):
                # Equally alike, the one that uses more of the file: a whole model, not its encoder.
                candidate = (likeness, len(expected), _fitting(family, arch, names), arch)
                best = candidate if best is None else max(best, candidate, key=lambda rated: rated[:3])
    return best[3] if best else None


def _kind(key: str) -> str:
    return re.sub(r"\d+", "#", key)


@cache
def _expected(arch: str) -> frozenset[str]:
    """Kinds of official names of a model, from a shrunken network without memory behind it."""
    family, preset = lookup(arch)
    state = unfilled(family, family.debug(preset)).state_dict()
    return frozenset(map(_kind, family.restore(family.keymap.to_official(state))))


def _fitting(family: Family, arch: str, names: Mapping[str, Tensor]) -> float:
    """Share of the configuration fields told by shapes that are those of a preset."""
    preset = lookup(arch)[1]
    try:
        sizes = _flat(family.sizes(family.keymap.to_ours(family.adapt(names)), preset))
    except (UserError, KeyError):
        return 0.0
    stated = _flat(to_dict(preset))
    return sum(stated.get(name) == value for name, value in sizes.items()) / max(1, len(sizes))


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a configuration by name, those of its encoder as `encoder.…`."""
    inner = fields.get("encoder", {})
    outer = {name: to_dict(value) for name, value in fields.items() if name != "encoder"}
    return outer | {f"encoder.{name}": to_dict(value) for name, value in inner.items()}
