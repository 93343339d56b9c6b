"""The unit of given cameras: what views far apart say about it counts more than what near ones say."""

from __future__ import annotations

import pytest
import torch

from manyview.geometry import cameras, poses
from manyview.pipelines.answers import ViewMaps
from manyview.pipelines.cameras import unit_of_given_poses

H, W = 8, 10
MATRIX = cameras.intrinsics_matrix(12.0, 12.0, W / 2, H / 2).double()
FIRST = poses.pose(
    torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()).Q,
    torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64),
)


def seen(pose: torch.Tensor, unit: float, *, used: bool = True) -> ViewMaps:
    """What a model that measures in units of `unit` says of a rough surface a few metres before this camera."""
    depth = 3 + torch.rand(H, W, generator=torch.Generator().manual_seed(2)).double()
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    x, y = (columns + 0.5 - W / 2) / 12 * depth, (rows + 0.5 - H / 2) / 12 * depth
    local = torch.stack([x, y, depth], -1)
    world = local @ pose[:3, :3].T + pose[:3, 3]
    first = (world - FIRST[:3, 3]) @ FIRST[:3, :3]  # the inverse of a rotation is its transpose
    mask, sure = torch.full((H, W), used), torch.ones(H, W)
    return ViewMaps((first / unit).float(), sure, (local / unit).float(), sure, torch.ones_like(mask), mask)


def moved(metres: float) -> torch.Tensor:
    """The first camera, moved sideways in its own frame."""
    step = torch.eye(4, dtype=torch.float64)
    step[0, 3] = metres
    return FIRST @ step


def unit(*said: tuple[float, float]) -> float | None:
    """The answer to views at these distances in metres from the first that see these units."""
    places = [FIRST, *(moved(metres) for metres, _ in said)]
    views = [seen(FIRST, 1.0), *(seen(moved(metres), claimed) for metres, claimed in said)]
    return unit_of_given_poses(views, [MATRIX] * len(views), places)


@pytest.mark.parametrize("true", [0.1, 1.0, 7.0])
def test_one_view_says_it(true):
    assert unit((0.5, true)) == pytest.approx(true, rel=1e-4)


def test_a_view_far_away_outweighs_several_near_ones():
    near, far = [(0.1, 5.0)] * 3, [(1.0, 2.0)]
    assert unit(*near, *far) == pytest.approx(2.0, rel=1e-4)
    assert unit(*far, *near) == pytest.approx(2.0, rel=1e-4)
    assert unit(*near, (0.2, 2.0)) == pytest.approx(5.0, rel=1e-4)  # 0.3 m against 0.2 m


def test_a_view_at_the_firsts_place_says_nothing():
    assert unit((0.0, 5.0)) is None
    assert unit((0.0, 5.0), (0.3, 2.0)) == pytest.approx(2.0, rel=1e-4)


def test_a_view_without_a_usable_pixel_says_nothing():
    places = [FIRST, moved(1.0), moved(0.2)]
    views = [seen(FIRST, 1.0), seen(places[1], 5.0, used=False), seen(places[2], 2.0)]
    assert unit_of_given_poses(views, [MATRIX] * 3, places) == pytest.approx(2.0, rel=1e-4)
    assert unit_of_given_poses(views[:2], [MATRIX] * 2, places[:2]) is None
