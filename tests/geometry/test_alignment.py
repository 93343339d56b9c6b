"""Similarity fits, scale, focal length and pose of pointmaps: exact on exact data, bounded on bad data."""

from __future__ import annotations

import pytest
import torch
from rigid import random_points, random_pose

from manyview.geometry import alignment, cameras, pointmaps, poses


def random_similarity(*batch: int, seed: int = 0, dtype=torch.float64) -> alignment.Similarity:
    pose = random_pose(*batch, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scale = 0.3 + 3 * torch.rand(batch, generator=generator, dtype=torch.float64)
    return alignment.Similarity(scale.to(dtype), pose[..., :3, :3].to(dtype), pose[..., :3, 3].to(dtype))


def close(one: alignment.Similarity, two: alignment.Similarity, atol: float = 1e-9) -> bool:
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-4), (torch.float64, 1e-9)])
def test_exact_data_give_the_exact_similarity(batch, dtype, atol):
    true = random_similarity(*batch, dtype=dtype)
    source = random_points(*batch, 20, dtype=dtype)
    found = alignment.similarity(source, alignment.apply_similarity(true, source))
    assert found.scale.shape == batch
    assert found.rotation.dtype == dtype
    assert close(found, true, atol)


def test_rigid_fit_leaves_the_scale_alone():
    source = random_points(20)
    true = random_similarity()._replace(scale=torch.ones((), dtype=torch.float64))
    found = alignment.similarity(source, alignment.apply_similarity(true, source), with_scale=False)
    assert close(found, true)
    grown = alignment.similarity(source, 2 * source, with_scale=False)
    assert float(grown.scale) == 1


def test_weights_choose_the_points_and_zero_is_not_read():
    source = random_points(30)
    true = random_similarity(seed=2)
    target = alignment.apply_similarity(true, source)
    target[::3] = torch.nan
    weights = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    weights[::3] = 0
    assert close(alignment.similarity(source, target, weights), true)
    assert close(alignment.similarity(source, target, 100 * weights), true)


def test_whole_weights_are_repetitions():
    source, target = random_points(10, seed=3), random_points(10, seed=4)
    counts = torch.tensor([1, 2, 3, 0, 1, 4, 1, 2, 0, 1])
    weighted = alignment.similarity(source, target, counts.double())
    repeated = alignment.similarity(source.repeat_interleave(counts, 0), target.repeat_interleave(counts, 0))
    assert close(weighted, repeated)


