"""Pinhole cameras: projecting undoes the rays, and intrinsics follow the image through crops and resizes."""

from __future__ import annotations

import pytest
import torch
from rigid import random_points

from manyview.geometry import cameras


def some_intrinsics(*batch: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(3, dtype=torch.float64).expand(*batch, 3, 3).clone()
    matrix[..., 0, 0] = 100 + 50 * torch.rand(batch, generator=generator, dtype=torch.float64)
    matrix[..., 1, 1] = 100 + 50 * torch.rand(batch, generator=generator, dtype=torch.float64)
    matrix[..., 0, 1] = 3 * torch.rand(batch, generator=generator, dtype=torch.float64)  # skew
    matrix[..., :2, 2] = 20 + 10 * torch.rand(*batch, 2, generator=generator, dtype=torch.float64)
    return matrix.to(dtype)


def test_the_first_pixel_centre_is_at_one_half():
    uv = cameras.pixel_centres(2, 3)
    assert uv.shape == (2, 3, 2)
    assert uv[0, 0].tolist() == [0.5, 0.5]
    assert uv[1, 2].tolist() == [2.5, 1.5]
    assert uv.mean((0, 1)).tolist() == [1.5, 1.0]  # the middle of the picture is (W/2, H/2)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_projecting_along_the_rays_gives_the_pixels_back(batch, dtype, atol):
    intrinsics = some_intrinsics(*batch, dtype=dtype)
    rays = cameras.rays(intrinsics, 5, 7)
    assert rays.shape == (*batch, 5, 7, 3)
    assert torch.equal(rays[..., 2], torch.ones_like(rays[..., 2]))
    for depth in (0.1, 1.0, 25.0):
        uv, z = cameras.project((depth * rays).flatten(-3, -2), intrinsics)
        expected = cameras.pixel_centres(5, 7, dtype=dtype).reshape(-1, 2).expand_as(uv)
        assert torch.allclose(uv, expected, atol=atol)
        assert torch.allclose(z, torch.full_like(z, depth))


def test_projection_is_the_textbook_one():
    intrinsics = cameras.intrinsics_matrix(200.0, 300.0, 50.0, 40.0)
    uv, depth = cameras.project(torch.tensor([[1.0, -2.0, 4.0]]), intrinsics)
    assert uv.tolist() == [[100.0, -110.0]]
    assert depth.tolist() == [4.0]


def test_points_in_the_camera_plane_stay_finite_and_show_their_depth():
    uv, depth = cameras.project(
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, -2.0]]), cameras.intrinsics_matrix(9, 9, 1, 1)
    )
    assert torch.isfinite(uv).all()
    assert depth.tolist() == [0.0, -2.0]


@pytest.mark.parametrize(("scale", "left", "top"), [(0.5, 0, 0), (1.0, 13, 4), (0.37, 5.5, -2.25)])
def test_intrinsics_follow_the_picture(scale, left, top):
    intrinsics = some_intrinsics()
    affine = torch.tensor([[scale, 0, -left], [0, scale, -top], [0, 0, 1]], dtype=torch.float64)
    points = random_points(40) + torch.tensor([0.0, 0.0, 6.0])
    before, _ = cameras.project(points, intrinsics)
    after, _ = cameras.project(points, cameras.apply_affine(affine, intrinsics))
    assert torch.allclose(after, scale * before - torch.tensor([left, top], dtype=torch.float64))
    back = cameras.apply_affine(torch.linalg.inv(affine), cameras.apply_affine(affine, intrinsics))
    assert torch.allclose(back, intrinsics)


def test_halving_a_picture_keeps_its_corners_its_corners():
    """Pixel coordinates span [0, W], so a resize is a pure scaling, without a half-pixel shift."""
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0]))
    halved = cameras.apply_affine(affine, cameras.intrinsics_matrix(100, 100, 32, 24))
    corner = cameras.rays(cameras.intrinsics_matrix(100, 100, 32, 24), 48, 64)[0, 0]
    uv, _ = cameras.project(corner[None], halved)
    assert uv.tolist() == [[0.25, 0.25]]
