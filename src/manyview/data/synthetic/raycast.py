"""A vectorised ray caster for convex primitives: what every pixel sees, and exactly how far away it is.

Rays leave the camera with z = 1, so the ray parameter of a hit is its depth along the optical axis. In the space
where a primitive is the unit box, ball or cone, a ray's direction is affine in the pixel: three additions per
pixel and primitive, then a closed-form hit. The image is cut into tiles; each tile meets only the primitives whose
projected bounds touch it, nearest first, and skips those that lie behind everything it already sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

# [-1, 1]^3; the unit ball; z in [-1, 1] with radius running linearly from bottom to top.
BOX, BALL, CONE = 0, 1, 2
NEAR = 0.02  # metres; nothing nearer is seen
FAR = 1e6
TILE = (8, 16)  # rows, columns
# Choices between two values are made by arithmetic: on a CPU, torch.where takes ten times as long. `HUGE` turns
# the sign of a difference into a step, `TINY` keeps a divisor from being zero.
HUGE, TINY = 1e30, 1e-30

_CORNERS = torch.tensor(list(product((-1.0, 1.0), repeat=3)))  # (8, 3)
_EDGES = torch.tensor(
    [(i, j) for i in range(8) for j in range(i) if (_CORNERS[i] - _CORNERS[j]).abs().sum() == 2]
)  # (12, 2)


@dataclass(frozen=True)
class Solids:
    """P primitives inside a room, an axis-aligned box seen from inside whose six faces follow as P .. P + 5."""

    kind: Tensor  # (P,) BOX, BALL or CONE
    world_from_object: Tensor  # (P, 3, 4) affine
    object_from_world: Tensor  # (P, 3, 4)
    radii: Tensor  # (P, 2) of a cone at its bottom and its top; the larger is 1
    room: Tensor  # (2, 3) lowest and highest corner, metres

    def to(self, device: torch.device | str) -> Solids:
        moved = (self.kind, self.world_from_object, self.object_from_world, self.radii, self.room)
        return Solids(*(tensor.to(device) for tensor in moved))


def cast(solids: Solids, cam2world: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Depth (V, H, W) along the optical axis and the index (V, H, W) of what is seen, for V cameras in the room.

    cam2world (V, 4, 4), intrinsics (V, 3, 3) with pixel centres at +0.5. Indices P + 2a and P + 2a + 1 are the
    room's faces at its lowest and highest coordinate along axis a.
    """
    views = len(cam2world)
    rows, columns = -(-size[0] // TILE[0]), -(-size[1] // TILE[1])
    x, y = _ray_slopes(intrinsics, rows * TILE[0], columns * TILE[1])
    depth, seen = _room(solids, cam2world, x, y)
    depth, seen = _to_tiles(depth, rows, columns), _to_tiles(seen, rows, columns)
    if len(solids.kind):
        x, y = x.reshape(views, columns, TILE[1]), y.reshape(views, rows, TILE[0])
        _cast_solids(solids, cam2world, intrinsics, x, y, depth, seen)
    depth, seen = (_from_tiles(image, views, rows, columns, size) for image in (depth, seen))
    return depth, seen.to(torch.int32)


def _ray_slopes(intrinsics: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """x (V, W) and y (V, H) of the rays with z = 1 through the pixel centres."""
    u = torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5
    v = torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5
    x = (u - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]
    y = (v - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]
    return x, y


def _to_tiles(image: Tensor, rows: int, columns: int) -> Tensor:
    """(V, H, W) -> (V * rows * columns, tile rows, tile columns)."""
    tiles = image.reshape(len(image), rows, TILE[0], columns, TILE[1]).transpose(2, 3)
    return tiles.reshape(-1, *TILE)


def _from_tiles(tiles: Tensor, views: int, rows: int, columns: int, size: tuple[int, int]) -> Tensor:
    image = tiles.reshape(views, rows, columns, *TILE).transpose(2, 3)
    image = image.reshape(views, rows * TILE[0], columns * TILE[1])
    return image[:, : size[0], : size[1]].contiguous()


def _step(difference: Tensor) -> Tensor:
    """1 where a difference is positive, else 0; works in place."""
    return difference.mul_(HUGE).clamp_(0, 1)


def _room(solids: Solids, cam2world: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The room's faces alone: rays from inside a box leave it at the nearest of three planes."""
    depth = torch.full((len(x), y.shape[1], x.shape[1]), FAR, device=x.device, dtype=x.dtype)
    seen = torch.zeros_like(depth)
    for axis in range(3):
        turn = cam2world[:, axis, :3, None, None]
        slope = (turn[:, 0] * x[:, None, :] + (turn[:, 1] * y[:, :, None] + turn[:, 2])).add_(TINY)
        eye, inverse = cam2world[:, axis, 3, None, None], slope.reciprocal()
        leaves = torch.maximum((solids.room[0, axis] - eye) * inverse, (solids.room[1, axis] - eye) * inverse)
        face = _step(slope).add_(len(solids.kind) + 2 * axis)
        seen = torch.lerp(seen, face, _step(depth - leaves))
        depth = torch.minimum(depth, leaves)
    return depth, seen


def _cast_solids(
    solids: Solids, cam2world: Tensor, intrinsics: Tensor, x: Tensor, y: Tensor, depth: Tensor, seen: Tensor
) -> None:
    """Lower `depth` and `seen` (tiles, tile rows, tile columns) in place where a primitive is nearer."""
    columns, rows = x.shape[1], y.shape[1]
    bounds, nearest = _bounds(solids, cam2world, intrinsics)
    view, solid, row, column = _pairs(bounds, rows, columns)
    if not len(view):
        return
    tile = (view * rows + row) * columns + column
    near = nearest[view, solid]
    order, groups = _schedule(tile, near, solids.kind[solid])
    view, solid, row, column, tile, near = (t[order] for t in (view, solid, row, column, tile, near))
    linear = _product(solids.object_from_world[None, :, :, :3], cam2world[:, None, :3, :])
    linear[..., 3] += solids.object_from_world[:, :, 3]  # (V, P, 3, 4): directions, then the camera's centre
    chunk = 2**13 // (TILE[0] * TILE[1]) * (8 if x.device.type == "cpu" else 512)
    for kind, start, stop in groups:
        for begin in range(start, stop, chunk):
            part = slice(begin, min(begin + chunk, stop))
            index = tile[part]
            here = depth.index_select(0, index)
            visible = (near[part] < here.flatten(1).amax(1)).nonzero()[:, 0]
            if not len(visible):
                continue
            if len(visible) < len(index):
                index, here = index[visible], here.index_select(0, visible)
            v, p, r, c = (t[part][visible] for t in (view, solid, row, column))
            hit = _hit(kind, linear[v, p], x[v, c], y[v, r], solids.radii[p], near[part][visible])
            depth.index_copy_(0, index, torch.minimum(hit, here))
            old, name = seen.index_select(0, index), p.to(seen.dtype)[:, None, None]
            seen.index_copy_(0, index, torch.lerp(old, name, _step(here.sub_(hit))))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product over an inner dimension of 3 whose bits do not depend on the batch, as a library's may."""
    terms = [left[..., :, k, None] * right[..., None, k, :] for k in range(3)]
    return terms[0] + terms[1] + terms[2]


def _bounds(solids: Solids, cam2world: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel bounds (V, P, 4) left, top, right, bottom (empty when right <= left) and nearest depths (V, P)."""
    corners = _CORNERS.to(cam2world)
    world = corners @ solids.world_from_object[:, :, :3].transpose(1, 2) + solids.world_from_object[:, None, :, 3]
    local = (world - cam2world[:, None, None, :3, 3]) @ cam2world[:, None, :3, :3]  # (V, P, 8, 3)
    a, b = local[..., _EDGES[:, 0], :], local[..., _EDGES[:, 1], :]  # (V, P, 12, 3)
    share = (NEAR - a[..., 2]) / (b[..., 2] - a[..., 2])
    crossing = (a[..., 2] < NEAR) != (b[..., 2] < NEAR)
    cut = a + torch.where(crossing, share, 0.0)[..., None] * (b - a)
    points = torch.cat([local, cut], 2)
    visible = torch.cat([local[..., 2] >= NEAR, crossing], 2)
    z = torch.where(visible, points[..., 2], 1.0).clamp(min=NEAR)
    u = points[..., 0] / z * intrinsics[:, None, None, 0, 0] + intrinsics[:, None, None, 0, 2]
    v = points[..., 1] / z * intrinsics[:, None, None, 1, 1] + intrinsics[:, None, None, 1, 2]
    low = [torch.where(visible, value, FAR).amin(2) for value in (u, v)]
    high = [torch.where(visible, value, -FAR).amax(2) for value in (u, v)]
    nearest = torch.where(visible, z, FAR).amin(2)
    return torch.stack([*low, *high], -1), nearest


def _pairs(bounds: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """View, primitive, tile row and tile column of every tile that a primitive's bounds touch."""
    tile = bounds.new_tensor([TILE[1], TILE[0]])
    last = bounds.new_tensor([columns, rows])
    # Half a pixel of margin against rounding: a pixel belongs to a primitive only if its centre does.
    first = ((bounds[..., :2] - 0.5) / tile).floor().clamp(min=0).minimum(last).long()
    stop = ((bounds[..., 2:] + 0.5) / tile).ceil().clamp(min=0).minimum(last).long()
    extent = (stop - first).clamp(min=0)
    count = extent.prod(-1)  # (V, P)
    view, solid = (count > 0).nonzero(as_tuple=True)
    first, extent, count = first[view, solid], extent[view, solid], count[view, solid]
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    within = torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count)[owner]
    width = extent[owner, 0]
    row = first[owner, 1] + torch.div(within, width, rounding_mode="floor")
    return view[owner], solid[owner], row, first[owner, 0] + within % width


def _schedule(tile: Tensor, near: Tensor, kind: Tensor) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """An order of the pairs and groups (kind, start, stop) of it; no tile occurs twice in a group.

    The k-th nearest primitive of every tile goes into the k-th group of its kind.
    """
    order = torch.argsort(near, stable=True)
    order = order[torch.argsort(tile[order], stable=True)]
    sorted_tile = tile[order]
    position = torch.arange(len(tile), device=tile.device)
    new = torch.ones_like(sorted_tile, dtype=torch.bool)
    new[1:] = sorted_tile[1:] != sorted_tile[:-1]
    rank = position - torch.where(new, position, 0).cummax(0).values
    key = rank * 3 + kind[order]
    regroup = torch.argsort(key, stable=True)
    counts = torch.bincount(key).tolist()
    groups, start = [], 0
    for value, count in enumerate(counts):
        if count:
            groups.append((value % 3, start, start + count))
        start += count
    return order[regroup], groups


def _hit(kind: int, linear: Tensor, x: Tensor, y: Tensor, radii: Tensor, near: Tensor) -> Tensor:
    """Depths (N, tile rows, tile columns) at which the rays of N tiles meet one primitive each; FAR where they miss.

    linear (N, 3, 4): the primitive's coordinates of the camera's axes and centre; x (N, columns), y (N, rows).
    """
    across = linear[:, :, 0, None] * x[:, None, :]  # (N, 3, columns)
    down = linear[:, :, 1, None] * y[:, None, :] + linear[:, :, 2, None]  # (N, 3, rows)
    if kind == BOX:
        return _hit_box(across, down, linear[:, :, 3])
    # Move the rays' origins close to the primitive: the quadratics then lose no digits.
    start = near[:, None]
    across_origin, down_origin = across * start[..., None], down * start[..., None] + linear[:, :, 3, None]
    direction = [across[:, k, None, :] + down[:, k, :, None] for k in range(3)]
    origin = [across_origin[:, k, None, :] + down_origin[:, k, :, None] for k in range(3)]
    behind = NEAR - start[..., None]
    if kind == BALL:
        return _hit_ball(direction, origin, behind).add_(start[..., None])
    return _hit_cone(direction, origin, radii, behind).add_(start[..., None])


def _unless(depth: Tensor, problem: Tensor) -> Tensor:
    """`depth`, pushed out of sight where `problem` is positive; works in place on `problem`."""
    return problem.mul_(HUGE).clamp_(min=0).add_(depth)


def _hit_box(across: Tensor, down: Tensor, eye: Tensor) -> Tensor:
    enter = leave = eye  # replaced by the first axis
    for k in range(3):
        inverse = (across[:, k, None, :] + down[:, k, :, None]).add_(TINY).reciprocal_()
        middle = inverse * -eye[:, k, None, None]
        half = inverse.abs_()
        low, high = middle - half, middle.add_(half)
        enter = low if k == 0 else torch.maximum(enter, low, out=enter)
        leave = high if k == 0 else torch.minimum(leave, high, out=leave)
    return _unless(enter, torch.maximum(enter - leave, -(enter - NEAR)))


def _hit_ball(direction: list[Tensor], origin: list[Tensor], behind: Tensor) -> Tensor:
    a = direction[0].square().addcmul_(direction[1], direction[1]).addcmul_(direction[2], direction[2])
    b = (direction[0] * origin[0]).addcmul_(direction[1], origin[1]).addcmul_(direction[2], origin[2])
    c = origin[0].square().addcmul_(origin[1], origin[1]).addcmul_(origin[2], origin[2]).sub_(1)
    root = b.square().sub_(a * c)
    depth = root.clamp(min=0).sqrt_().add_(b).neg_().div_(a)
    return _unless(depth, torch.maximum(root.neg_(), behind - depth))


def _hit_cone(direction: list[Tensor], origin: list[Tensor], radii: Tensor, behind: Tensor) -> Tensor:
    """The slab |z| <= 1 and x^2 + y^2 <= (middle + slope z)^2: enter through a cap or through the side."""
    middle = (radii[:, 0] + radii[:, 1])[:, None, None] / 2
    slope = (radii[:, 1] - radii[:, 0])[:, None, None] / 2
    inverse = (direction[2] + TINY).reciprocal_()
    centre, half = origin[2] * -inverse, inverse.abs_()
    enter, leave = centre - half, centre.add_(half)
    radius = torch.addcmul(middle, slope, origin[2])
    tilt = slope * direction[2]
    a = direction[0].square().addcmul_(direction[1], direction[1]).sub_(tilt.square()).add_(TINY)
    b = (direction[0] * origin[0]).addcmul_(direction[1], origin[1]).sub_(tilt * radius)
    c = origin[0].square().addcmul_(origin[1], origin[1]).sub_(radius.square())
    root = b.square().sub_(a * c)
    missed = -root
    root.clamp_(min=0).sqrt_()
    inverse = a.reciprocal()
    outside = torch.addcmul(b + b, a, enter).mul_(enter).add_(c)
    nearest = _unless(enter, torch.maximum(outside, behind - enter))
    low = torch.maximum(enter, behind.expand_as(enter))
    for side in ((b + root).mul_(inverse).neg_(), (root - b).mul_(inverse)):
        problem = torch.maximum(low - side, side - leave)
        nearest = torch.minimum(nearest, _unless(side, torch.maximum(problem, missed)))
    return nearest
