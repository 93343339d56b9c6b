"""Cloud distances against all pairs, their edge cases, and scale estimators against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manyview import metrics


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((40, 3)), rng.random((55, 3))


def test_distances_against_all_pairs():
    predicted, true = clouds()
    table = np.linalg.norm(predicted[:, None] - true[None], axis=-1)
    forward, backward = metrics.cloud_distances(torch.from_numpy(predicted), true)
    assert forward == pytest.approx(table.min(1))
    assert backward == pytest.approx(table.min(0))
    found = metrics.cloud_metrics(predicted, true, thresholds=(0.2,))
    precision, recall = (table.min(1) < 0.2).mean(), (table.min(0) < 0.2).mean()
    assert found["accuracy"] == pytest.approx(table.min(1).mean())
    assert found["completeness_median"] == pytest.approx(np.median(table.min(0)))
    assert found["chamfer"] == pytest.approx((table.min(1).mean() + table.min(0).mean()) / 2)
    assert found["f_score@0.2"] == pytest.approx(2 * precision * recall / (precision + recall))
    squared = (table.min(1) ** 2).mean() + (table.min(0) ** 2).mean()
    assert metrics.chamfer(predicted, true, kind="squared") == pytest.approx(squared)


def test_a_missing_part_costs_completeness_an_extra_part_accuracy():
    _, true = clouds()
    assert metrics.accuracy(true[:20], true) == 0
    assert metrics.completeness(true[:20], true) > 0.05
    extra = np.concatenate([true, true + 5])
    assert metrics.accuracy(extra, true) > 1
    assert metrics.completeness(extra, true) == 0


@pytest.mark.parametrize("swap", [False, True])
def test_an_empty_cloud_is_infinitely_bad(swap):
    pair = (np.zeros((0, 3)), np.ones((4, 3)))
    found = metrics.cloud_metrics(*(pair[::-1] if swap else pair), thresholds=(1.0,))
    assert math.isinf(found["accuracy"])
    assert math.isinf(found["completeness"])
    assert found["f_score@1"] == 0


def test_normals_ignore_their_sign_and_see_a_tilt():
    predicted, _ = clouds()
    up = np.tile([0.0, 0.0, 1.0], (40, 1))
    tilted = np.tile([0.0, np.sin(0.3), -np.cos(0.3)], (40, 1))
    assert metrics.normal_consistency(predicted, predicted, up, -up)["nc"] == pytest.approx(1)
    found = metrics.normal_consistency(predicted, predicted, tilted, up)
    assert found["nc_1"] == pytest.approx(np.cos(0.3))


def pointmaps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    true = rng.uniform(0.5, 4, (2, 4, 5, 3))
    return 0.3 * true, true, rng.random((2, 4, 5)) < 0.8


@pytest.mark.parametrize(
    "how", ["median_of_ratios", "ratio_of_medians", "least_squares", "mean_distance", "median_distance"]
)
def test_every_estimator_finds_an_exact_scale(how):
    predicted, true, valid = pointmaps()
    assert metrics.scale_factor(predicted, true, valid, how=how) == pytest.approx(1 / 0.3)


def test_scales_never_read_invalid_points():
    predicted, true, valid = pointmaps()
    spoiled = np.where(valid[..., None], true, np.nan)
    assert metrics.mean_distance(spoiled, valid) == metrics.mean_distance(true, valid)
    assert metrics.median_distance(spoiled, valid) == metrics.median_distance(true, valid)
    assert math.isnan(metrics.scale_factor(predicted, true, np.zeros_like(valid)))
    with pytest.raises(ValueError, match="mean_distance"):
        metrics.scale_factor(predicted, true, valid, how="guess")


def test_mean_distance_against_a_loop():
    _, true, valid = pointmaps()
    norms = [math.sqrt(sum(x * x for x in p)) for p, keep in zip(true.reshape(-1, 3), valid.ravel()) if keep]
    assert metrics.mean_distance(true, valid) == pytest.approx(sum(norms) / len(norms))
    first = metrics.mean_distance(true, valid, first_view_only=True)
    assert first == pytest.approx(metrics.mean_distance(true[:1], valid[:1]))
