"""True warps between posed depth views, and how votes over cells become positions."""

from __future__ import annotations

import pytest
import torch

from analytic_room import circle, render
from manyview.geometry import cameras, poses
from manyview.geometry.matching import (
    PosedDepth,
    cell_centres,
    decode,
    kernel_log_probabilities,
    nearest_cells,
    sample_depth,
    upsample_warp,
    warp,
)

SIZE = (24, 32)
INTRINSICS = cameras.intrinsics_matrix(30.0, 30.0, 16.0, 12.0)


def plane(depth: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> PosedDepth:
    """A wall across the optical axis of a camera moved by `shift`."""
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor(shift)
    return PosedDepth(torch.full(SIZE, depth), INTRINSICS, pose)


def room(number: int) -> tuple[PosedDepth, torch.Tensor]:
    pose, matrix = circle(4)[number], INTRINSICS.double()
    return PosedDepth(render(pose, matrix, *SIZE)[0], matrix, pose), pose


def test_a_sideways_move_before_a_wall_shifts_by_focal_times_baseline_over_depth():
    uv, valid = warp(plane(2.0), plane(2.0, (0.4, 0.0, 0.0)))
    expected = cameras.pixel_centres(*SIZE) - torch.tensor([30 * 0.4 / 2, 0])
    assert torch.allclose(uv, expected, atol=1e-5)
    assert torch.equal(valid, expected[..., 0] > 0)


def test_a_step_forward_spreads_from_the_principal_point_at_any_grid():
    uv, valid = warp(plane(2.0), plane(1.0, (0.0, 0.0, 1.0)), uv=cell_centres((3, 4), SIZE))
    centre = torch.tensor([16.0, 12.0])
    expected = centre + 2 * (cell_centres((3, 4), SIZE) - centre)
    assert torch.allclose(uv, expected, atol=1e-5)
    inside = ((expected > 0) & (expected < torch.tensor([32.0, 24.0]))).all(-1)
    assert torch.equal(valid, inside)


def test_batches_are_the_same_as_one_by_one():
    views = [room(number)[0] for number in range(4)]
    first, second = (
        PosedDepth(*(torch.stack(p) for p in zip(*views[s], strict=True))) for s in (slice(0, 3), slice(1, 4))
    )
    together = warp(first, second)
    for index in range(3):
        alone = warp(views[index], views[index + 1])
        assert torch.equal(together[1][index], alone[1])
        torch.testing.assert_close(together[0][index], alone[0], rtol=1e-6, atol=1e-6)


def test_a_warp_lands_on_the_same_place_of_the_room():
    (a, pose_a), (b, pose_b) = room(0), room(2)
    uv, valid = warp(a, b)
    assert 0.3 < valid.double().mean() < 1
    direction = (torch.cat([uv, torch.ones_like(uv[..., :1])], -1) @ torch.linalg.inv(INTRINSICS.double()).T) @ (
        pose_b[:3, :3].T
    )
    rays = cameras.rays(INTRINSICS.double(), *SIZE) @ pose_a[:3, :3].T
    places = pose_a[:3, 3] + a.depth[..., None] * rays
    away = places - pose_b[:3, 3]
    assert torch.allclose(torch.linalg.cross(away, direction)[valid], torch.zeros(3).double(), atol=1e-6)


def test_what_is_hidden_in_b_or_unmeasured_is_not_valid():
    near = plane(2.0, (0.4, 0.0, 0.0))
    near.depth[:, 10:14] = 1.0  # something nearer stands there in B
    uv, valid = warp(plane(2.0), near)
    behind = (uv[..., 0] > 10) & (uv[..., 0] < 14)
    assert behind.any()
    assert not valid[behind].any()
    hole = plane(2.0)
    hole.depth[5, 5] = 0
    _, valid = warp(hole, plane(2.0), uv=cameras.pixel_centres(*SIZE) + 0.3)
    assert not valid[4:6, 4:6].any()
    assert valid[:4, :31].all()
    assert not warp(hole, plane(2.0))[1][5, 5]
    assert not warp(plane(2.0), plane(2.0, (0.0, 0.0, 5.0)))[1].any()  # all behind the camera


def test_the_tolerance_is_relative():
    for factor, seen in ((1.04, True), (1.06, False)):
        _, valid = warp(plane(2.0), plane(2.0 * factor))
        assert bool(valid.all()) is seen
        assert bool(valid.any()) is seen


def test_published_masks_lose_the_last_pixel_and_mix_holes():
    same = plane(2.0)
    assert warp(same, same)[1].all()
    _, valid = warp(same, same, published=True)
    assert not valid[-1].any()
    assert not valid[:, -1].any()
    assert valid[:-1, :-1].all()
    depth = torch.full(SIZE, 2.0)
    depth[5, 5] = 0
    between = torch.tensor([[[5.5 + 0.01, 4.5]]])
    assert float(sample_depth(depth, between + torch.tensor([0.0, 0.5]))) == 0
    assert 0.9 < float(sample_depth(depth, between + torch.tensor([0.0, 0.5]), published=True)) < 1.1


def test_the_nearest_cell_is_the_one_whose_centre_is_nearest():
    uv = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([32.0, 24.0])
    centres = cell_centres((3, 4), SIZE).flatten(0, 1)
    assert torch.equal(nearest_cells(uv, (3, 4), SIZE), torch.cdist(uv, centres).argmin(1))
    assert nearest_cells(torch.tensor([[-5.0, 99.0], [torch.nan, 3.0]]), (3, 4), SIZE).tolist() == [8, 0]


def test_the_kernel_is_a_softmax_over_cosines():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1)).unbind()
    found = kernel_log_probabilities(a, b, 0.2).exp()
    for i in range(5):
        cosines = torch.stack([torch.nn.functional.cosine_similarity(a[i], other, dim=0) for other in b])
        assert torch.allclose(found[i], (cosines / 0.2).softmax(0), atol=1e-6)


