"""Solid models: parts (boxes, balls, truncated cones) in an object's own frame, and the registry of object classes.

An object stands on z = 0 with the middle of its footprint at the origin, its front towards -y, lengths in metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from manyview.data.synthetic.materials import Material
from manyview.data.synthetic.raycast import BALL, BOX, CONE
from manyview.registry import Registry

Point = Sequence[float]


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
    """An object being built: its class, its parts, and the surfaces that carry others."""

    name: str
    parts: list[Part] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)

    def box(
        self,
        middle: Point,
        size: Point,
        material: Material,
        *,
        turn: np.ndarray | None = None,
        label: str | None = None,
        shadow: bool = True,
    ) -> None:
        """A box of full `size`; `turn` (3, 3) rotates it about its middle."""
        self._add(BOX, middle, size, material, turn, label=label, shadow=shadow)

    def ball(
        self,
        middle: Point,
        size: Point,
        material: Material,
        *,
        turn: np.ndarray | None = None,
        label: str | None = None,
        shadow: bool = True,
    ) -> None:
        """An ellipsoid of full `size`."""
        self._add(BALL, middle, size, material, turn, label=label, shadow=shadow)

    def rod(
        self,
        start: Point,
        end: Point,
        radius: float,
        material: Material,
        *,
        end_radius: float | None = None,
        label: str | None = None,
        shadow: bool = True,
    ) -> None:
        """A capped cylinder or truncated cone between two points."""
        end_radius = radius if end_radius is None else end_radius
        widest = max(radius, end_radius)
        axis = [(e - s) / 2 for s, e in zip(start, end)]
        length = math.sqrt(sum(a * a for a in axis))
        across, aside = _perpendicular([a / length for a in axis])
        matrix = np.empty((3, 4))
        for row in range(3):
            matrix[row] = across[row] * widest, aside[row] * widest, axis[row], (start[row] + end[row]) / 2
        radii = (max(radius / widest, 1e-3), max(end_radius / widest, 1e-3))
        self.parts.append(Part(CONE, matrix, material, radii, label, shadow))

    def _add(
        self,
        kind: int,
        middle: Point,
        size: Point,
        material: Material,
        turn: np.ndarray | None,
        *,
        label: str | None,
        shadow: bool,
    ) -> None:
        matrix = np.zeros((3, 4))
        matrix[:, 3] = middle
        if turn is None:
            matrix[0, 0], matrix[1, 1], matrix[2, 2] = size[0] / 2, size[1] / 2, size[2] / 2
        else:
            matrix[:, :3] = turn * (np.asarray(size) / 2)
        self.parts.append(Part(kind, matrix, material, label=label, shadow=shadow))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner of the object's axis-aligned box, (3,) each."""
        matrices = np.stack([part.matrix for part in self.parts])
        reach = np.abs(matrices[:, :, :3]).sum(2)
        round_parts = np.array([part.kind == BALL for part in self.parts])
        reach[round_parts] = np.sqrt((matrices[round_parts, :, :3] ** 2).sum(2))
        return (matrices[:, :, 3] - reach).min(0), (matrices[:, :, 3] + reach).max(0)


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


STRUCTURE = ("wall", "floor", "ceiling", "door", "window", "curtain", "picture", "rug", "radiator")
FURNITURE = (
    "table", "chair", "sofa", "bed", "cabinet", "wardrobe", "bookshelf", "stool", "lamp", "plant", "tv", "fridge",
    "stove", "bin", "box", "suitcase",
)  # fmt: skip
SMALL = (
    "mug", "bottle", "bowl", "book", "ball", "vase", "laptop", "pillow", "clock", "fruit", "can", "teapot",
)  # fmt: skip
CLASSES: tuple[str, ...] = STRUCTURE + FURNITURE + SMALL  # a label is an index into this tuple

MODELS: Registry[Callable[[Random], Model]] = Registry("object class")
