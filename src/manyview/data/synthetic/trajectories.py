"""How a camera moves through a world: paths that look like frames of a video, kept out of walls and furniture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from manyview.data.synthetic.raycast import cast
from manyview.data.synthetic.world import Corner, World
from manyview.geometry import poses
from manyview.geometry.cameras import intrinsics_matrix

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


# A maker draws V eyes and V targets, world coordinates.
Maker = Callable[[World, Random, int], tuple[list[Corner], list[Corner]]]


def _between(world: World, rng: Random) -> Corner:
    """Somewhere in the room at a height at which one holds a camera."""
    margin = 0.35
    return (
        rng.uniform(margin, world.size[0] - margin),
        rng.uniform(margin, world.size[1] - margin),
        rng.uniform(0.9, min(1.85, world.size[2] - 0.3)),
    )


def _focus(world: World, rng: Random) -> Corner:
    if world.focus and rng.random() < 0.65:
        x, y, z = rng.choice(world.focus)
        return x, y, min(z, 1.2)
    return rng.uniform(0.5, world.size[0] - 0.5), rng.uniform(0.5, world.size[1] - 0.5), rng.uniform(0.3, 1.8)


def _spread(views: int, step: float, most: float) -> list[float]:
    """V positions centred on 0, `step` apart, but no wider than `most` in all."""
    width = min(step * (views - 1), most)
    return [width * (i / (views - 1) - 0.5) if views > 1 else 0.0 for i in range(views)]


def _orbit(world: World, rng: Random, views: int) -> tuple[list[Corner], list[Corner]]:
    """Around a point, looking at it."""
    x, y, z = _focus(world, rng)
    start, side = rng.uniform(-math.pi, math.pi), rng.choice([-1, 1])
    radius = rng.uniform(0.9, 2.6)
    height = z + rng.uniform(0.3, 1.1)
    wobble, rise = rng.uniform(0, 0.15), rng.uniform(-0.3, 0.3)
    eyes = []
    for angle in _spread(views, math.radians(rng.uniform(5, 16)), math.radians(rng.uniform(60, 300))):
        away = radius * (1 + wobble * math.sin(3 * angle))
        turn = start + side * angle
        eyes.append((x + away * math.cos(turn), y + away * math.sin(turn), height + rise * angle / 3))
    return eyes, [(x, y, z)] * views


def _walk(world: World, rng: Random, views: int) -> tuple[list[Corner], list[Corner]]:
    """Along a bent line through the room, looking mostly ahead."""
    start, bend, end = _between(world, rng), _between(world, rng), _between(world, rng)
    target, later = _focus(world, rng), _focus(world, rng)
    length = math.dist(start, bend) + math.dist(bend, end)
    share = min(1.0, rng.uniform(0.12, 0.35) * max(views - 1, 1) / max(length, 0.1))
    eyes, targets = [], []
    for i in range(views):
        t = share * i / max(views - 1, 1)
        eyes.append(_blend3(start, bend, end, t))
        ahead = _blend3(start, bend, end, t + 0.6)
        look = _blend(target, later, t)
        targets.append(_blend(look, (ahead[0], ahead[1], ahead[2] - 0.3), 0.35))
    return eyes, targets


def _dolly(world: World, rng: Random, views: int) -> tuple[list[Corner], list[Corner]]:
    """Sideways along a straight line past something."""
    target, eye = _focus(world, rng), _between(world, rng)
    away = math.dist(target[:2], eye[:2]) or 1.0
    across = ((eye[1] - target[1]) / away, -(eye[0] - target[0]) / away)
    rise, follow = rng.uniform(-0.15, 0.15), rng.uniform(0.0, 0.7)
    eyes, targets = [], []
    for x in _spread(views, rng.uniform(0.08, 0.28), 2.4):
        eyes.append((eye[0] + across[0] * x, eye[1] + across[1] * x, eye[2] + rise * x))
        targets.append((target[0] + follow * across[0] * x, target[1] + follow * across[1] * x, target[2]))
    return eyes, targets


def _pan(world: World, rng: Random, views: int) -> tuple[list[Corner], list[Corner]]:
    """A hand-held camera turning on the spot, with the sway of a step."""
    x, y, z = _between(world, rng)
    start, side, drop = rng.uniform(-math.pi, math.pi), rng.choice([-1, 1]), rng.uniform(-0.25, 0.9)
    sway, phase = rng.uniform(0.1, 0.35), rng.uniform(0, 6)
    eyes, targets = [], []
    for i, angle in enumerate(_spread(views, math.radians(rng.uniform(5, 15)), math.radians(330))):
        turn = start + side * angle
        eyes.append(
            (
                x + sway * math.cos(turn) + 0.05 * math.sin(i * 1.7 + phase),
                y + sway * math.sin(turn) + 0.05 * math.cos(i * 1.3),
                z + 0.06 * math.sin(i * 0.9 + phase),
            )
        )
        targets.append((x + 2 * math.cos(turn), y + 2 * math.sin(turn), z - drop))
    return eyes, targets


def _zigzag(world: World, rng: Random, views: int) -> tuple[list[Corner], list[Corner]]:
    """To and fro, up and down, while drawing nearer to something."""
    target, start = _focus(world, rng), _between(world, rng)
    near = _blend(target, start, rng.uniform(0.45, 0.75))
    away = math.dist(target[:2], start[:2]) or 1.0
    across = ((start[1] - target[1]) / away, -(start[0] - target[0]) / away)
    width, lift, pace = rng.uniform(0.2, 0.6), rng.uniform(0.0, 0.25), rng.uniform(0.7, 1.6)
    eyes = []
    for i in range(views):
        x, y, _ = _blend(start, near, i / max(views - 1, 1))
        shift = width * math.asin(math.sin(i * pace)) / 1.571
        eyes.append(
            (x + across[0] * shift, y + across[1] * shift, start[2] + lift * math.cos(i * pace * 0.7))
        )
    return eyes, [target] * views


def _wander(world: World, rng: Random, views: int) -> tuple[list[Corner], list[Corner]]:
    """Photographs taken around a place, each looking at about the same things, in no order."""
    target, home = _focus(world, rng), _between(world, rng)
    eyes, targets = [], []
    for _ in range(views):
        eyes.append((home[0] + rng.gauss(0, 0.5), home[1] + rng.gauss(0, 0.5), home[2] + rng.gauss(0, 0.18)))
        targets.append(
            (target[0] + rng.gauss(0, 0.22), target[1] + rng.gauss(0, 0.22), target[2] + rng.gauss(0, 0.22))
        )
    return eyes, targets


_MAKERS: dict[str, Maker] = {
    "orbit": _orbit, "walk": _walk, "dolly": _dolly, "pan": _pan, "zigzag": _zigzag, "wander": _wander,
}  # fmt: skip
NAMES = tuple(_MAKERS)


def _blend(a: Corner, b: Corner, t: float) -> Corner:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def _blend3(a: Corner, b: Corner, c: Corner, t: float) -> Corner:
    """A quadratic curve from a towards b to c."""
    return _blend(_blend(a, b, t), _blend(b, c, t), t)


def _table_path(world: World, rng: Random, views: int, name: str) -> tuple[list[Corner], list[Corner]]:
    """Around or past a laid table, near enough that its things fill the view."""
    x, y, z = world.focus[0]
    start, side = rng.uniform(-math.pi, math.pi), rng.choice([-1, 1])
    radius, lift = rng.uniform(0.65, 1.15), math.radians(rng.uniform(18, 52))
    middle = (x + rng.gauss(0, 0.12), y + rng.gauss(0, 0.1), z + rng.uniform(0.0, 0.1))
    step = math.radians(rng.uniform(4, 14))
    eyes, targets = [], []
    for i, angle in enumerate(_spread(views, step, math.radians(300))):
        turn, tilt, away, look = start + side * angle, lift, radius, middle
        if name == "walk":
            away = radius * (1.45 - 0.7 * i / max(views - 1, 1))
        elif name == "zigzag":
            tilt = lift + 0.25 * math.sin(i * 1.3)
        elif name == "wander":
            turn, tilt, away = (
                start + rng.gauss(0, 0.5),
                lift + rng.gauss(0, 0.12),
                radius * rng.uniform(0.8, 1.25),
            )
        elif name in ("dolly", "pan"):
            shift = 0.6 * angle if name == "dolly" else 0.25 * math.sin(angle)
            turn, look = (
                start,
                (middle[0] - shift * math.sin(start), middle[1] + shift * math.cos(start), middle[2]),
            )
        low = away * math.cos(tilt)
        eyes.append(
            (look[0] + low * math.cos(turn), look[1] + low * math.sin(turn), z + away * math.sin(tilt))
        )
        targets.append(look)
    return eyes, targets


def choose(world: World, rng: Random, *, views: int, size: tuple[int, int], name: str = "auto") -> Path:
    """The first path whose thumbnails look right, else the best of those tried."""
    best: tuple[float, Path] | None = None
    thumb = _thumbnail(size)
    scale = torch.tensor([thumb[1] / size[1], thumb[0] / size[0], 1.0])[:, None]
    solids, instances = world.solids(), world.identities()[1]
    for _ in range(ROUNDS):
        drawn: list[tuple[float, Path]] = []
        for _ in range(DRAWS):
            path = _draw(world, rng, views=views, size=size, name=name)
            drawn.append((_clear(world, path), path))
            if sum(share == 1.0 for share, _ in drawn) == ATTEMPTS:
                break
        drawn = sorted(drawn, key=lambda item: -item[0])[:ATTEMPTS]
        cameras, lenses = (
            torch.cat(parts) for parts in zip(*((p.cam2world, p.intrinsics) for _, p in drawn))
        )
        depth, seen = cast(solids, cameras, lenses * scale, thumb)
        things = instances.index_select(0, seen.flatten()).view_as(seen)
        for (share, path), d, t in zip(drawn, depth.split(views), things.split(views)):
            score = share + _looks(d, t, path, scale)
            if best is None or score > best[0]:
                best = (score, path)
            if score >= GOOD:
                return path
    assert best is not None
    return best[1]


def _thumbnail(size: tuple[int, int]) -> tuple[int, int]:
    shrink = max(size) / 36
    return max(8, round(size[0] / shrink)), max(8, round(size[1] / shrink))


def _draw(world: World, rng: Random, *, views: int, size: tuple[int, int], name: str) -> Path:
    """One candidate path with its lens."""
    name = rng.choice(NAMES) if name == "auto" else name
    if world.kind == "tabletop":
        eyes, targets = _table_path(world, rng, views, name)
    else:
        eyes, targets = _MAKERS[name](world, rng, views)
    shake = rng.choice([0.0, 0.01, 0.03])
    cam2world = poses.look_at(_points(eyes), _points(targets))
    tilt, rows = rng.gauss(0, 0.02), []
    for _ in range(views):
        rows.append([tilt + rng.gauss(0, shake), rng.gauss(0, shake * 0.7), rng.gauss(0, shake * 0.7)])
    cam2world[:, :3, :3] = cam2world[:, :3, :3] @ _small_turns(torch.tensor(rows, dtype=torch.float32))
    # The wider side spans 45 to 80 degrees; very wide images keep their pixels' shape.
    field = math.radians(rng.uniform(45, 80))
    focal = max(size) / 2 / math.tan(field / 2)
    intrinsics = intrinsics_matrix(focal, focal, size[1] / 2, size[0] / 2).expand(views, 3, 3).clone()
    return Path(name, cam2world, intrinsics)


def _points(points: list[Corner]) -> Tensor:
    return torch.tensor(points, dtype=torch.float32)


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
            block.solid
            and all(block.low[a] - CLEARANCE < eye[a] < block.high[a] + CLEARANCE for a in range(3))
            for block in world.blocks
        )
    return good / len(path.cam2world)


def _looks(depth: Tensor, things: Tensor, path: Path, scale: Tensor) -> float:
    """Up to 1 when every view is deep and shows enough, and overlaps the one before; less otherwise."""
    near = (depth < NEAREST).float().mean((1, 2)) < 0.01
    deep = depth.flatten(1).median(1).values > 0.7
    counts = torch.stack([(view.flatten().bincount(minlength=7)[7:] >= 3).sum() for view in things.long()])
    bare = (things <= 6).float().mean((1, 2))  # walls, floor, ceiling
    score = (
        ((near & deep).float() * (counts / 4).clamp(max=1) * ((1 - bare) / 0.3).clamp(max=1)).mean().item()
    )
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
    there = depth[1:].flatten(1).gather(1, (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)))
    return (inside & (z < there * 1.08 + 0.05)).float().mean(1)
