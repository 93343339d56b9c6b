"""Metrics refuse shapes that numpy would repeat in silence, and say so when an answer is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manyview.metrics import depth, matching, pose, reconstruction, scale

RNG = np.random.default_rng(0)
DEPTH, ROW = RNG.uniform(1, 2, (6, 8)), RNG.uniform(1, 2, (1, 8))
POINTS = RNG.uniform(1, 2, (6, 8, 3))
POSES = np.tile(np.eye(4), (5, 1, 1))
POSES[:, :3, 3] = RNG.normal(size=(5, 3))
ANGLES = RNG.uniform(0, 30, 5)


@pytest.mark.parametrize(
    ("judge", "true", "small"),
    [
        (depth.depth_errors, DEPTH, ROW),
        (depth.abs_rel, DEPTH, ROW),
        (depth.align_depth, DEPTH, ROW),
        (depth.inverse_fit, DEPTH, ROW),
        (pose.rotation_error, POSES[:, :3, :3], np.eye(3)),
        (pose.translation_error, POSES[:, :3, 3], POSES[0, :3, 3]),
        (pose.relative_pose_errors, POSES, POSES[:1]),
        (pose.trajectory_error, POSES, POSES[:1]),
        (pose.relative_trajectory_error, POSES, POSES[:1]),
        (pose.align_centres, POSES[:, :3, 3], POSES[:1, :3, 3]),
        (pose.mean_average_accuracy, ANGLES, ANGLES[:1]),
        (pose.exact_average_accuracy, ANGLES, ANGLES[:1]),
        (scale.scale_factor, POINTS, POINTS[:1]),
        (reconstruction.per_view_reconstruction, POINTS, POINTS[:1]),
        (lambda p, t: matching.end_point_errors(p, t, np.ones((6, 8), bool)), POINTS[..., :2], POINTS[:1, :, :2]),
    ],
)
def test_shapes_that_would_broadcast_are_refused(judge, true, small):
    judge(true, true)
    for pair in ((small, true), (true, small)):
        with pytest.raises(ValueError, match="shapes differ"):
            judge(*pair)


@pytest.mark.parametrize(
    "judge",
    [
        lambda mask: depth.depth_errors(DEPTH, DEPTH, mask),
        lambda mask: scale.scale_factor(POINTS, POINTS, mask),
        lambda mask: scale.median_depth(POINTS, mask),
        lambda mask: reconstruction.per_view_reconstruction(POINTS, POINTS, mask),
        lambda mask: matching.end_point_errors(POINTS[..., :2], POINTS[..., :2], mask),
    ],
)
def test_masks_that_would_broadcast_are_refused(judge):
    judge(np.ones((6, 8), bool))
    with pytest.raises(ValueError, match="the mask has shape"):
        judge(np.ones((1, 8), bool))


def test_an_answer_that_is_not_finite_is_never_a_good_one():
    broken = DEPTH.copy()
    broken[0, 0] = np.nan
    errors = depth.depth_errors(broken, DEPTH)
    assert math.isnan(errors["abs_rel"])
    assert errors["delta_1"] == pytest.approx(47 / 48)
    poses = POSES.copy()
    poses[2] = np.nan
    for align in ("none", "rigid", "similarity", "scale"):
        assert math.isnan(pose.trajectory_error(poses, POSES, align=align)["rmse"])
    assert math.isnan(pose.relative_trajectory_error(poses, POSES)["rotation"])
    assert matching.matching_scores(np.array([0.0, np.nan]))["pck_1"] == 0.5
    points = POINTS.copy()
    points[0, 0] = np.nan
    assert reconstruction.per_view_reconstruction(points, POINTS)["unusable"] == pytest.approx(1 / 48)
