"""Pose errors: known angles, symmetries, AUC by hand, trajectories that must align."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manyview import metrics
from manyview.geometry import poses


def rotation(degrees: float, axis: int = 1) -> np.ndarray:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = cosine
    matrix[i, j], matrix[j, i] = -sine, sine
    return matrix


def track(count: int = 12) -> np.ndarray:
    """cam2world (count, 4, 4) along a curve."""
    t = torch.linspace(0, 3, count, dtype=torch.float64)
    eye = torch.stack([t.cos() * 3, t.sin() * 3, 1 + 0.2 * t], -1)
    return poses.look_at(eye, torch.zeros(3, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("degrees", [0, 1e-5, 0.4, 30, 179.6, 180])
def test_rotation_error_is_exact_at_both_ends(degrees):
    assert metrics.rotation_error(rotation(degrees), np.eye(3)) == pytest.approx(degrees, rel=1e-6, abs=1e-9)
    base = rotation(77, axis=0)
    assert metrics.rotation_error(base @ rotation(degrees), base) == pytest.approx(degrees, rel=1e-5, abs=1e-6)


def test_translation_error_ignores_sign_and_length():
    true = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    predicted = np.array([[-3.0, 0, 0], [1, 1, 0], [0, 0, 2], [1, 0, 0]])
    assert metrics.translation_error(predicted, true) == pytest.approx([0, 45, 90, 90])
    assert math.isnan(metrics.translation_error(predicted, true, zero=math.nan)[3])


def test_relative_errors_do_not_depend_on_the_world():
    true = np.linalg.inv(track(5))
    noisy = true.copy()
    noisy[2, :3, :3] = rotation(4) @ noisy[2, :3, :3]
    rotations, translations, pairs = metrics.relative_pose_errors(noisy, true)
    involved = (pairs == 2).any(1)
    assert rotations[involved] == pytest.approx(4)
    assert rotations[~involved] == pytest.approx(0, abs=1e-6)
    moved = metrics.relative_pose_errors(noisy @ track(3)[2], true)
    assert moved[0] == pytest.approx(rotations, abs=1e-6)
    assert moved[1] == pytest.approx(translations, abs=1e-6)


def test_auc_by_hand():
    assert metrics.pose_auc([0, 0, 0], 10) == 1
    assert metrics.pose_auc([20, 30], 10) == 0
    assert metrics.pose_auc([5.0], 10) == pytest.approx((5 * 1 / 2 + 5 * 1) / 10)
    assert metrics.pose_auc([5.0, math.nan], 10) == pytest.approx(metrics.pose_auc([5.0, 99.0], 10))
    assert metrics.pose_auc([], 10) == 0


def test_average_accuracy_takes_the_larger_error_and_counts_failures():
    rotations, translations = np.array([0.5, 12.5, 40.0]), np.array([3.5, 1.0, math.nan])
    assert metrics.exact_average_accuracy(rotations, translations) == pytest.approx((26.5 / 30 + 17.5 / 30) / 3)
    # Whole degrees below which each pair lies: 4..30 and 13..30, none.
    assert metrics.mean_average_accuracy(rotations, translations) == pytest.approx((27 + 18) / 30 / 3)
    assert metrics.pose_accuracy(np.fmax(rotations, translations), 15) == pytest.approx(2 / 3)


def test_a_moved_and_scaled_track_has_no_error_after_alignment():
    true = track()
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation(50, 2), [1, -2, 3]
    predicted = motion @ true
    predicted[:, :3, 3] *= 2.5
    assert metrics.trajectory_error(predicted, true)["rmse"] == pytest.approx(0, abs=1e-9)
    assert metrics.trajectory_error(predicted, true, align="rigid")["rmse"] > 0.5
    assert metrics.trajectory_error(predicted, true, align="none")["rmse"] > 1
    drift = metrics.relative_trajectory_error(predicted, true)
    assert drift["translation"] == pytest.approx(0, abs=1e-9)
    assert drift["rotation"] == pytest.approx(0, abs=1e-5)
    scale, _, _ = metrics.align_centres(predicted[:, :3, 3], true[:, :3, 3])
    assert scale == pytest.approx(1 / 2.5)


def test_a_camera_that_stands_still_has_no_similarity():
    still = np.repeat(track(1), 6, axis=0)
    assert math.isnan(metrics.trajectory_error(still, still)["rmse"])
    assert math.isnan(metrics.relative_trajectory_error(still, still)["translation"])
    with pytest.raises(ValueError, match="similarity"):
        metrics.trajectory_error(still, still, align="sim3")
