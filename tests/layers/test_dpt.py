"""The DPT in both conventions: odd grids, shortcuts, and positions against a slow loop."""

from __future__ import annotations

import math

import pytest
import torch

from manyview.layers.dpt import DPT, Merge, ResidualUnit
from manyview.layers.positions import plane_table


def build(convention: str) -> DPT:
    torch.manual_seed(0)
    return DPT([8] * 4, patch=6, layer_dims=(4, 4, 8, 8), dim=8, last_dim=2, channels=3, convention=convention)


@pytest.mark.parametrize("convention", ["dust3r", "vggt"])
@pytest.mark.parametrize("grid", [(1, 1), (2, 4), (3, 5), (7, 2)])
def test_any_grid_gives_the_images_size(convention, grid):
    tokens = [torch.randn(2, grid[0] * grid[1], 8) for _ in range(4)]
    assert build(convention)(tokens, grid).shape == (2, 3, grid[0] * 6, grid[1] * 6)


def test_last_layers_narrow_in_one_step_or_in_two():
    widths = {c: [build(c).narrow.out_channels, build(c).smooth.out_channels] for c in ("dust3r", "vggt")}
    assert widths == {"dust3r": [2, 2], "vggt": [4, 2]}


def test_shortcuts_start_before_or_after_the_rectifier():
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 5, 5)
    plain, rectified = ResidualUnit(4), ResidualUnit(4, rectified=True)
    rectified.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain(maps) - rectified(maps), maps.clamp(max=0))


def test_an_odd_map_is_cut_or_met_by_resampling():
    torch.manual_seed(0)
    merge = Merge(4, skip=True)
    coarse, fine = torch.randn(1, 4, 2, 3), torch.randn(1, 4, 3, 5)
    cut = merge(None, coarse)
    assert cut.shape[-2:] == (4, 6)
    assert merge(cut, fine).shape[-2:] == (6, 10)
    met = merge(None, coarse, (3, 5))
    for row, column in ((0, 0), (2, 4)):  # resampling keeps the corners, cutting loses one
        torch.testing.assert_close(met[..., row, column], cut[..., row and 3, column and 5])


def test_plane_positions_against_a_loop():
    height, width, dim, aspect = 3, 5, 8, 1.5
    table = plane_table((height, width), dim, aspect=aspect)
    diagonal = math.hypot(aspect, 1)
    for row in range(height):
        for column in range(width):
            x = (2 * (column + 0.5) / width - 1) * aspect / diagonal
            y = (2 * (row + 0.5) / height - 1) / diagonal
            expected = [f(v * w) for v in (x, y) for f in (math.sin, math.cos) for w in (1.0, 0.1)]
            torch.testing.assert_close(table[:, row, column], torch.tensor(expected))
