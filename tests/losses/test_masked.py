"""The masked loss against loops over pixels: patch order, normalisation, what counts and what is never read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyview.losses.masked import hidden_pixels, masked_mse, patch_statistics, patchify, unpatchify
from manyview.types import Signal

PATCH, GRID = 2, (3, 4)


def images(scenes: int = 2, views: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(scenes, views, 3, GRID[0] * PATCH, GRID[1] * PATCH, generator=generator)


def test_patches_are_row_major_with_channels_last():
    picture = images()
    patches = patchify(picture, PATCH)
    assert patches.shape == (2, 3, 12, 12)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            by_hand = [
                picture[1, 2, channel, row * PATCH + y, column * PATCH + x]
                for y in range(PATCH)
                for x in range(PATCH)
                for channel in range(3)
            ]
            assert torch.equal(patches[1, 2, row * GRID[1] + column], torch.stack(by_hand))


def test_unpatchify_is_the_inverse_also_on_grids_that_are_not_square():
    assert torch.equal(unpatchify(patchify(images(), PATCH), GRID), images())
    assert torch.equal(unpatchify(patchify(images()[0, 0], PATCH), GRID), images()[0, 0])


def test_sums_and_counts_agree_with_loops_over_pixels():
    picture, mask = images(), torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(1)) < 0.6
    prediction = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    sums, counts = masked_mse(prediction, hidden_pixels(picture, mask, PATCH))
    patches = patchify(picture, PATCH).numpy().astype(np.float64)
    for scene in range(2):
        total = 0.0
        for view, patch in np.argwhere(mask[scene].numpy()):
            pixels = patches[scene, view, patch]
            target = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            total += np.square(prediction[scene, view, patch].numpy() - target).mean()
        assert float(sums[scene]) == pytest.approx(total, rel=1e-5)
        assert int(counts[scene]) == int(mask[scene].sum())


def test_a_flat_patch_has_a_finite_target_and_gradient():
    picture = torch.full((1, 1, 3, 6, 8), 0.3)
    mask = torch.ones(1, 1, 12, dtype=torch.bool)
    prediction = torch.ones(1, 1, 12, 12, requires_grad=True)
    sums, counts = masked_mse(prediction, hidden_pixels(picture, mask, PATCH))
    (sums.sum() / counts.sum()).backward()
    assert float(sums.detach()) == pytest.approx(12.0, abs=1e-2)
    assert torch.isfinite(prediction.grad).all()


def test_visible_patches_are_never_read_and_get_no_gradient():
    mask = torch.zeros(2, 3, 12, dtype=torch.bool)
    mask[:, :, ::2] = True
    signal = hidden_pixels(images(), mask, PATCH)
    prediction = torch.randn(2, 3, 12, 12, requires_grad=True)
    clean, _ = masked_mse(prediction, signal)
    poisoned = signal.value.clone()
    poisoned[:, :, 1::2] = float("nan")
    sums, _ = masked_mse(prediction, Signal(poisoned, valid=mask))
    assert torch.equal(sums, clean)
    sums.sum().backward()
    assert (prediction.grad[:, :, 1::2] == 0).all()
    assert (prediction.grad[:, :, ::2] != 0).any(-1).all()


def test_raw_targets_are_the_pixels_and_statistics_bring_normalised_ones_back():
    mask = torch.ones(2, 3, 12, dtype=torch.bool)
    raw = hidden_pixels(images(), mask, PATCH, normalise=False).value
    assert torch.equal(raw, patchify(images(), PATCH))
    mean, spread = patch_statistics(raw)
    torch.testing.assert_close(hidden_pixels(images(), mask, PATCH).value * spread + mean, raw)


def test_a_signal_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="hidden"):
        masked_mse(torch.zeros(1, 1, 2, 3), Signal(torch.zeros(1, 1, 2, 3)))
