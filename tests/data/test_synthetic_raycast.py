"""The ray caster against a plain loop over rays that shares no algebra with it."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from manyview.data.synthetic import raycast
from manyview.data.synthetic.raycast import BALL, BOX, CONE, Solids, cast
from manyview.geometry.cameras import intrinsics_matrix, rays
from manyview.geometry.poses import look_at, matrix_from_quaternion

ROOM = torch.tensor([[0.0, 0.0, 0.0], [5.0, 4.0, 2.6]])
SIZE = (21, 34)  # no multiple of a tile


def random_solids(kinds: list[int], seed: int, *, reach: tuple[float, float] = (0.1, 0.6)) -> Solids:
    generator = torch.Generator().manual_seed(seed)
    count = len(kinds)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    turns = matrix_from_quaternion(torch.randn(count, 4, generator=generator))
    half = uniform(*reach, count, 3)
    middle = torch.stack([uniform(0.8, 4.2, count), uniform(0.8, 3.2, count), uniform(0.4, 2.0, count)], 1)
    forward = torch.cat([turns * half[:, None], middle[:, :, None]], 2)
    linear = torch.linalg.inv(forward[:, :, :3].double())
    inverse = torch.cat([linear, -linear @ middle[:, :, None].double()], 2).float()
    radii = torch.stack([torch.ones(count), uniform(0.05, 1.0, count)], 1)
    flip = torch.rand(count, generator=generator) < 0.5
    radii[flip] = radii[flip].flip(1)
    return Solids(torch.tensor(kinds), forward, inverse, radii, ROOM)


def cameras(
    eyes: list[tuple[float, float, float]], target: tuple[float, float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    eye = torch.tensor(eyes)
    cam2world = look_at(eye, torch.tensor(target).expand_as(eye))
    return cam2world, intrinsics_matrix(24.0, 25.0, 16.3, 11.2).expand(len(eyes), 3, 3)


def first_hit(solids: Solids, eye: np.ndarray, way: np.ndarray) -> tuple[float, int]:
    """Smallest ray parameter in front of the eye over all primitives and the room, and whose it is."""
    best = (math.inf, -1)
    for axis, side in product(range(3), range(2)):
        if (way[axis] > 0) == bool(side) and way[axis] != 0:
            t = (solids.room[side, axis].item() - eye[axis]) / way[axis]
            best = min(best, (t, len(solids.kind) + 2 * axis + side))
    for index, kind in enumerate(solids.kind.tolist()):
        matrix = solids.world_from_object[index].double().numpy()
        inverse = np.linalg.inv(matrix[:, :3])
        o, d = inverse @ (eye - matrix[:, 3]), inverse @ way
        bottom, top = solids.radii[index].double().tolist()
        for t in candidates(kind, o, d, bottom, top):
            if 0 < t < best[0] and on_surface(kind, o + t * d, bottom, top):
                best = (t, index)
    return best


def candidates(kind: int, o: np.ndarray, d: np.ndarray, bottom: float, top: float) -> list[float]:
    planes = [(side - o[axis]) / d[axis] for axis in range(3) for side in (-1, 1)]
    if kind == BOX:
        return planes
    weights = np.array([1.0, 1.0, 1.0 if kind == BALL else -(((top - bottom) / 2) ** 2)])
    shift = 0.0 if kind == BALL else (bottom + top) / 2 * (top - bottom) / 2
    a = (weights * d * d).sum()
    b = 2 * (weights * o * d).sum() - 2 * shift * d[2]
    c = (weights * o * o).sum() - 2 * shift * o[2] - (1.0 if kind == BALL else ((bottom + top) / 2) ** 2)
    roots = [root.real for root in np.roots([a, b, c]) if abs(root.imag) < 1e-12]
    return roots + (planes[4:] if kind == CONE else [])


def on_surface(kind: int, p: np.ndarray, bottom: float, top: float, slack: float = 1e-9) -> bool:
    if kind == BALL:
        return True
    if kind == BOX:
        return bool(np.abs(p).max() <= 1 + slack)
    radius = (bottom + top) / 2 + (top - bottom) / 2 * p[2]
    return abs(p[2]) <= 1 + slack and math.hypot(p[0], p[1]) <= radius * (1 + slack) + slack


def by_hand(solids: Solids, cam2world: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int]):
    directions = rays(intrinsics, *size)
    depth, seen = np.empty((len(cam2world), *size)), np.empty((len(cam2world), *size), dtype=int)
    for view, pose in enumerate(cam2world.double().numpy()):
        for row, column in product(*map(range, size)):
            way = pose[:3, :3] @ directions[view, row, column].double().numpy()
            depth[view, row, column], seen[view, row, column] = first_hit(solids, pose[:3, 3], way)
    return depth, seen


@pytest.mark.parametrize(
    "kinds", [[BOX] * 4, [BALL] * 4, [CONE] * 4, [BOX, BALL, CONE] * 4], ids=["box", "ball", "cone", "all"]
)
def test_depth_and_identity_equal_a_plain_loop(kinds):
    solids = random_solids(kinds, seed=len(kinds) + kinds[0])
    cam2world, intrinsics = cameras([(0.3, 0.4, 1.7), (4.8, 3.5, 0.6)], (2.5, 2.0, 1.1))
    depth, seen = cast(solids, cam2world, intrinsics, SIZE)
    truth, owner = by_hand(solids, cam2world, intrinsics, SIZE)
    same = seen.numpy() == owner
    assert same.mean() > 0.995  # rays that graze an edge may go either way
    assert len(np.unique(owner)) > min(len(kinds), 4)
    np.testing.assert_allclose(depth.numpy()[same], truth[same], rtol=2e-5)


def test_a_primitive_beside_and_behind_the_camera():
    """Bounds of what crosses the camera's plane must not lose pixels."""
    forward = torch.tensor([[[1.9, 0, 0, 2.5], [0, 0.3, 0, 2.7], [0, 0, 0.5, 0.6]]])
    inverse = torch.tensor([[[1 / 1.9, 0, 0, -2.5 / 1.9], [0, 1 / 0.3, 0, -9.0], [0, 0, 2.0, -1.2]]])
    solids = Solids(torch.tensor([BOX]), forward, inverse, torch.ones(1, 2), ROOM)
    cam2world, intrinsics = cameras([(2.6, 2.0, 1.3)], (4.4, 2.45, 0.8))
    depth, seen = cast(solids, cam2world, intrinsics, SIZE)
    truth, owner = by_hand(solids, cam2world, intrinsics, SIZE)
    assert (owner == 0).mean() > 0.2
    assert (seen.numpy() == owner).mean() > 0.995
    np.testing.assert_allclose(np.median(np.abs(depth.numpy() / truth - 1)), 0, atol=1e-5)


