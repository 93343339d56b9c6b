"""Pointmaps from depth and back, their normalisation, edges and normals."""

from __future__ import annotations

import pytest
import torch
from rigid import random_pose

from manyview.geometry import cameras, pointmaps, poses

K = cameras.intrinsics_matrix(40.0, 44.0, 15.0, 11.0).double()


def random_depth(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.5 + 4 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_depth_to_points_and_back(batch):
    depth = random_depth(*batch, 6, 8)
    points = pointmaps.unproject(depth, K.expand(*batch, 3, 3))
    assert points.shape == (*batch, 6, 8, 3)
    assert torch.allclose(points[..., 2], depth)
    uv, z = cameras.project(points.flatten(-3, -2), K)
    assert torch.allclose(z.unflatten(-1, (6, 8)), depth)
    assert torch.allclose(uv, cameras.pixel_centres(6, 8, dtype=torch.float64).reshape(-1, 2).expand_as(uv))


def test_depth_through_another_view_and_back():
    depth = random_depth(4, 6, 8)
    cam2world = random_pose(4)
    world = pointmaps.transform(cam2world, pointmaps.unproject(depth, K.expand(4, 3, 3)))
    local = pointmaps.transform(poses.invert(cam2world), world)
    assert torch.allclose(local[..., 2], depth)
    for view in range(4):  # the slow way
        slow = poses.apply(cam2world[view], pointmaps.unproject(depth[view], K).reshape(-1, 3)).reshape(6, 8, 3)
        assert torch.allclose(world[view], slow)


def test_unproject_takes_the_depths_precision():
    assert pointmaps.unproject(random_depth(6, 8).float(), K).dtype == torch.float32


def points_and_valid() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 4, 5, 6, 3, generator=generator, dtype=torch.float64) * 7
    valid = torch.rand(3, 4, 5, 6, generator=generator) > 0.3
    return points, valid


@pytest.mark.parametrize("shared", [True, False])
def test_normalised_points_have_unit_mean_distance(shared):
    points, valid = points_and_valid()
    normalised, scale = pointmaps.normalise(points, valid, shared=shared)
    assert scale.shape == ((3, 1, 1, 1) if shared else (3, 4, 1, 1))
    dims = (1, 2, 3) if shared else (2, 3)
    assert torch.allclose(pointmaps.mean_distance(normalised, valid, dims), torch.ones_like(scale))
    for scene in range(3):  # the slow way
        rows = [slice(None)] if shared else [slice(v, v + 1) for v in range(4)]
        for view, row in enumerate(rows):
            mean = points[scene, row][valid[scene, row]].norm(dim=-1).mean()
            assert torch.allclose(scale[scene, view], mean)


@pytest.mark.parametrize("shared", [True, False])
def test_normalisation_forgets_the_unit_and_nothing_else(shared):
    points, valid = points_and_valid()
    one, scale = pointmaps.normalise(points, valid, shared=shared)
    other, larger = pointmaps.normalise(12.5 * points, valid, shared=shared)
    assert torch.allclose(one, other)
    assert torch.allclose(larger, 12.5 * scale)
    assert torch.allclose(one * scale[..., None], points)
    again, unit = pointmaps.normalise(one, valid, shared=shared)
    assert torch.allclose(again, one)
    assert torch.allclose(unit, torch.ones_like(unit))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e30])
def test_invalid_points_never_enter_the_scale(poison):
    points, valid = points_and_valid()
    _, scale = pointmaps.normalise(points, valid)
    poisoned = torch.where(valid[..., None], points, poison)
    again, poisoned_scale = pointmaps.normalise(poisoned, valid)
    assert torch.equal(scale, poisoned_scale)
    assert torch.isfinite(again[valid]).all()


def test_gradients_of_the_scale_survive_poison():
    points, valid = points_and_valid()
    poisoned = torch.where(valid[..., None], points, torch.nan).requires_grad_()
    pointmaps.mean_distance(poisoned, valid, (1, 2, 3)).sum().backward()
    assert torch.isfinite(poisoned.grad).all()
    assert (poisoned.grad[~valid] == 0).all()


def test_nothing_valid_gives_the_floor():
    points, valid = points_and_valid()
    _, scale = pointmaps.normalise(points, torch.zeros_like(valid))
    assert torch.equal(scale, torch.full_like(scale, 1e-8))


def test_edges_are_where_depth_jumps():
    depth = torch.full((1, 6, 8), 2.0)
    depth[..., 4:] = 3.0
    edges = pointmaps.depth_edges(depth)
    assert edges[..., 3:5].all()
    assert not edges[..., :3].any()
    assert not edges[..., 5:].any()
    assert not pointmaps.depth_edges(depth, rtol=0.6).any()
    assert torch.equal(pointmaps.depth_edges(100 * depth), edges)  # relative, so without a unit


def test_holes_neither_are_nor_make_edges():
    depth = torch.full((6, 8), 2.0)
    depth[2, 3] = 0.0
    assert not pointmaps.depth_edges(depth).any()
    depth[2, 3] = 9.0
    valid = torch.ones(6, 8, dtype=torch.bool)
    valid[2, 3] = False
    assert not pointmaps.depth_edges(depth, valid).any()
    assert pointmaps.depth_edges(depth)[1:4, 2:5].all()


def test_edges_against_the_slow_way():
    depth = random_depth(7, 9)
    depth[depth < 1] = 0
    fast = pointmaps.depth_edges(depth, rtol=0.4)
    for i in range(7):
        for j in range(9):
            around = depth[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
            around = around[around > 0]
            slow = depth[i, j] > 0 and any(
                abs(d - depth[i, j]) > 0.4 * min(float(around.min()), float(depth[i, j])) for d in around
            )
            assert bool(fast[i, j]) == bool(slow), (i, j)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.5, 0.0), (-0.3, 0.8)])
def test_normals_of_a_plane_are_its_normal_facing_the_camera(tilt):
    normal = torch.nn.functional.normalize(torch.tensor([*tilt, -1.0], dtype=torch.float64), dim=0)
    rays = cameras.rays(K, 22, 30)
    depth = (normal[2] * 3) / (rays @ normal)  # the plane through (0, 0, 3)
    assert (depth > 0).all()
    found = pointmaps.normals(pointmaps.unproject(depth, K))
    assert torch.allclose(found, normal.expand_as(found), atol=1e-9)


def test_normals_beside_holes_use_the_side_that_is_there():
    depth = torch.full((6, 8), 2.0, dtype=torch.float64)
    depth[2, 3] = 0
    valid = depth > 0
    found = pointmaps.normals(pointmaps.unproject(depth, K), valid)
    assert torch.equal(found[2, 3], torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(found[valid], torch.tensor([0.0, 0, -1], dtype=torch.float64).expand(47, 3))
    lonely = torch.zeros(6, 8, dtype=torch.bool)
    lonely[1, 1] = True
    assert not pointmaps.normals(pointmaps.unproject(depth, K), lonely).any()
