"""True points and matches of measured pairs: they hold by reprojection, one to one, and need all measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from analytic_room import render
from manyview.errors import UserError
from manyview.geometry import cameras, pointmaps, poses
from manyview.recipes.pair_signals import both_ways, pair_signals
from manyview.types import Views

H, W = 30, 40
LENS = cameras.intrinsics_matrix(34.0, 36.0, 19.0, 16.0).double()


def room(*places: tuple[float, float, float], turn: float = 0.0) -> Views:
    """One pair per place: a camera there, and one a step beside it, in a furnished room."""
    shots = []
    for place in places:
        eye = torch.tensor(place, dtype=torch.float64)
        target = torch.tensor([0.0, 0.0, 0.8], dtype=torch.float64)
        step = torch.tensor([0.35 + turn, -0.2, 0.1], dtype=torch.float64)
        shots.append([poses.look_at(eye, target), poses.look_at(eye + step, target)])
    drawn = [[render(pose, LENS, H, W) for pose in pair] for pair in shots]
    return Views(
        images=torch.stack([torch.stack([c.permute(2, 0, 1).float() for _, c in pair]) for pair in drawn]),
        intrinsics=LENS.float().expand(len(places), 2, 3, 3),
        cam2world=torch.stack([torch.stack(pair) for pair in shots]).float(),
        depth=torch.stack([torch.stack([d.float() for d, _ in pair]) for pair in drawn]),
    )


@pytest.fixture(scope="module")
def views() -> Views:
    return room((1.9, 0.4, 1.4), (-1.2, 1.7, 1.2))


def matches_of(views: Views, **options):
    options = {"matches": 300, "generator": torch.Generator().manual_seed(0), **options}
    return pair_signals(views, **options)["matches"]


def test_points_are_in_the_first_camera_s_frame_wherever_the_world_begins(views):
    truth = pair_signals(views)["pointmap"]
    for view in range(2):
        local = pointmaps.unproject(views.depth[:, view], views.intrinsics[:, view])
        world = pointmaps.transform(views.cam2world[:, view], local)
        first = pointmaps.transform(poses.invert(views.cam2world[:, 0]), world)
        torch.testing.assert_close(truth.value[:, view], first, atol=1e-4, rtol=1e-4)
    far = views.cam2world.double().clone()
    far[..., :3, 3] += torch.tensor([4e5, -2e5, 1e3])
    moved = pair_signals(replace(views, cam2world=far))["pointmap"]
    torch.testing.assert_close(moved.value, truth.value, atol=1e-4, rtol=1e-4)


def test_matches_are_true_by_reprojection_and_one_to_one(views):
    matches = matches_of(views)
    truth = pair_signals(views)["pointmap"].value
    assert matches.value.shape == (2, 300, 2, 2)
    for b in range(2):
        valid = matches.valid[b]
        assert 100 < int(valid.sum()) <= 150
        (x1, y1), (x2, y2) = matches.value[b, valid].unbind(1)[0].T, matches.value[b, valid].unbind(1)[1].T
        one, other = truth[b, 0, y1, x1], truth[b, 1, y2, x2]
        near = (one - other).norm(dim=-1) / one.norm(dim=-1)
        assert float(near.max()) < 0.12  # half a pixel to each side on a slanted wall, and depth up to 5 %
        second_from_first = poses.invert(views.cam2world[b, 1]) @ views.cam2world[b, 0]
        pixels, depth = cameras.project(poses.apply(second_from_first, one), views.intrinsics[b, 1])
        assert bool((depth > 0).all())
        assert float((pixels - torch.stack([x2, y2], -1) - 0.5).abs().max()) <= 0.5 + 1e-3
        for x, y in ((x1, y1), (x2, y2)):
            assert len(set((y * W + x).tolist())) == int(valid.sum())


def test_pixels_without_a_match_fill_up_and_are_in_no_match(views):
    matches = matches_of(views, matches=600)
    for b in range(2):
        for view in range(2):
            flat = matches.value[b, :, view, 1] * W + matches.value[b, :, view, 0]
            assert int(flat.max()) < H * W
            assert not set(flat[matches.valid[b]].tolist()) & set(flat[~matches.valid[b]].tolist())
    few = matches_of(views, mismatched=0.9)
    assert few.valid.sum(1).tolist() == [30, 30]


def test_the_same_generator_gives_the_same_matches(views):
    assert torch.equal(matches_of(views).value, matches_of(views).value)
    other = matches_of(views, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(matches_of(views).value, other.value)


def test_equal_views_match_everywhere_and_views_that_see_nothing_of_each_other_nowhere(views):
    same = replace(
        views, cam2world=views.cam2world[:, :1].repeat(1, 2, 1, 1), depth=views.depth[:, :1].repeat(1, 2, 1, 1)
    )
    matches = matches_of(same, matches=100000)
    inner = same.depth[:, 0] > 0
    assert matches.value.shape[1] == H * W
    assert int(matches.valid.sum()) > 0.95 * int(inner.sum())
    assert torch.equal(matches.value[matches.valid][:, 0], matches.value[matches.valid][:, 1])
    away = same.cam2world.clone()
    away[:, 1] = away[:, 1] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))  # turned round
    assert not matches_of(replace(same, cam2world=away)).valid.any()


def test_what_was_not_measured_is_in_no_signal(views):
    holes = views.depth.clone()
    holes[:, :, 10:20], holes[:, 1, 5, 5] = 0.0, float("nan")
    signals = pair_signals(replace(views, depth=holes), matches=200, generator=torch.Generator().manual_seed(0))
    known = signals["pointmap"].valid
    assert torch.equal(known, holes.nan_to_num() > 0)
    assert bool(signals["pointmap"].value.isfinite().all())
    y = signals["matches"].value[signals["matches"].valid][..., 1]
    assert not bool(((y >= 10) & (y < 20)).any())


def test_bf16_autocast_changes_nothing(views):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = pair_signals(views, matches=50, generator=torch.Generator().manual_seed(0))
    plain = pair_signals(views, matches=50, generator=torch.Generator().manual_seed(0))
    for name in plain:
        assert torch.equal(cast[name].value, plain[name].value)


def test_both_ways_is_its_own_mirror(views):
    twice = both_ways(views)
    assert twice.images.shape[0] == 4
    for name in ("images", "depth", "cam2world", "intrinsics"):
        one, other = getattr(twice, name).chunk(2)
        assert torch.equal(one.flip(1), other), name
    points = pair_signals(twice)["pointmap"].value
    second_from_first = poses.invert(views.cam2world[:, 1]) @ views.cam2world[:, 0]
    moved = pointmaps.transform(second_from_first, points[:2, 0])
    torch.testing.assert_close(moved, points[2:, 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lost", ["depth", "intrinsics", "cam2world"])
def test_pairs_without_a_measurement_are_refused(views, lost):
    with pytest.raises(UserError, match="depth, intrinsics and poses"):
        pair_signals(replace(views, **{lost: None}))
