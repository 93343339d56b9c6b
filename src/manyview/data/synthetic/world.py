"""A furnished world being built: what stands where, what may stand beside it, and the tables a renderer reads.

The room is the box from (0, 0, 0) to (width, depth, height), z up, metres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyview.data.synthetic.materials import TEXTURES, Material
from manyview.data.synthetic.models import CLASSES, Model, Part, Top
from manyview.data.synthetic.raycast import BOX, Solids

Corner = tuple[float, float, float]

# Rows of the appearance table, and how many: see `World.appearance`. Those before "radii" are needed of every pixel.
_ROWS = {"transform": 12, "half": 3, "kind": 1, "a": 3, "texture": 1, "gloss": 1, "glow": 1}
_ROWS |= {"radii": 2, "b": 3, "scale": 1, "phase": 1, "grain": 1}
_STARTS = list(itertools.accumulate(_ROWS.values(), initial=0))
ROW = {name: slice(start, start + count) for (name, count), start in zip(_ROWS.items(), _STARTS)}
DENSE = ROW["radii"].start


@dataclass(frozen=True)
class Block:
    """An axis-aligned box that is taken: lowest and highest corner."""

    low: Corner
    high: Corner
    solid: bool = True  # a camera keeps away from it

    def meets(self, low: Corner, high: Corner, margin: float) -> bool:
        return all(self.low[a] - margin < high[a] and low[a] < self.high[a] + margin for a in range(3))


@dataclass(frozen=True)
class Placed(Block):
    """An object where it stands, with its tops in world coordinates (turned by `yaw`)."""

    name: str = ""
    tops: list[Top] = field(default_factory=list)
    yaw: float = 0.0

    @property
    def ahead(self) -> tuple[float, float]:
        """The direction in which it looks."""
        return math.sin(self.yaw), -math.cos(self.yaw)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.low[0] + self.high[0]) / 2, (self.low[1] + self.high[1]) / 2

    @property
    def reach(self) -> float:
        """From its middle to its front."""
        (x, y), low, high = self.ahead, self.low, self.high
        return abs(x) * (high[0] - low[0]) / 2 + abs(y) * (high[1] - low[1]) / 2


class Window(NamedTuple):
    """An opening that daylight comes through."""

    middle: Corner
    inwards: Corner  # direction into the room
    width: float
    height: float


@dataclass(frozen=True)
class Lighting:
    """A hanging lamp, daylight through at most one window, and the light that comes from everywhere."""

    lamp: Corner
    lamp_colour: Sequence[float]
    window: Window | None
    window_colour: Sequence[float]
    sun: Corner | None  # direction in which sunlight travels
    ambient: Sequence[float]
    exposure: float
    warmth: float
    contrast: float


class Standing(NamedTuple):
    """A part where it stands."""

    part: Part
    matrix: np.ndarray  # (3, 4): the unit primitive into the world
    label: int
    instance: int


@dataclass
class World:
    """The scene: parts with their class and instance, taken space, light, and where a camera may look."""

    size: Corner
    shell: list[Material]  # of the walls x = 0, x = width, y = 0, y = depth, then floor and ceiling
    kind: str = "room"
    blocks: list[Block] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    lighting: Lighting | None = None
    focus: list[Corner] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    photographs: Any = None  # what parts of the texture PHOTOGRAPH show: photographs.Photographs
    stage: tuple[Corner, Corner] | None = None  # where cameras go, if not anywhere
    parts: list[Standing] = field(default_factory=list)
    _next_instance: int = 7  # 1 to 6 are the shell's faces

    @property
    def reach(self) -> tuple[Corner, Corner]:
        """Lowest and highest corner of where cameras go."""
        return self.stage or ((0.0, 0.0, 0.0), self.size)

    def bounds_at(self, model: Model, at: Corner, yaw: float) -> tuple[Corner, Corner]:
        """Axis-aligned bounds of a model put down at `at` and turned by `yaw`."""
        low, high = model.bounds
        middle, half = ((low + high) / 2).tolist(), ((high - low) / 2).tolist()
        cosine, sine = math.cos(yaw), math.sin(yaw)
        x = at[0] + cosine * middle[0] - sine * middle[1]
        y = at[1] + sine * middle[0] + cosine * middle[1]
        reach_x = abs(cosine) * half[0] + abs(sine) * half[1]
        reach_y = abs(sine) * half[0] + abs(cosine) * half[1]
        bottom, top = at[2] + float(low[2]), at[2] + float(high[2])
        return (x - reach_x, y - reach_y, bottom), (x + reach_x, y + reach_y, top)

    def free(self, low: Corner, high: Corner, margin: float = 0.02) -> bool:
        """Whether a box lies in the room and touches nothing."""
        inside = all(low[a] >= -0.006 and high[a] <= self.size[a] + 0.006 for a in range(3))
        return inside and not any(block.meets(low, high, margin) for block in self.blocks)

    def put(self, model: Model, at: Corner, yaw: float = 0.0, *, block: bool = True, solid: bool = True) -> Placed:
        """Put a model down without asking; with `block`, nothing else may stand in its bounds afterwards."""
        cosine, sine = math.cos(yaw), math.sin(yaw)
        matrices = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ model.matrices
        matrices[:, :, 3] += at
        names = [part.label or model.name for part in model.parts]
        instances = {name: self._next_instance + number for number, name in enumerate(dict.fromkeys(names))}
        self._next_instance += len(instances)
        for part, matrix, name in zip(model.parts, matrices, names):
            self.parts.append(Standing(part, matrix, CLASSES.index(name), instances[name]))
        bounds, tops = self.bounds_at(model, at, yaw), []
        if block:
            self.blocks.append(Block(*bounds, solid))
        for top in model.tops:
            x, y = at[0] + cosine * top.x - sine * top.y, at[1] + sine * top.x + cosine * top.y
            tops.append(replace(top, x=x, y=y, z=at[2] + top.z))
        self.placed.append(Placed(*bounds, solid, model.name, tops, yaw))
        return self.placed[-1]

    def try_put(self, model: Model, at: Corner, yaw: float, *, margin: float = 0.02) -> Placed | None:
        low, high = self.bounds_at(model, at, yaw)
        return self.put(model, at, yaw) if self.free(low, high, margin) else None

    def solids(self, *, shadows: bool = False) -> Solids:
        """Geometry for the ray caster; with `shadows`, only what casts them (indices then differ)."""
        parts = [standing.part for standing in self.parts if standing.part.shadow or not shadows]
        matrices = self._matrices(shadows=shadows)
        kinds, radii = [part.kind for part in parts], [part.radii for part in parts]
        return Solids(
            kind=torch.tensor(kinds, dtype=torch.int64),
            world_from_object=torch.from_numpy(matrices).float(),
            object_from_world=torch.from_numpy(_inverse(matrices)).float(),
            radii=torch.tensor(radii, dtype=torch.float32).reshape(-1, 2),
            room=torch.tensor([(0.0, 0.0, 0.0), self.size], dtype=torch.float32),
        )

    def _matrices(self, *, shadows: bool = False) -> np.ndarray:
        chosen = [standing.matrix for standing in self.parts if standing.part.shadow or not shadows]
        return np.array(chosen).reshape(-1, 3, 4)

    def identities(self) -> tuple[Tensor, Tensor]:
        """Labels (P + 6,) and instances (P + 6,) by primitive index, the shell's faces last."""
        shell = [CLASSES.index(name) for name in ("wall", "wall", "wall", "wall", "floor", "ceiling")]
        labels = torch.tensor([standing.label for standing in self.parts] + shell, dtype=torch.uint8)
        instances = [standing.instance for standing in self.parts]
        return labels, torch.tensor([*instances, *range(1, 7)], dtype=torch.int16)

    def appearance(self) -> Tensor:
        """What shading needs of every primitive and shell face, by `ROW`: (rows, P + 6)."""
        matrices = np.concatenate([self._matrices(), _shell_matrices(np.array(self.size))])
        parts = [standing.part for standing in self.parts]
        materials = [part.material for part in parts] + self.shell
        half = np.sqrt((matrices[:, :, :3] ** 2).sum(1))
        values: dict[str, Any] = {
            "transform": _inverse(matrices),
            "half": half,
            "kind": [part.kind for part in parts] + [BOX] * 6,
            "texture": [_TEXTURE[material.texture] for material in materials],
            "radii": [part.radii for part in parts] + [(1.0, 1.0)] * 6,
            "grain": half.argmax(1),
        }
        for name in ("a", "b", "gloss", "glow", "scale", "phase"):
            values[name] = list(map(attrgetter(name), materials))
        table = [np.asarray(values[name], dtype=np.float32).reshape(len(matrices), -1) for name in ROW]
        return torch.from_numpy(np.concatenate(table, 1).T.copy())


PHOTOGRAPH = "photograph"
"""The texture of a surface that shows one of the world's photographs."""
_TEXTURE = {name: number for number, name in enumerate((*TEXTURES, PHOTOGRAPH))}


def _inverse(matrices: np.ndarray) -> np.ndarray:
    """Inverse of affine maps (N, 3, 4)."""
    linear = np.linalg.inv(matrices[:, :, :3])
    return np.concatenate([linear, -linear @ matrices[:, :, 3:]], 2)


def _shell_matrices(size: np.ndarray) -> np.ndarray:
    """The room's faces as thick boxes just outside it, so that they shade like any other box: (6, 3, 4)."""
    matrices, own = np.zeros((3, 2, 3, 4)), np.eye(3, dtype=bool)  # axis, side, and the box
    matrices[..., :3] = (np.where(own, 0.1, size / 2)[:, :, None] * np.eye(3))[:, None]
    matrices[:, 0, :, 3] = np.where(own, -0.1, size / 2)
    matrices[:, 1, :, 3] = np.where(own, size + 0.1, size / 2)
    return matrices.reshape(6, 3, 4)