def test_an_axis_aligned_camera_divides_by_no_zero():
    forward = torch.tensor([[[0.5, 0, 0, 2.5], [0, 0.5, 0, 3.0], [0, 0, 0.5, 1.0]]])
    inverse = torch.tensor([[[2.0, 0, 0, -5.0], [0, 2.0, 0, -6.0], [0, 0, 2.0, -2.0]]])
    for kind in (BOX, BALL, CONE):
        solids = Solids(torch.tensor([kind]), forward, inverse, torch.ones(1, 2), ROOM)
        cam2world = look_at(torch.tensor([[2.5, 0.5, 1.0]]), torch.tensor([[2.5, 3.0, 1.0]]))
        depth, seen = cast(solids, cam2world, intrinsics_matrix(20.0, 20.0, 10.5, 7.5)[None], (15, 21))
        assert seen[0, 7, 10] == 0  # the middle pixel's direction is (0, 0, 1) exactly
        assert depth[0, 7, 10].item() == pytest.approx(2.0, abs=1e-5)
        assert torch.isfinite(depth).all()


def test_views_are_the_same_alone_and_in_a_batch():
    solids = random_solids([BOX, CONE, BALL] * 8, seed=5, reach=(0.05, 0.3))
    cam2world, intrinsics = cameras([(0.3, 0.4, 1.7), (4.8, 3.5, 0.6), (0.4, 3.6, 1.2)], (2.5, 2.0, 1.1))
    depth, seen = cast(solids, cam2world, intrinsics, SIZE)
    for view in range(3):
        alone = cast(solids, cam2world[view : view + 1], intrinsics[view : view + 1], SIZE)
        assert torch.equal(alone[0][0], depth[view])
        assert torch.equal(alone[1][0], seen[view])


def test_an_empty_room():
    solids = random_solids([], seed=0)
    cam2world, intrinsics = cameras([(1.0, 1.0, 1.0)], (4.0, 3.0, 0.0))
    depth, seen = cast(solids, cam2world, intrinsics, SIZE)
    truth, owner = by_hand(solids, cam2world, intrinsics, SIZE)
    assert (seen.numpy() == owner).mean() > 0.995
    np.testing.assert_allclose(depth.numpy(), truth, rtol=2e-5)


def test_no_tile_occurs_twice_in_a_group():
    generator = torch.Generator().manual_seed(0)
    tile = torch.randint(0, 7, (200,), generator=generator)
    near, kind = torch.rand(200, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    order, groups = raycast._schedule(tile, near, kind)
    assert sorted(order.tolist()) == list(range(200))
    assert sum(stop - start for _, start, stop in groups) == 200
    for number, start, stop in groups:
        assert tile[order[start:stop]].unique().numel() == stop - start
        assert (kind[order[start:stop]] == number).all()
