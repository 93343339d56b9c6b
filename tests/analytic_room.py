"""A room whose every ray has a closed-form answer, and a model that knows it: the pipeline's yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from manyview.geometry import cameras, pointmaps, poses
from manyview.images.fit import longest

ROOM = torch.tensor([[-3.0, -2.5, 0.0], [3.0, 2.5, 2.6]], dtype=torch.float64)
CRATE = torch.tensor([[-0.6, -0.5, 0.0], [0.5, 0.6, 0.9]], dtype=torch.float64)


def _slabs(origin: Tensor, direction: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (..., 3) enter and leave an axis-aligned box (2, 3)."""
    safe = torch.where(direction.abs() < 1e-12, torch.full_like(direction, 1e-12), direction)
    ends = torch.stack([(box[0] - origin) / safe, (box[1] - origin) / safe])
    return ends.min(0).values.max(-1).values, ends.max(0).values.min(-1).values


def colour_of(points: Tensor) -> Tensor:
    """A smooth colour in [0, 1] for every place (..., 3)."""
    return 0.5 + 0.4 * torch.sin(points * torch.tensor([1.7, 2.1, 2.9], dtype=points.dtype))


def render(cam2world: Tensor, intrinsics: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Depth (H, W) and image (H, W, 3) in [0, 1] of the room from the inside, float64."""
    direction = cameras.rays(intrinsics, height, width) @ cam2world[:3, :3].T
    origin = cam2world[:3, 3]
    depth = _slabs(origin, direction, ROOM)[1]
    enter, leave = _slabs(origin, direction, CRATE)
    depth = torch.where((enter < leave) & (enter > 1e-3), enter, depth)
    return depth, colour_of(origin + depth[..., None] * direction)


def circle(count: int, *, degrees: float = 25.0) -> Tensor:
    """(V, 4, 4) cameras on an arc around the crate, looking at it."""
    angles = torch.deg2rad(torch.linspace(-degrees, degrees, count, dtype=torch.float64)) + 0.3
    eye = torch.stack([2.1 * angles.cos(), 2.1 * angles.sin(), 1.5 + 0.2 * angles], -1)
    return poses.look_at(eye, torch.tensor([0.0, 0.0, 0.6], dtype=torch.float64).expand_as(eye))


@dataclass
class Shot:
    """A camera of the room: what a photographer took."""

    cam2world: Tensor
    intrinsics: Tensor
    size: tuple[int, int]

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return (render(self.cam2world, self.intrinsics, *self.size)[1] * 255).round().to(torch.uint8).numpy()


def shots(count: int, size: tuple[int, int] = (240, 320), focal: float = 300.0) -> list[Shot]:
    matrix = cameras.intrinsics_matrix(focal, focal, size[1] / 2, size[0] / 2).double()
    return [Shot(pose, matrix, size) for pose in circle(count)]


@dataclass
class AllKnowing:
    """A reconstructor that answers with the room's true points, in units of its own."""

    shots: Sequence[Shot]
    unit: float = 1.0
    """Room metres per unit of the global head."""
    local_units: Sequence[float] = ()
    """Likewise for each view's local head."""
    noise: float = 0.0
    confuse: Sequence[int] = ()
    """Views whose global points are nonsense."""
    image_size: int = 112
    config: SimpleNamespace = field(init=False)
    calls: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(image_size=self.image_size, patch_size=14)

    def __call__(self, images, view_ids=None, **chunks):
        self.calls.append({"list": not isinstance(images, Tensor), **chunks})
        views = list(images[0]) if isinstance(images, Tensor) else [image[0] for image in images]
        assert len(views) == len(self.shots)
        first_from_world = poses.invert(self.shots[0].cam2world)
        generator = torch.Generator().manual_seed(0)
        answers = []
        for index, (image, shot) in enumerate(zip(views, self.shots, strict=True)):
            fit = longest(shot.size, long_side=self.image_size, multiple=14)
            assert tuple(image.shape) == (3, *fit.size)
            matrix = fit.affine @ shot.intrinsics
            depth, colour = render(shot.cam2world, matrix, *fit.size)
            assert float((image.permute(1, 2, 0).double() - colour).abs().median()) < 0.02  # the pixels fit the map
            local = pointmaps.unproject(depth, matrix)
            world = pointmaps.transform(first_from_world @ shot.cam2world, local) / self.unit
            if index in self.confuse:
                world = torch.randn(world.shape, generator=generator, dtype=torch.float64) * 3
            world = world + self.noise * torch.randn(world.shape, generator=generator, dtype=torch.float64)
            local = local / (self.local_units[index] if self.local_units else self.unit)
            confidence = 1 + 5 / (1 + depth)
            answers.append((world, confidence, local, confidence + 1))
        names = ("pointmap", "confidence", "pointmap_local", "confidence_local")
        columns = [[part.float()[None] for part in column] for column in zip(*answers, strict=True)]
        if isinstance(images, Tensor):
            return {name: torch.stack(column, 1) for name, column in zip(names, columns, strict=True)}
        return dict(zip(names, columns, strict=True))
