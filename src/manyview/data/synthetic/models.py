"""Solid models: parts (boxes, balls, truncated cones) in an object's own frame, built from the rows of the catalogue.

An object stands on z = 0 with the middle of its footprint at the origin, its front towards -y, lengths in metres.

A model of the catalogue is a list of rows (see rows.py), which do this:

    box: [x, y, z, width, depth, height, material]      a box about its middle
    ball: [x, y, z, width, depth, height, material]     an ellipsoid
    post: [x, y, low, high, radius, material]           an upright cylinder
    rod: [x, y, z, to x, to y, to z, radius, material]  a cylinder between two points
    carries: [x, y, z, width, depth]                    a level rectangle on which smaller things may stand
    use: name                                           the rows of another model, its parameters beside it

Boxes and balls may have `turn: {x, y, z}` (radians), `shift` (along the turned axes), and `label` (another class than
the object's); cylinders `end_radius`, which makes them cones; all of these `shadow: false`; what carries may have
`room` above it. The first row may name the `class`, where that is not the model's own name. A model with parameters,
`name(a, b)`, is for `use` and for rooms.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from random import Random
from typing import Any

import numpy as np

from manyview.data.synthetic.formulas import Names, read_catalogue
from manyview.data.synthetic.materials import Material
from manyview.data.synthetic.raycast import BALL, BOX, CONE
from manyview.data.synthetic.rows import COMMON, Row, Word, Work, read_rows
from manyview.errors import UserError
from manyview.registry import did_you_mean

FILES = ("furniture.yaml", "belongings.yaml", "fixtures.yaml", "worlds.yaml")
STRUCTURE = ("wall", "floor", "ceiling", "door", "window", "curtain", "picture", "rug", "radiator")
FURNITURE = (
    *("table", "chair", "sofa", "bed", "cabinet", "wardrobe", "bookshelf", "stool"),
    *("lamp", "plant", "tv", "fridge", "stove", "bin", "box", "suitcase"),
)
SMALL = (*("mug", "bottle", "bowl", "book", "ball", "vase"), *("laptop", "pillow", "clock", "fruit", "can", "teapot"))
CLASSES: tuple[str, ...] = STRUCTURE + FURNITURE + SMALL  # a label is an index into this tuple


@dataclass(frozen=True)
class Part:
    """One primitive: `matrix` (3, 4) takes the unit primitive into the object's frame."""

    kind: int
    matrix: np.ndarray
    material: Material
    radii: tuple[float, float] = (1.0, 1.0)
    label: str | None = None  # another class than the object's, e.g. the books of a bookshelf
    shadow: bool = True


@dataclass(frozen=True)
class Top:
    """A level rectangle on which smaller things may stand: its middle, width (x) and depth (y)."""

    x: float
    y: float
    z: float
    width: float
    depth: float
    room: float = math.inf  # free height above it


@dataclass
class Model:
    """An object: its class, its parts, and the surfaces that carry others."""

    name: str
    parts: list[Part] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)

    @cached_property
    def matrices(self) -> np.ndarray:
        """Of the finished object's parts: (N, 3, 4)."""
        return np.array([part.matrix for part in self.parts])

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner of the finished object's axis-aligned box, (3,) each."""
        matrices = self.matrices
        reach = np.abs(matrices[:, :, :3]).sum(2)
        round_parts = np.array([part.kind == BALL for part in self.parts])
        reach[round_parts] = np.sqrt((matrices[round_parts, :, :3] ** 2).sum(2))
        return (matrices[:, :, 3] - reach).min(0), (matrices[:, :, 3] + reach).max(0)


@dataclass(frozen=True)
class Plan:
    """A model of the catalogue."""

    label: str
    takes: tuple[str, ...] | None  # parameters; None of an object that is complete by itself
    rows: list[Row]

    def build(self, model: Model, given: Names, rng: Random) -> None:
        if given.keys() != set(self.takes or ()):
            raise TypeError(f"{self.label} takes {self.takes}, not {tuple(given)}")
        Work(model, _WORDS, given, rng).do(self.rows)


def build(name: str, rng: Random, **given: Any) -> Model:
    """Draw a model of the catalogue; `given` are the values of its parameters, if it has some."""
    plan = _plan(name)
    model = Model(plan.label)
    try:
        plan.build(model, given, rng)
    except (ValueError, KeyError) as error:
        error.add_note(f"in the catalogue's {name!r}")
        raise
    return model


def object_names() -> list[str]:
    """Of the models that are built without parameters."""
    return sorted(name for name, plan in plans().items() if plan.takes is None)


