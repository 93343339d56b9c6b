"""Layers against slow twins, and their promises at odd sizes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyview.errors import UserError
from manyview.layers.attention import Attention
from manyview.layers.block import Block, LayerScale
from manyview.layers.dpt import DPT
from manyview.layers.init import init_weights
from manyview.layers.patches import PatchEmbed, patch_grid
from manyview.layers.positions import refit_table, resample_table, sine_table


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_equals_softmax_written_out(scale):
    layer = Attention(12, 3)
    tokens = torch.randn(2, 5, 12)
    q, k, v = layer.qkv(tokens).reshape(2, 5, 3, 3, 4).unbind(2)
    mixed = torch.zeros(2, 5, 12)
    for head in range(3):
        logits = q[:, :, head] @ k[:, :, head].transpose(1, 2) * (4**-0.5 if scale is None else scale)
        mixed[..., head * 4 : head * 4 + 4] = logits.softmax(-1) @ v[:, :, head]
    torch.testing.assert_close(layer(tokens, scale), layer.proj(mixed))


def test_attention_refuses_a_width_its_heads_do_not_divide():
    with pytest.raises(ValueError, match="multiple of 5"):
        Attention(12, 5)


def test_a_block_with_zero_layer_scale_passes_tokens_through():
    block = Block(8, 2, layer_scale=1e-4)
    tokens = torch.randn(1, 3, 8)
    assert not torch.equal(block(tokens), tokens)
    for scale in (block.ls1, block.ls2):
        assert isinstance(scale, LayerScale)
        nn.init.zeros_(scale.gamma)
    assert torch.equal(block(tokens), tokens)


def test_a_block_keeps_its_norm_epsilon():
    assert Block(8, 2, eps=1e-5).norm2.eps == 1e-5


def test_patches_are_row_major_linear_maps():
    layer = PatchEmbed(2, 5)
    images = torch.randn(1, 3, 4, 6)
    tokens = layer(images)
    second_row_first = images[0, :, 2:4, 0:2].reshape(-1)
    expected = layer.proj.weight.reshape(5, -1) @ second_row_first + layer.proj.bias
    torch.testing.assert_close(tokens[0, 3], expected)


@pytest.mark.parametrize("size", [(15, 14), (14, 13), (0, 14)])
def test_sizes_that_do_not_fit_the_patch_are_refused(size):
    with pytest.raises(UserError, match="multiples of 14"):
        patch_grid(*size, 14)


def test_the_position_table_is_untouched_only_at_its_own_square():
    table = torch.randn(1, 1 + 16, 4)
    assert resample_table(table, (4, 4)) is table
    wide = resample_table(table, (2, 8))  # as many tokens, but not square
    assert wide.shape == table.shape
    assert not torch.equal(wide, table)
    assert torch.equal(wide[:, 0], table[:, 0])


@pytest.mark.parametrize("grid", [(1, 1), (3, 7), (9, 5)])
def test_the_position_table_is_resampled_with_the_offset(grid):
    table = torch.randn(1, 1 + 25, 4)
    out = resample_table(table, grid)
    assert out.shape == (1, 1 + grid[0] * grid[1], 4)
    maps = table[:, 1:].reshape(1, 5, 5, 4).permute(0, 3, 1, 2)
    factor = ((grid[0] + 0.1) / 5, (grid[1] + 0.1) / 5)
    expected = F.interpolate(maps, scale_factor=factor, mode="bicubic")
    torch.testing.assert_close(out[:, 1:].transpose(1, 2).reshape(expected.shape), expected)


@pytest.mark.parametrize("first", [0, 1])
def test_a_table_is_refitted_to_another_square(first):
    ramp = torch.linspace(0, 1, 6)[:, None].expand(6, 6).flatten()[None, :, None]
    table = torch.cat([torch.full((1, first, 1), 7.0), ramp], 1)
    bigger = refit_table(table, first + 64)
    assert bigger.shape == (1, first + 64, 1)
    assert torch.all(bigger[:, :first] == 7)
    rows = bigger[0, first:, 0].unflatten(0, (8, 8))
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 8), atol=1e-6, rtol=0)
    assert torch.all(rows[:, 0].diff() > 0)
    assert torch.equal(refit_table(table, first + 36), table)
    with pytest.raises(ValueError, match="square"):
        refit_table(table, first + 65)


def test_sine_table_by_hand():
    table = sine_table(11, 6)
    for row in (0, 3, 10):
        for k in range(3):
            angle = row / 10000 ** (k / 3)
            assert table[row, k] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[row, 3 + k] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 4), (5, 3)])
@pytest.mark.parametrize("spare", [False, True])
def test_dpt_covers_every_pixel_of_any_grid(grid, spare):
    dpt = DPT([6, 8, 8, 8], patch=14, layer_dims=(4, 4, 6, 8), dim=4, last_dim=3, channels=2, spare_unit=spare)
    tokens = [torch.randn(2, grid[0] * grid[1], c, requires_grad=True) for c in (6, 8, 8, 8)]
    out = dpt(tokens, grid)
    assert out.shape == (2, 2, grid[0] * 14, grid[1] * 14)
    out.sum().backward()
    assert all(level.grad is not None and bool(level.grad.abs().sum() > 0) for level in tokens)


def test_the_spare_unit_of_the_published_layout_is_never_called():
    dpt = DPT([4] * 4, patch=8, layer_dims=(4, 4, 4, 4), dim=4, last_dim=4, channels=1, spare_unit=True)
    tokens = [torch.randn(1, 4, 4) for _ in range(4)]
    dpt(tokens, (2, 2)).sum().backward()
    unused = {name.rsplit(".", 2)[0] for name, p in dpt.named_parameters() if p.grad is None}
    assert unused == {"merge.3.skip"}


def test_init_fills_what_to_empty_left():
    with torch.device("meta"):
        block = nn.Sequential(Block(8, 2, layer_scale=0.5), nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2))
    block.to_empty(device="cpu")
    for parameter in block.parameters():
        nn.init.constant_(parameter, float("nan"))
    init_weights(block)
    assert all(bool(parameter.isfinite().all()) for parameter in block.parameters())
    assert bool((block[0].ls1.gamma == 0.5).all())
