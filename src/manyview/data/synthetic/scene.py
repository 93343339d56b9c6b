"""From a seed to images, depth, normals, labels, instances and cameras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from manyview.data.synthetic import furnishing, trajectories
from manyview.data.synthetic.lighting import Light, develop, shadows
from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.photographs import Photographs, hang, read_photographs
from manyview.data.synthetic.raycast import cast
from manyview.data.synthetic.shading import albedo, surface
from manyview.data.synthetic.world import DENSE, ROW, World
from manyview.errors import UserError
from manyview.registry import did_you_mean

CAST = 1 << 22  # pixels cast at once: bounds the memory of long camera paths
CHUNK = 1 << 17  # pixels shaded at once on a CPU


@dataclass
class RenderedScene:
    """V views of a procedural scene. OpenCV axes, pixel centres at +0.5, metres; the world's z axis points up."""

    images: Tensor  # (V, 3, H, W) in [0, 1]
    depth: Tensor  # (V, H, W) along the optical axis, never 0
    normals: Tensor  # (V, H, W, 3) camera frame, unit, facing the camera
    labels: Tensor  # (V, H, W) uint8, indices into `classes`
    instances: Tensor  # (V, H, W) int16, from 1; the same object has the same number in every view
    intrinsics: Tensor  # (V, 3, 3)
    cam2world: Tensor  # (V, 4, 4)
    kind: str
    trajectory: str
    classes: tuple[str, ...] = CLASSES


def render_scene(
    seed: int,
    *,
    views: int = 8,
    size: tuple[int, int] = (224, 518),
    kind: str = "auto",
    trajectory: str = "auto",
    device: torch.device | str = "cpu",
    thumbnails: bool = True,
    textures: str | None = None,
) -> RenderedScene:
    """Build and render the scene of a seed: the same arguments give the same bits on the same machine.

    `kind` is room, tabletop, abstract, outdoors or auto (two rooms for every tabletop); `trajectory` one of
    `trajectories.NAMES` or auto; without `thumbnails`, the first path that keeps clear of things is taken unseen, which
    saves a room a quarter of its time; `textures`: a folder of pictures, which then are on most surfaces.
    """
    check_request(views, size, kind, trajectory)
    if kind == "auto":
        kind = "tabletop" if seed % 3 == 2 else "room"
    with _one_thread():
        world = furnishing.build(seed, kind)
        if textures is not None:
            hang(world, read_photographs(textures), Random(f"manyview photographs {seed}"))
        path = trajectories.choose(
            world, Random(f"manyview path {seed}"), views=views, size=size, name=trajectory, look=thumbnails
        )
        return render_world(world, path, size=size, rng=Random(f"manyview sensor {seed}"), device=device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small operations gain nothing from a second thread and lose much to its waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_request(views: int, size: tuple[int, int], kind: str, trajectory: str) -> None:
    """Raise UserError for what cannot be rendered."""
    if views < 1 or min(size) < 8:
        raise UserError(f"views={views}, size={size[0]}x{size[1]}: need at least one view of 8x8 pixels")
    for what, value, names in (("kind", kind, furnishing.KINDS), ("trajectory", trajectory, trajectories.NAMES)):
        if value not in ("auto", *names):
            raise UserError(f"no {what} {value!r} of procedural scenes; {did_you_mean(value, ['auto', *names])}")


@torch.inference_mode()
def render_world(
    world: World, path: trajectories.Path, *, size: tuple[int, int], rng: Random, device: torch.device | str = "cpu"
) -> RenderedScene:
    """Render what the cameras of a path see of a world; `rng` decides the sensor's noise."""
    solids, lighting = world.solids().to(device), world.lighting
    assert lighting is not None
    cam2world, intrinsics = path.cam2world.to(device), path.intrinsics.to(device)
    views, pixels = len(cam2world), size[0] * size[1]
    group = max(1, CAST // pixels)
    cast_views = [cast(solids, *part, size) for part in zip(cam2world.split(group), intrinsics.split(group))]
    depth, seen = (torch.cat(maps) for maps in zip(*cast_views))
    side = int(min(max((views * pixels) ** 0.5 * 0.45, 96), 512))
    maps = shadows(world.solids(shadows=True).to(device), lighting, side=side)
    light, table = Light(lighting, maps, solids.room[1]), world.appearance().to(device)
    group = max(1, CHUNK // pixels) if depth.device.type == "cpu" else views
    parts = zip(*(tensor.split(group) for tensor in (depth, seen, cam2world, intrinsics)))
    shaded = zip(*(_shade(light, table, world.photographs, *part) for part in parts))
    linear, normals = (torch.cat(maps) for maps in shaded)
    labels, instances = (identity.to(device) for identity in world.identities())
    flat = seen.flatten()
    return RenderedScene(
        images=develop(linear, lighting, rng),
        depth=depth,
        normals=normals,
        labels=labels.index_select(0, flat).view_as(seen),
        instances=instances.index_select(0, flat).view_as(seen),
        intrinsics=intrinsics,
        cam2world=cam2world,
        kind=world.kind,
        trajectory=path.name,
    )


def _shade(
    light: Light,
    table: Tensor,
    photographs: Photographs | None,
    depth: Tensor,
    seen: Tensor,
    cam2world: Tensor,
    intrinsics: Tensor,
) -> tuple[Tensor, Tensor]:
    """Radiance (V, 3, H, W) and normals (V, H, W, 3) of a few views."""
    views, height, width = depth.shape
    seen = seen.flatten()
    rows = table[:DENSE].index_select(1, seen)
    points, view, slant = _rays(depth, cam2world, intrinsics)
    spots = surface(table, rows, seen, points, view)
    cosine = -(spots.normal * view).sum(0)
    pixel = depth * (slant.view_as(depth) / intrinsics[:, 0, 0, None, None])
    blur = pixel.flatten() / cosine.clamp(min=0.15)
    colour = albedo(table, rows, seen, spots, blur, photographs)
    shine = rows[ROW["gloss"].start : ROW["glow"].stop]
    radiance = light.radiance(points, spots.normal, view, colour, shine)
    turned = spots.normal.view(3, views, -1).permute(1, 2, 0) @ cam2world[:, :3, :3]
    return radiance.view(3, views, height, width).transpose(0, 1), turned.view(views, height, width, 3)


def _rays(depth: Tensor, cam2world: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """World points (3, N), unit directions from the camera (3, N), and their length per unit depth (N,)."""
    _, height, width = depth.shape
    u = torch.arange(width, device=depth.device) + 0.5
    v = torch.arange(height, device=depth.device) + 0.5
    x = ((u - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None])[:, None, :]
    y = ((v - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None])[:, :, None]
    slant = (x.square() + y.square() + 1).sqrt()
    points, view = depth.new_empty(3, *depth.shape), depth.new_empty(3, *depth.shape)
    for axis in range(3):
        turn = cam2world[:, axis, :, None, None]
        way = turn[:, 0] * x + (turn[:, 1] * y + turn[:, 2])
        points[axis] = torch.addcmul(turn[:, 3], way, depth)
        view[axis] = way / slant
    return points.flatten(1), view.flatten(1), slant.flatten()
