"""Depth errors against loops, alignments against what they must undo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manyview import metrics
from manyview.metrics.depth import ALIGNMENTS, ERRORS


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.5, 6, (9, 11))
    true[rng.random(true.shape) < 0.2] = 0
    return true * rng.uniform(0.8, 1.3, true.shape) + 0.1 * (true > 0) + (true == 0), true


def test_errors_against_loops():
    predicted, true = maps()
    found = metrics.depth_errors(torch.from_numpy(predicted), torch.from_numpy(true))
    pairs = [(p, t) for p, t in zip(predicted.ravel(), true.ravel(), strict=True) if t > 0]
    logs = [math.log(p / t) for p, t in pairs]
    mean = sum(logs) / len(logs)
    expected = {
        "abs_rel": sum(abs(p - t) / t for p, t in pairs) / len(pairs),
        "sq_rel": sum((p - t) ** 2 / t for p, t in pairs) / len(pairs),
        "rmse": math.sqrt(sum((p - t) ** 2 for p, t in pairs) / len(pairs)),
        "mae": sum(abs(p - t) for p, t in pairs) / len(pairs),
        "log_rmse": math.sqrt(sum(log**2 for log in logs) / len(logs)),
        "log_10": sum(abs(log) for log in logs) / len(logs) / math.log(10),
        "silog": math.sqrt(sum((log - mean) ** 2 for log in logs) / len(logs)),
        "inlier_103": sum(max(p / t, t / p) < 1.03 for p, t in pairs) / len(pairs),
        **{f"delta_{k}": sum(max(p / t, t / p) < 1.25**k for p, t in pairs) / len(pairs) for k in (1, 2, 3)},
        "pixels": len(pairs),
    }
    assert found == pytest.approx(expected)
    assert set(expected) == {*ERRORS, "pixels"}


@pytest.mark.parametrize("how", [name for name in ALIGNMENTS if name != "none"])
def test_every_alignment_undoes_a_scale(how):
    _, true = maps()
    assert metrics.abs_rel(3.7 * true, true, align=how) == pytest.approx(0, abs=1e-6)
    assert metrics.abs_rel(3.7 * true, true, align="none") == pytest.approx(2.7)


def test_shifts_need_their_own_alignment():
    _, true = maps()
    valid = true > 0
    assert metrics.abs_rel(2 * true + 1, true, align="scale_shift") == pytest.approx(0, abs=1e-9)
    inverse = np.where(valid, 1 / (0.5 / np.where(valid, true, 1) + 0.2), 0)
    assert metrics.abs_rel(inverse, true, align="inverse_scale_shift") == pytest.approx(0, abs=1e-9)
    assert metrics.inverse_fit(inverse, true) == pytest.approx((2, -0.4))
    assert metrics.abs_rel(2 * true + 1, true, align="median") > 0.05


def test_the_two_medians_differ_on_even_counts():
    predicted, true = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 8.0])
    assert metrics.align_depth(predicted, true, how="median")[0] == pytest.approx(3 / 2.5)
    assert metrics.align_depth(predicted, true, how="lower_median")[0] == pytest.approx(2 / 2)
    assert metrics.align_depth(predicted, true, how="median_of_ratios")[0] == pytest.approx((1 + 4 / 3) / 2)


def test_the_l1_scale_resists_outliers():
    _, true = maps()
    predicted = true / 2
    rows, columns = np.nonzero(true)
    predicted[rows[:8], columns[:8]] *= 3
    aligned = metrics.align_depth(predicted, true, how="scale_l1")
    assert np.median(aligned[true > 0] / true[true > 0]) == pytest.approx(1, abs=0.01)


def test_nothing_valid_gives_nan_and_nan_predictions_give_nan():
    predicted, true = maps()
    empty = metrics.depth_errors(predicted, np.zeros_like(true), align="median")
    assert empty["pixels"] == 0
    assert math.isnan(empty["abs_rel"])
    predicted[np.nonzero(true)[0][0], np.nonzero(true)[1][0]] = np.nan
    assert math.isnan(metrics.depth_errors(predicted, true)["abs_rel"])
    true[np.isnan(predicted)] = np.inf  # infinite measurements are none
    assert np.isfinite(metrics.depth_errors(predicted, true)["abs_rel"])


def test_clipping_comes_after_the_alignment():
    true = np.array([1.0, 1.0, 10.0])
    found = metrics.depth_errors(2 * true, true, align="median", clip=(None, 5.0))
    assert found["abs_rel"] == pytest.approx(0.5 / 3)


def test_unknown_alignment_names_the_known_ones():
    with pytest.raises(ValueError, match="scale_shift"):
        metrics.align_depth(np.ones(3), np.ones(3), how="best")


def test_eigen_crop_of_the_original_size():
    assert metrics.eigen_crop(480, 640) == (slice(45, 471), slice(41, 601))