def test_no_similarity_near_by_fits_better():
    source, target = random_points(25, seed=5), random_points(25, seed=6)
    weights = torch.rand(25, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    best = alignment.similarity(source, target, weights)

    def cost(fit: alignment.Similarity) -> float:
        return float((weights * (alignment.apply_similarity(fit, source) - target).square().sum(-1)).sum())

    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        turn = poses.matrix_from_quaternion(
            torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
            + 0.05 * torch.randn(4, generator=generator, dtype=torch.float64)
        )
        nudged = alignment.Similarity(
            best.scale * (1 + 0.05 * torch.randn((), generator=generator, dtype=torch.float64)),
            turn @ best.rotation,
            best.translation + 0.05 * torch.randn(3, generator=generator, dtype=torch.float64),
        )
        assert cost(nudged) >= cost(best)


@pytest.mark.parametrize("kind", ["mirror", "plane", "noise"])
def test_rotations_are_never_reflections(kind):
    source = random_points(30, seed=7)
    if kind == "plane":
        source = source * torch.tensor([1.0, 1.0, 0.0])
    target = source * torch.tensor([1.0, 1.0, -1.0]) if kind == "mirror" else source
    if kind == "noise":
        target = random_points(30, seed=8)
    found = alignment.similarity(source, target)
    assert float(torch.linalg.det(found.rotation)) == pytest.approx(1)
    assert torch.isfinite(found.scale)
    if kind == "plane":
        assert torch.allclose(alignment.apply_similarity(found, source), target, atol=1e-9)


def test_median_scale_reads_valid_pixels_only():
    predicted, true = torch.tensor([1.0, 2.0, 4.0, 0.0, torch.nan]), torch.tensor([2.0, 4.0, 80.0, 3.0, 3.0])
    valid = torch.tensor([True, True, False, True, True])
    assert float(alignment.median_scale(predicted, true, valid)) == 2
    assert float(alignment.median_scale(predicted, true, torch.zeros(5, dtype=torch.bool))) == 1


H, W = 36, 50


def pointmap(focal: float, principal: tuple[float, float] = (W / 2, H / 2), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64)
    depth = 1 + 3 * torch.nn.functional.interpolate(smooth, (H, W), mode="bicubic")[0, 0].clamp(0)
    return pointmaps.unproject(depth, cameras.intrinsics_matrix(focal, focal, *principal).double())


@pytest.mark.parametrize("focal", [20.0, 45.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_of_an_exact_pointmap(focal, dtype):
    assert alignment.focal_from_pointmap(pointmap(focal).to(dtype)) == pytest.approx(focal, rel=1e-5)
    assert alignment.focal_from_pointmap(7 * pointmap(focal).to(dtype)) == pytest.approx(focal, rel=1e-5)  # no unit


def test_a_few_pixels_do_for_the_focal():
    assert alignment.focal_from_pointmap(pointmap(45.0), most=50) == pytest.approx(45, rel=1e-6)


def test_focal_uses_the_given_principal_point():
    shifted = pointmap(45.0, principal=(20.0, 21.0))
    assert alignment.focal_from_pointmap(shifted, principal=(20.0, 21.0)) == pytest.approx(45, rel=1e-6)
    assert abs(alignment.focal_from_pointmap(shifted) - 45) > 0.1


def test_focal_bears_bad_pixels_and_ignores_invalid_ones():
    points = pointmap(45.0)
    generator = torch.Generator().manual_seed(0)
    bad = torch.rand(H, W, generator=generator) < 0.2
    spoiled = points.clone()
    spoiled[bad] *= torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64)
    robust = abs(alignment.focal_from_pointmap(spoiled) - 45)
    plain = (spoiled[..., :2] / spoiled[..., 2:]).reshape(-1, 2)  # plain least squares, for comparison
    uv = (cameras.pixel_centres(H, W).double() - torch.tensor([W / 2, H / 2])).reshape(-1, 2)
    assert abs(float((plain * uv).sum() / plain.square().sum()) - 45) > 5 * robust
    assert robust < 4
    spoiled[bad] = torch.nan
    assert alignment.focal_from_pointmap(spoiled) == pytest.approx(45, rel=1e-6)
    spoiled[bad] = torch.tensor([1.0, 1.0, 1e-3], dtype=torch.float64)
    assert alignment.focal_from_pointmap(spoiled, ~bad) == pytest.approx(45, rel=1e-6)


def test_focal_of_nothing_is_not_a_number():
    points = pointmap(45.0)
    assert torch.tensor(alignment.focal_from_pointmap(points, torch.zeros(H, W, dtype=torch.bool))).isnan()
    assert torch.tensor(alignment.focal_from_pointmap(-points)).isnan()


def world_points(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cam2world = random_pose(seed=seed)
    intrinsics = cameras.intrinsics_matrix(45.0, 45.0, W / 2, H / 2).double()
    return pointmaps.transform(cam2world, pointmap(45.0)), intrinsics, cam2world


@pytest.mark.parametrize("seed", range(5))
def test_pose_of_an_exact_pointmap(seed):
    points, intrinsics, cam2world = world_points(seed)
    fit = alignment.pose_from_pointmap(points, intrinsics)
    assert fit.ok
    assert fit.inliers == 1
    assert torch.allclose(fit.cam2world.double(), cam2world, atol=1e-4)


def test_pose_is_the_same_every_time_and_bears_a_third_of_nonsense():
    points, intrinsics, cam2world = world_points()
    generator = torch.Generator().manual_seed(0)
    bad = torch.rand(H, W, generator=generator) < 0.35
    points[bad] += 3 * torch.randn(int(bad.sum()), 3, generator=generator, dtype=torch.float64)
    fits = [alignment.pose_from_pointmap(points, intrinsics, threshold_px=1.0) for _ in range(2)]
    assert torch.equal(fits[0].cam2world, fits[1].cam2world)
    assert fits[0].inliers == pytest.approx(0.65, abs=0.05)
    assert torch.allclose(fits[0].cam2world.double(), cam2world, atol=0.02)


def test_pose_reads_valid_pixels_only():
    points, intrinsics, cam2world = world_points()
    valid = torch.zeros(H, W, dtype=torch.bool)
    valid[::4, ::5] = True
    points[~valid] = torch.nan
    for mask in (valid, None):  # what is not finite is not used either
        fit = alignment.pose_from_pointmap(points, intrinsics, mask)
        assert torch.allclose(fit.cam2world.double(), cam2world, atol=1e-4)


@pytest.mark.parametrize("pixels", [0, 3])
def test_too_few_pixels_give_no_pose(pixels):
    points, intrinsics, _ = world_points()
    valid = torch.zeros(H, W, dtype=torch.bool)
    valid.view(-1)[:pixels] = True
    fit = alignment.pose_from_pointmap(points, intrinsics, valid)
    assert not fit.ok
    assert fit.inliers == 0
    assert torch.equal(fit.cam2world, torch.eye(4))


@pytest.mark.parametrize("seed", range(3))
def test_pnp_and_similarity_find_the_same_camera(seed):
    """The two roads of the reconstruction: PnP on global points, similarity from the local map to them."""
    points, intrinsics, cam2world = world_points(seed)
    local = pointmap(45.0) / 2.5
    fit = alignment.similarity(local.reshape(-1, 3), points.reshape(-1, 3))
    assert float(fit.scale) == pytest.approx(2.5)
    assert torch.allclose(poses.pose(fit.rotation, fit.translation), cam2world, atol=1e-9)
    assert torch.allclose(alignment.pose_from_pointmap(points, intrinsics).cam2world.double(), cam2world, atol=1e-4)
