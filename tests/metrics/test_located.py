"""Map and Locate: perfect labels score one, and the metric can say no."""

from __future__ import annotations

import numpy as np
import pytest

from manyview import metrics


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (900, 3)), rng.integers(0, 3, 900)


def test_the_truth_scores_one(cloud):
    points, labels = cloud
    found = metrics.map_and_locate(points, labels, points, labels, classes=range(3))
    assert (found["miou"], found["accuracy"], found["pred_to_true"], found["true_to_pred"]) == (1, 1, 0, 0)


def test_shuffled_labels_and_one_answer_for_all_score_as_chance_has_it(cloud):
    points, labels = cloud
    shuffled = np.random.default_rng(1).permutation(labels)
    found = metrics.map_and_locate(points, shuffled, points, labels, classes=range(3))
    assert found["miou"] == pytest.approx(1 / 5, abs=0.03)  # p / (2 - p) of independent labels, p = 1/3
    constant = metrics.map_and_locate(points, np.zeros(900, int), points, labels, classes=range(3))
    assert constant["miou"] == pytest.approx(np.mean(labels == 0) / 3)
    assert constant["both"] == 1


def test_the_two_directions_are_told_apart(cloud):
    points, _ = cloud
    far = np.concatenate([points, points + 10])
    found = metrics.map_and_locate(far, np.zeros(1800, int), points, np.zeros(900, int), classes=[0])
    assert found["true_to_pred"] == 0  # the truth is covered
    assert found["pred_to_true"] > 5  # but half of the predictions are nowhere near it


def test_void_points_that_are_not_finite_and_nothing_at_all(cloud):
    points, labels = cloud
    broken = np.concatenate([points, np.full((50, 3), np.nan)])
    found = metrics.map_and_locate(broken, np.append(labels, np.zeros(50, int)), points, labels, classes=range(3))
    assert found["miou"] == 1
    none = metrics.map_and_locate(np.zeros((0, 3)), [], points, labels, classes=range(3))
    assert (none["miou"], none["both"]) == (0, 0)
    assert np.isnan(none["pred_to_true"])
    with pytest.raises(ValueError, match="no true point"):
        metrics.map_and_locate(points, labels, points, np.full(900, -1), classes=range(3))
