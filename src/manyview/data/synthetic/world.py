"""A furnished world being built: what stands where, what may stand beside it, and the tables a renderer reads.

The room is the box from (0, 0, 0) to (width, depth, height), z up, metres.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from torch import Tensor

from manyview.data.synthetic.materials import TEXTURES, Colour, Material
from manyview.data.synthetic.models import CLASSES, Model, Part, Top
from manyview.data.synthetic.raycast import BOX, Solids

Corner = tuple[float, float, float]

# Rows of the appearance table: see `World.appearance`. The first DENSE are needed of every pixel.
_ROWS = {
    "transform": 12, "half": 3, "kind": 1, "a": 3, "texture": 1, "gloss": 1, "glow": 1,
    "radii": 2, "b": 3, "scale": 1, "phase": 1, "grain": 1,
}  # fmt: skip
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
        return all(
            self.low[axis] - margin < high[axis] and low[axis] < self.high[axis] + margin for axis in range(3)
        )


@dataclass(frozen=True)
class Placed:
    """An object where it stands: its bounds, its tops in world coordinates (turned by `yaw`)."""

    name: str
    low: Corner
    high: Corner
    tops: list[Top]
    yaw: float

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

    def touches(self, low: Corner, high: Corner) -> bool:
        return Block(self.low, self.high).meets(low, high, 0.004)


@dataclass(frozen=True)
class Lighting:
    """A hanging lamp, daylight through at most one window, and the light that comes from everywhere."""

    lamp: Corner
    lamp_colour: Colour
    window: tuple[Corner, Corner, float, float] | None  # middle, direction into the room, width, height
    window_colour: Colour
    sun: Corner | None  # direction in which sunlight travels
    ambient: Colour
    exposure: float = 0.5
    warmth: float = 0.0
    contrast: float = 1.0


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
    windows: list[tuple[Corner, Corner, float, float]] = field(default_factory=list)  # as in Lighting
    _parts: list[Part] = field(default_factory=list)
    _matrices: list[np.ndarray] = field(default_factory=list)
    _labels: list[int] = field(default_factory=list)
    _instances: list[int] = field(default_factory=list)
    _next_instance: int = 7  # 1 to 6 are the shell's faces

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

    def reserve(self, low: Corner, high: Corner, *, solid: bool = False) -> None:
        self.blocks.append(Block(low, high, solid))

    def put(
        self, model: Model, at: Corner, yaw: float = 0.0, *, block: bool = True, solid: bool = True
    ) -> Placed:
        """Put a model down without asking; with `block`, nothing else may stand in its bounds afterwards."""
        cosine, sine = math.cos(yaw), math.sin(yaw)
        turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        instances: dict[str, int] = {}
        matrices = turn @ model.matrices
        matrices[:, :, 3] += at
        for part, matrix in zip(model.parts, matrices):
            name = part.label or model.name
            if name not in instances:
                instances[name] = self._next_instance
                self._next_instance += 1
            self._parts.append(part)
            self._matrices.append(matrix)
            self._labels.append(CLASSES.index(name))
            self._instances.append(instances[name])
        low, high = self.bounds_at(model, at, yaw)
        if block:
            self.blocks.append(Block(low, high, solid))
        tops = []
        for top in model.tops:
            x, y = at[0] + cosine * top.x - sine * top.y, at[1] + sine * top.x + cosine * top.y
            tops.append(Top(x, y, at[2] + top.z, top.width, top.depth, top.room))
        result = Placed(model.name, low, high, tops, yaw)
        self.placed.append(result)
        return result

    def try_put(self, model: Model, at: Corner, yaw: float, *, margin: float = 0.02) -> Placed | None:
        low, high = self.bounds_at(model, at, yaw)
        return self.put(model, at, yaw) if self.free(low, high, margin) else None

    def solids(self, *, shadows: bool = False) -> Solids:
        """Geometry for the ray caster; with `shadows`, only what casts them (indices then differ)."""
        chosen = [i for i, part in enumerate(self._parts) if part.shadow or not shadows]
        matrices = np.stack([self._matrices[i] for i in chosen]) if chosen else np.zeros((0, 3, 4))
        kinds = [self._parts[i].kind for i in chosen]
        radii = [self._parts[i].radii for i in chosen]
        return Solids(
            kind=torch.tensor(kinds, dtype=torch.int64),
            world_from_object=torch.from_numpy(matrices).float(),
            object_from_world=torch.from_numpy(_inverse(matrices)).float(),
            radii=torch.tensor(radii, dtype=torch.float32).reshape(-1, 2),
            room=torch.tensor([(0.0, 0.0, 0.0), self.size], dtype=torch.float32),
        )

    def identities(self) -> tuple[Tensor, Tensor]:
        """Labels (P + 6,) and instances (P + 6,) by primitive index, the shell's faces last."""
        wall, floor, ceiling = (CLASSES.index(name) for name in ("wall", "floor", "ceiling"))
        labels = [*self._labels, wall, wall, wall, wall, floor, ceiling]
        instances = [*self._instances, *range(1, 7)]
        return torch.tensor(labels, dtype=torch.uint8), torch.tensor(instances, dtype=torch.int16)

    def appearance(self) -> Tensor:
        """What shading needs of every primitive and shell face, by `ROW`: (rows, P + 6)."""
        shell = _shell_matrices(self.size)
        matrices = np.concatenate([np.stack(self._matrices), shell]) if self._matrices else shell
        materials = [part.material for part in self._parts] + self.shell
        half = np.sqrt((matrices[:, :, :3] ** 2).sum(1))
        values = {
            "transform": _inverse(matrices).reshape(len(matrices), 12),
            "half": half,
            "kind": [part.kind for part in self._parts] + [BOX] * 6,
            "a": [material.a for material in materials],
            "texture": [_TEXTURE[material.texture] for material in materials],
            "gloss": [material.gloss for material in materials],
            "glow": [material.glow for material in materials],
            "radii": [part.radii for part in self._parts] + [(1.0, 1.0)] * 6,
            "b": [material.b for material in materials],
            "scale": [material.scale for material in materials],
            "phase": [material.phase for material in materials],
            "grain": half.argmax(1),
        }
        table = np.empty((_STARTS[-1], len(matrices)), dtype=np.float32)
        for name, rows in ROW.items():
            table[rows] = np.asarray(values[name], dtype=np.float32).reshape(len(matrices), -1).T
        return torch.from_numpy(table)


_TEXTURE = {name: number for number, name in enumerate(TEXTURES)}


def _inverse(matrices: np.ndarray) -> np.ndarray:
    """Inverse of affine maps (N, 3, 4)."""
    linear = np.linalg.inv(matrices[:, :, :3])
    return np.concatenate([linear, -linear @ matrices[:, :, 3:]], 2)


def _shell_matrices(size: Corner) -> np.ndarray:
    """The room's faces as thick boxes just outside it, so that they shade like any other box: (6, 3, 4)."""
    matrices = np.zeros((6, 3, 4))
    for axis in range(3):
        for side in range(2):
            half, middle = np.array(size) / 2, np.array(size) / 2
            half[axis] = 0.1
            middle[axis] = size[axis] + 0.1 if side else -0.1
            matrices[2 * axis + side, :, :3] = np.diag(half)
            matrices[2 * axis + side, :, 3] = middle
    return matrices


def jittered(rng: Random, colour: Colour, amount: float) -> Colour:
    red, green, blue = (channel * (1 + rng.uniform(-amount, amount)) for channel in colour)
    return red, green, blue