def _plan(name: str) -> Plan:
    if name not in plans():
        raise UserError(f"no object class {name!r}; {did_you_mean(name, plans())}")
    return plans()[name]


@cache
def plans() -> dict[str, Plan]:
    """Every model of the catalogue by name."""
    result = {}
    for title, rows in (item for file in FILES for item in read_catalogue(file).items()):
        name, _, parameters = title.removesuffix(")").partition("(")
        takes = tuple(filter(None, parameters.split(", "))) if "(" in title else None
        label = rows.pop(0)["class"] if "class" in rows[0] else name
        try:
            result[name] = Plan(label, takes, read_rows(rows, _WORDS))
        except ValueError as error:
            error.add_note(f"in the catalogue's {name!r}")
            raise
    return result


def _use(work: Work[Model], row: Row) -> None:
    given = {key: work.value(text) for key, text in row.items() if key not in COMMON | {"use"}}
    _plan(row["use"]).build(work.target, given, work.rng)


def _carries(work: Work[Model], row: Row) -> None:
    x, y, z, width, depth = work.value(row["carries"])
    work.target.tops.append(Top(x, y, z, width, depth, work.value(row.get("room", math.inf))))


def _box(work: Work[Model], row: Row) -> None:
    """A box or a ball of full size; `turn` rotates it about its middle, `shift` moves it along its turned axes."""
    kind = BOX if "box" in row else BALL
    x, y, z, width, depth, height, material = work.value(row["box" if kind == BOX else "ball"])
    matrix = np.array([[width / 2, 0, 0, x], [0, depth / 2, 0, y], [0, 0, height / 2, z]], dtype=np.float64)
    if "turn" in row:
        turn = turned(**{axis: work.value(angle) for axis, angle in row["turn"].items()})
        matrix[:, :3] = turn * (np.asarray([width, depth, height]) / 2)
        if "shift" in row:
            matrix[:, 3] += turn @ work.value(row["shift"])
    label, shadow = row.get("label"), row.get("shadow", True)
    work.target.parts.append(Part(kind, matrix, material, label=label, shadow=shadow))


def _post(work: Work[Model], row: Row) -> None:
    x, y, low, high, radius, material = work.value(row["post"])
    _add_cone(work, row, [x, y, low], [x, y, high], radius, material)


def _rod(work: Work[Model], row: Row) -> None:
    *ends, radius, material = work.value(row["rod"])
    _add_cone(work, row, ends[:3], ends[3:], radius, material)


def _add_cone(
    work: Work[Model], row: Row, start: list[float], end: list[float], radius: float, material: Material
) -> None:
    """A capped cylinder or truncated cone between two points."""
    radii = radius, work.value(row.get("end_radius", radius))
    widest = max(radii)
    axis = [(e - s) / 2 for s, e in zip(start, end)]
    length = math.sqrt(sum(a * a for a in axis))
    across, aside = _perpendicular([a / length for a in axis])
    matrix = [[across[k] * widest, aside[k] * widest, axis[k], (start[k] + end[k]) / 2] for k in range(3)]
    bottom, top = (max(radius / widest, 1e-3) for radius in radii)
    part = Part(CONE, np.array(matrix), material, (bottom, top), shadow=row.get("shadow", True))
    work.target.parts.append(part)


_OF_BOXES, _OF_RODS = {"turn", "shift", "label", "shadow"}, {"end_radius", "shadow"}
_WORDS = {
    "box": Word(_box, _OF_BOXES),
    "ball": Word(_box, _OF_BOXES),
    "post": Word(_post, _OF_RODS),
    "rod": Word(_rod, _OF_RODS),
    "carries": Word(_carries, {"room"}),
    "use": Word(_use, None),
}


def _perpendicular(axis: list[float]) -> tuple[list[float], list[float]]:
    """Two unit vectors that make a right-handed frame with `axis`."""
    x, y, z = axis
    if abs(z) > 0.999999:
        return [1.0, 0.0, 0.0], [0.0, math.copysign(1.0, z), 0.0]
    length = math.hypot(x, y)
    across = [-y / length, x / length, 0.0]
    aside = [y * across[2] - z * across[1], z * across[0] - x * across[2], x * across[1] - y * across[0]]
    return across, aside


def turned(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Rotation (3, 3): about x, then y, then z, radians."""
    cx, sx, cy, sy, cz, sz = math.cos(x), math.sin(x), math.cos(y), math.sin(y), math.cos(z), math.sin(z)
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )
