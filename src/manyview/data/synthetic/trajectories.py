"""How a camera moves through a world: paths that look like frames of a video, kept out of walls and furniture.

The paths themselves are drawn as catalogue/paths.yaml says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from manyview.data.synthetic.formulas import read_catalogue
from manyview.data.synthetic.raycast import cast
from manyview.data.synthetic.rows import Row, Word, Work, read_rows
from manyview.data.synthetic.wild import KINDS as WILD
from manyview.data.synthetic.world import Corner, World
from manyview.geometry import poses
from manyview.geometry.cameras import intrinsics_matrix

NAMES = ("orbit", "walk", "dolly", "pan", "zigzag", "wander")  # as in catalogue/paths.yaml
DRAWS = 24  # paths drawn in a round, of which those that stand in the open ...
ATTEMPTS = 3  # ... and no more than these are looked at in thumbnails; the best of them is taken
ROUNDS = 4
NEAREST = 0.25  # metres: at most a few pixels of a view may be nearer
GOOD = 1.92  # a score (at most 2) that ends the search
CLEARANCE = 0.18  # metres between the camera and anything


@dataclass(frozen=True)
class Path:
    name: str
    cam2world: Tensor  # (V, 4, 4)
    intrinsics: Tensor  # (V, 3, 3)


def _somewhere(world: World, rng: Random) -> Corner:
    """In the room, at a height at which one holds a camera."""
    (left, front, _), (right, back, height) = world.reach
    margin = 0.35
    x, y = rng.uniform(left + margin, right - margin), rng.uniform(front + margin, back - margin)
    return x, y, rng.uniform(0.9, min(1.85, height - 0.3))


def _focus(world: World, rng: Random) -> Corner:
    """Something worth looking at."""
    if world.focus and rng.random() < 0.65:
        x, y, z = rng.choice(world.focus)
        return x, y, min(z, 1.2)
    (left, front, _), (right, back, _) = world.reach
    return rng.uniform(left + 0.5, right - 0.5), rng.uniform(front + 0.5, back - 0.5), rng.uniform(0.3, 1.8)


def _spread(views: int, step: float, most: float) -> list[float]:
    """V positions centred on 0, `step` apart, but no wider than `most` in all."""
    width = min(step * (views - 1), most)
    return [width * (i / (views - 1) - 0.5) if views > 1 else 0.0 for i in range(views)]


def _blend(a: Corner, b: Corner, t: float) -> Corner:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def _curve(a: Corner, b: Corner, c: Corner, t: float) -> Corner:
    """A quadratic curve from a towards b to c."""
    return _blend(_blend(a, b, t), _blend(b, c, t), t)


def _across(target: Corner, eye: Corner) -> tuple[float, float]:
    """The level direction across that in which one looks."""
    away = math.dist(target[:2], eye[:2]) or 1.0
    return (eye[1] - target[1]) / away, -(eye[0] - target[0]) / away


_FUNCTIONS = {"blend": _blend, "curve": _curve, "across": _across, "distance": math.dist, "asin": math.asin}
_FUNCTIONS |= {"radians": math.radians}
_WORDS = {"camera": Word(lambda work, row: work.target.append(work.value(row["camera"])), set())}


@cache
def _catalogue() -> dict[str, list[Row]]:
    return {name: read_rows(rows, _WORDS) for name, rows in read_catalogue("paths.yaml").items()}


def _cameras(world: World, rng: Random, views: int, name: str) -> tuple[Tensor, Tensor]:
    """Eyes (V, 3) and what they look at (V, 3), drawn as the catalogue says."""
    names: dict[str, Any] = {"views": views, "name": name, "spread": partial(_spread, views), **_FUNCTIONS}
    names |= {"focus": partial(_focus, world, rng), "somewhere": partial(_somewhere, world, rng), "normal": rng.gauss}
    if world.kind == "tabletop":
        name, names["top"] = "around a table", world.focus[0]
    work: Work[list[Any]] = Work([], _WORDS, names, rng)
    work.do(_catalogue()[name])
    eyes, targets = torch.tensor(work.target, dtype=torch.float32).unbind(1)
    return eyes, targets


def choose(
    world: World, rng: Random, *, views: int, size: tuple[int, int], name: str = "auto", look: bool = True
) -> Path:
    """The first path whose thumbnails look right, else the best of those tried.

    Without `look`, and in worlds beyond rooms, which are full wherever one looks, the first path in the open will do.
    """
    if world.kind in WILD or not look:
        best: tuple[float, Path] | None = None
        for _ in range(DRAWS):
            path = _draw(world, rng, views=views, size=size, name=name)
            share = _clear(world, path)
            if best is None or share > best[0]:
                best = share, path
            if share == 1.0:
                break
        assert best is not None
        return best[1]
    shrink = max(size) / 36
    thumb = (max(8, round(size[0] / shrink)), max(8, round(size[1] / shrink)))
    scale = torch.tensor([thumb[1] / size[1], thumb[0] / size[0], 1.0])[:, None]
    solids, instances = world.solids(), world.identities()[1]
    tried: list[tuple[float, Path]] = []
    for _ in range(ROUNDS):
        drawn: list[tuple[float, Path]] = []
        while len(drawn) < DRAWS and sum(share == 1.0 for share, _ in drawn) < ATTEMPTS:
            path = _draw(world, rng, views=views, size=size, name=name)
            drawn.append((_clear(world, path), path))
        drawn = sorted(drawn, key=lambda item: -item[0])[:ATTEMPTS]
        cameras, lenses = (torch.cat(parts) for parts in zip(*((p.cam2world, p.intrinsics) for _, p in drawn)))
        depth, seen = cast(solids, cameras, lenses * scale, thumb)
        things = instances.index_select(0, seen.flatten()).view_as(seen)
        for (share, path), d, t in zip(drawn, depth.split(views), things.split(views)):
            tried.append((share + _looks(d, t, path, scale), path))
            if tried[-1][0] >= GOOD:
                return path
    return max(tried, key=lambda item: item[0])[1]


def _draw(world: World, rng: Random, *, views: int, size: tuple[int, int], name: str) -> Path:
    """One candidate path with its lens."""
    name = rng.choice(NAMES) if name == "auto" else name
    eyes, targets = _cameras(world, rng, views, name)
    shake = rng.choice([0.0, 0.01, 0.03])
    cam2world = poses.look_at(eyes, targets)
    tilt, rows = rng.gauss(0, 0.02), []
    for _ in range(views):
        rows.append([tilt + rng.gauss(0, shake), rng.gauss(0, shake * 0.7), rng.gauss(0, shake * 0.7)])
    cam2world[:, :3, :3] = cam2world[:, :3, :3] @ _small_turns(torch.tensor(rows, dtype=torch.float32))
    # The wider side spans 45 to 80 degrees; very wide images keep their pixels' shape.
    field = math.radians(rng.uniform(45, 80))
    focal = max(size) / 2 / math.tan(field / 2)
    intrinsics = intrinsics_matrix(focal, focal, size[1] / 2, size[0] / 2).expand(views, 3, 3).clone()
    return Path(name, cam2world, intrinsics)


def _small_turns(angles: Tensor) -> Tensor:
    """Rotations (V, 3, 3) of roll, pitch and yaw (V, 3)."""
    roll, pitch, yaw = (angles[:, k] / 2 for k in range(3))
    quaternion = torch.stack([torch.ones_like(roll), pitch, yaw, roll], -1)
    return poses.matrix_from_quaternion(quaternion)


def _clear(world: World, path: Path) -> float:
    """Share of the cameras that stand in the open."""
    good = 0
    for eye in path.cam2world[:, :3, 3].tolist():
        inside = all(CLEARANCE < eye[a] < world.size[a] - CLEARANCE for a in range(3))
        good += inside and not any(
            block.solid and all(block.low[a] - CLEARANCE < eye[a] < block.high[a] + CLEARANCE for a in range(3))
            for block in world.blocks
        )
    return good / len(path.cam2world)


def _looks(depth: Tensor, things: Tensor, path: Path, scale: Tensor) -> float:
    """Up to 1 when every view is deep and shows enough, and overlaps the one before; less otherwise."""
    near = (depth < NEAREST).float().mean((1, 2)) < 0.01
    deep = depth.flatten(1).median(1).values > 0.7
    counts = torch.stack([(view.flatten().bincount(minlength=7)[7:] >= 3).sum() for view in things.long()])
    bare = (things <= 6).float().mean((1, 2))  # walls, floor, ceiling
    score = ((near & deep).float() * (counts / 4).clamp(max=1) * ((1 - bare) / 0.3).clamp(max=1)).mean().item()
    if len(depth) == 1:
        return score
    return min(score, (_overlap(depth, path, scale) / 0.4).clamp(max=1).mean().item())


def _overlap(depth: Tensor, path: Path, scale: Tensor) -> Tensor:
    """Share of each view's pixels that the next view also sees, (V - 1,)."""
    height, width = depth.shape[1:]
    intrinsics = path.intrinsics * scale
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], -1).flatten(0, 1)
    local = (pixels @ torch.linalg.inv(intrinsics[:-1]).transpose(1, 2)) * depth[:-1].flatten(1)[..., None]
    moved = poses.apply(poses.invert(path.cam2world[1:]) @ path.cam2world[:-1], local)
    projected = moved @ intrinsics[1:].transpose(1, 2)
    z = projected[..., 2].clamp(min=1e-6)
    x, y = (projected[..., 0] / z).long(), (projected[..., 1] / z).long()
    inside = (moved[..., 2] > 0.05) & (projected[..., :2] > 0).all(-1) & (x < width) & (y < height)
    seen = depth[1:].flatten(1).gather(1, (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)))
    return (inside & (z < seen * 1.08 + 0.05)).float().mean(1)
