"""Solid models: parts (boxes, balls, truncated cones) in an object's own frame, built from the rows of the catalogue.

An object stands on z = 0 with the middle of its footprint at the origin, its front towards -y, lengths in metres.

A model of the catalogue is a list of rows, each a mapping; values are formulas (see formulas.py):

    height: 0.7 to 0.8                      gives a value a name
    box: [x, y, z, width, depth, height, material]     a box about its middle
    ball: [x, y, z, width, depth, height, material]    an ellipsoid
    post: [x, y, low, high, radius, material]          an upright cylinder
    rod: [x, y, z, to x, to y, to z, radius, material] a cylinder between two points
    carries: [x, y, z, width, depth]        a level rectangle on which smaller things may stand
    use: name                               the rows of another model; what that takes are this row's other entries
    do: rows

Parts may have `end_radius` (of a cone), `turn: {x, y, z}` (radians), `shift` (along the turned axes), `label` (another
class than the object's), `shadow: false`; what carries may have `room` above it. Any of these rows is done only `when`
a formula says so (`else` has the rows for otherwise), and once for every value of `each: {name: values}` (a list, or
how many from 0; several names are nested), or again and again `while` a formula says so. The first row may name the
`class`, where that is not the model's own name. A model with parameters, `name(a, b)`, serves `use` and the room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from random import Random
from typing import Any

import numpy as np

from manyview.data.synthetic.formulas import Formula, Names, formula, naming, read_catalogue
from manyview.data.synthetic.materials import Material
from manyview.data.synthetic.raycast import BALL, BOX, CONE
from manyview.errors import UserError
from manyview.registry import did_you_mean

FILES = ("furniture.yaml", "belongings.yaml", "fixtures.yaml")
STRUCTURE = ("wall", "floor", "ceiling", "door", "window", "curtain", "picture", "rug", "radiator")
FURNITURE = (
    *("table", "chair", "sofa", "bed", "cabinet", "wardrobe", "bookshelf", "stool"),
    *("lamp", "plant", "tv", "fridge", "stove", "bin", "box", "suitcase"),
)
SMALL = (
    *("mug", "bottle", "bowl", "book", "ball", "vase"),
    *("laptop", "pillow", "clock", "fruit", "can", "teapot"),
)
CLASSES: tuple[str, ...] = STRUCTURE + FURNITURE + SMALL  # a label is an index into this tuple

Corner = tuple[float, float, float]
Row = Callable[["Model", Names, Random], None]


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
    """A model of the catalogue, ready to be built."""

    label: str
    takes: tuple[str, ...] | None  # parameters; None of an object that is complete by itself
    rows: list[Row]

    def follow(self, model: Model, names: Names, rng: Random) -> None:
        if names.keys() != set(self.takes or ()):
            raise TypeError(f"a {self.label} takes {self.takes}, not {tuple(names)}")
        for row in self.rows:
            row(model, names, rng)


def build(name: str, rng: Random, **given: Any) -> Model:
    """Draw a model of the catalogue; `given` are the values of its parameters, if it has some."""
    plan = _plan(name)
    model = Model(plan.label)
    plan.follow(model, given, rng)
    return model


def object_names() -> list[str]:
    """Of the models that are built without parameters."""
    return sorted(name for name, plan in _plans().items() if plan.takes is None)


def _plan(name: str) -> Plan:
    if name not in _plans():
        raise UserError(f"no object class {name!r}; {did_you_mean(name, _plans())}")
    return _plans()[name]


@cache
def _plans() -> dict[str, Plan]:
    """Every model of the catalogue. Raises ValueError, which says where, when it is not well written."""
    plans = {}
    for file in FILES:
        for title, rows in read_catalogue(file).items():
            name, _, parameters = title.removesuffix(")").partition("(")
            takes = tuple(filter(None, parameters.split(", "))) if "(" in title else None
            label = rows.pop(0)["class"] if "class" in rows[0] else name
            try:
                plans[name] = Plan(label, takes, [_row(row) for row in rows])
            except (ValueError, KeyError) as error:
                raise ValueError(f"{file}, {title}: {error}") from error
    return plans


def _row(entries: dict[str, Any]) -> Row:
    """One row of a model, its conditions and repetitions around what it does."""
    entries = dict(entries)
    frame = {word: entries.pop(word) for word in ("when", "else", "each", "while") if word in entries}
    verb = next((word for word in _VERBS if word in entries), None)
    row = _VERBS[verb](entries.pop(verb), entries) if verb else _named(entries)
    for target, values in reversed(frame.get("each", {}).items()):
        row = _repeated(row, target, formula(values))
    if "while" in frame:
        row = _while(formula(frame["while"]), row)
    if "when" in frame:
        row = _either(formula(frame["when"]), row, _together(frame.get("else", []), {}))
    return row


def _named(entries: dict[str, Any]) -> Row:
    steps = [(naming(target), formula(text)) for target, text in entries.items()]

    def name_all(model: Model, names: Names, rng: Random) -> None:
        for name, value in steps:
            name(names, value(names, rng))

    return name_all


def _repeated(row: Row, target: str, values: Formula) -> Row:
    name = naming(target)

    def repeat(model: Model, names: Names, rng: Random) -> None:
        several = values(names, rng)
        items: Iterable[Any] = range(several) if isinstance(several, int) else several
        for item in items:
            name(names, item)
            row(model, names, rng)

    return repeat


def _while(condition: Formula, row: Row) -> Row:
    def repeat(model: Model, names: Names, rng: Random) -> None:
        while condition(names, rng):
            row(model, names, rng)

    return repeat


def _either(condition: Formula, row: Row, otherwise: Row) -> Row:
    def choose(model: Model, names: Names, rng: Random) -> None:
        (row if condition(names, rng) else otherwise)(model, names, rng)

    return choose


def _together(rows: list[dict[str, Any]], options: dict[str, Any]) -> Row:
    _nothing_else(options)
    steps = [_row(row) for row in rows]

    def follow(model: Model, names: Names, rng: Random) -> None:
        for step in steps:
            step(model, names, rng)

    return follow


def _use(name: str, options: dict[str, Any]) -> Row:
    given = {key: formula(text) for key, text in options.items()}

    def follow(model: Model, names: Names, rng: Random) -> None:
        _plan(name).follow(model, {key: value(names, rng) for key, value in given.items()}, rng)

    return follow


def _carries(columns: list[Any], options: dict[str, Any]) -> Row:
    values, room = formula(columns), formula(options.pop("room", math.inf))
    _nothing_else(options)

    def carry(model: Model, names: Names, rng: Random) -> None:
        x, y, z, width, depth = values(names, rng)
        model.tops.append(Top(x, y, z, width, depth, room(names, rng)))

    return carry


def _block(kind: int) -> Callable[[list[Any], dict[str, Any]], Row]:
    """A box or a ball of full size; `turn` rotates it about its middle, `shift` moves it along its turned axes."""

    def read(columns: list[Any], options: dict[str, Any]) -> Row:
        values = formula(columns)
        label, shadow, shift = (
            options.pop("label", None),
            options.pop("shadow", True),
            formula(options.pop("shift", 0)),
        )
        angles = {axis: formula(text) for axis, text in options.pop("turn", {}).items()}
        _nothing_else(options)

        def add(model: Model, names: Names, rng: Random) -> None:
            x, y, z, width, depth, height, material = values(names, rng)
            matrix = np.array(
                [[width / 2, 0, 0, x], [0, depth / 2, 0, y], [0, 0, height / 2, z]], dtype=np.float64
            )
            if angles:
                turn = turned(**{axis: angle(names, rng) for axis, angle in angles.items()})
                matrix[:, :3] = turn * (np.asarray([width, depth, height]) / 2)
                moved = shift(names, rng)
                if moved:
                    matrix[:, 3] += turn @ moved
            model.parts.append(Part(kind, matrix, material, label=label, shadow=shadow))

        return add

    return read


def _rod(columns: list[Any], options: dict[str, Any]) -> Row:
    """A capped cylinder or truncated cone between two points."""
    values, end_radius, shadow = (
        formula(columns),
        options.pop("end_radius", None),
        options.pop("shadow", True),
    )
    end = None if end_radius is None else formula(end_radius)
    _nothing_else(options)

    def add(model: Model, names: Names, rng: Random) -> None:
        *points, radius, material = values(names, rng)
        radii = (radius, radius if end is None else end(names, rng))
        model.parts.append(_cone(points[:3], points[3:], radii, material, shadow))

    return add


def _post(columns: list[Any], options: dict[str, Any]) -> Row:
    x, y, low, high, radius, material = columns
    return _rod([x, y, low, x, y, high, radius, material], options)


def _nothing_else(options: dict[str, Any]) -> None:
    if options:
        raise ValueError(f"what are {', '.join(options)} for?")


_VERBS: dict[str, Callable[[Any, dict[str, Any]], Row]] = {
    "box": _block(BOX),
    "ball": _block(BALL),
    "post": _post,
    "rod": _rod,
    "carries": _carries,
    "use": _use,
    "do": _together,
}


def _cone(
    start: list[float], end: list[float], radii: tuple[float, float], material: Material, shadow: bool
) -> Part:
    widest = max(radii)
    axis = [(e - s) / 2 for s, e in zip(start, end)]
    length = math.sqrt(sum(a * a for a in axis))
    across, aside = _perpendicular([a / length for a in axis])
    rows = [[across[k] * widest, aside[k] * widest, axis[k], (start[k] + end[k]) / 2] for k in range(3)]
    bottom, top = (max(radius / widest, 1e-3) for radius in radii)
    return Part(CONE, np.array(rows), material, (bottom, top), shadow=shadow)


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