def votes(cells: dict[int, float], count: int = 12) -> torch.Tensor:
    scores = torch.full((1, count), -20.0)
    for cell, share in cells.items():
        scores[0, cell] = torch.tensor(share).log()
    return scores


def test_decoding_averages_the_best_cell_and_its_neighbours():
    """Cell 5 is row 1, column 1 of 3x4; its right neighbour 6 and lower one 9 pull by their shares."""
    uv = decode(votes({5: 0.6, 6: 0.2, 9: 0.2}), (3, 4), SIZE)[0]
    assert uv.tolist() == pytest.approx([12 + 0.2 * 8, 12 + 0.2 * 8], abs=1e-4)
    far = decode(votes({5: 0.6, 11: 0.4}), (3, 4), SIZE)[0]
    assert far.tolist() == pytest.approx([12, 12], abs=1e-4)
    assert decode(votes({5: 0.6, 11: 0.4}), (3, 4), SIZE, "argmax")[0].tolist() == [12, 12]
    everything = decode(votes({5: 0.6, 11: 0.4}), (3, 4), SIZE, "expectation")[0]
    assert everything.tolist() == pytest.approx([0.6 * 12 + 0.4 * 28, 0.6 * 12 + 0.4 * 20], abs=1e-3)


def test_the_end_of_a_row_has_no_neighbour_in_the_next_one_unless_published():
    """Cell 7 ends the second row; 8 begins the third, four columns away."""
    scores = votes({7: 0.6, 8: 0.4})
    assert decode(scores, (3, 4), SIZE)[0].tolist() == pytest.approx([28, 12], abs=1e-4)
    wrapped = decode(scores, (3, 4), SIZE, "neighbours_wrapped")[0]
    assert wrapped.tolist() == pytest.approx([0.6 * 28 + 0.4 * 4, 0.6 * 12 + 0.4 * 20], abs=1e-4)
    inner = votes({5: 0.6, 6: 0.2, 9: 0.2})
    assert torch.allclose(decode(inner, (3, 4), SIZE), decode(inner, (3, 4), SIZE, "neighbours_wrapped"))
    corner = votes({0: 0.5, 1: 0.3, 4: 0.2})  # the published one counts the corner three times
    weights = torch.tensor([1.5, 0.3, 0.2]) / 2.0
    expected = (weights[:, None] * torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0]])).sum(0)
    assert decode(corner, (3, 4), SIZE, "neighbours_wrapped")[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_upsampling_keeps_zero_flow_exact_and_an_affine_warp_inside():
    start = cell_centres((3, 4), SIZE).flatten(0, 1)[None]
    assert torch.allclose(upsample_warp(start, (3, 4), SIZE)[0], cameras.pixel_centres(*SIZE), atol=1e-5)
    affine = torch.tensor([[1.1, 0.2], [-0.1, 0.9]])
    fine = upsample_warp(start @ affine.T, (3, 4), SIZE)[0]
    expected = cameras.pixel_centres(*SIZE) @ affine.T
    assert torch.allclose(fine[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-4)
    still = upsample_warp(start, (3, 4), SIZE, published=True)[0]
    assert torch.allclose(still[4:-4, 4:-4], cameras.pixel_centres(*SIZE)[4:-4, 4:-4], atol=1e-4)
    assert float(still[0, 0, 0]) == pytest.approx(4.0)


def test_frames_far_from_the_origin_do_not_matter():
    (a, _), (b, _) = room(0), room(1)
    moved = poses.pose(torch.eye(3).double(), torch.tensor([7.0, -3.0, 2.0]).double())
    plain = warp(a, b)[0]
    assert torch.allclose(
        plain, warp(a._replace(cam2world=moved @ a.cam2world), b._replace(cam2world=moved @ b.cam2world))[0]
    )
