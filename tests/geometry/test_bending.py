"""A guess bent to known depths: its wrong slopes are mended around them, its detail stays, outliers pull little."""

from __future__ import annotations

import pytest
import torch

from manyview.geometry.bending import bent

SIZE = (60, 80)


def scene(seed: int = 0):
    """True depth, a guess with true detail and a wrong slope, and where depth is known."""
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.meshgrid(torch.linspace(-1, 1, SIZE[0]), torch.linspace(-1, 1, SIZE[1]), indexing="ij")
    detail = 1 + 0.2 * (torch.sin(9 * u) * torch.cos(7 * v) > 0)
    true = (2 + 0.5 * v) * detail
    guess = 0.3 * true * torch.exp(0.5 * u + 0.2 * v)
    return true[None], guess[None], (torch.rand(SIZE, generator=generator) < 0.2).float()[None]


def error(depth, true):
    return float((depth * (true / depth).median() / true - 1).abs().mean())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_slopes_are_mended_and_outliers_pull_little(scale):
    true, guess, weight = scene()
    known = true * scale
    known[:, ::7, ::5] *= 40
    found, support = bent(guess, known, weight)
    assert error(guess, true) > 0.2
    assert error(found, true) < 0.06
    assert abs(float((found / scale / true).median()) - 1) < 0.05, "the scale is that of what is known"
    assert support.min() > 0.4


def test_known_depths_of_another_place_mend_nothing():
    true, guess, weight = scene()
    strange = true.flatten()[torch.randperm(true.numel(), generator=torch.Generator().manual_seed(1))].view_as(true)
    assert error(bent(guess, strange, weight)[0], true) > 3 * error(bent(guess, true, weight)[0], true)


def test_far_from_what_is_known_and_without_it_the_guess_stays():
    true, guess, weight = scene()
    found, support = bent(guess, true, torch.zeros_like(weight))
    assert torch.allclose(found, guess)
    assert support.max() == 0
    weight[..., 12:] = 0
    found, support = bent(guess, true, weight)
    assert support[..., -5:].max() < 0.1 < 0.35 < support[..., :8].min()
    assert torch.isfinite(found).all()
