"""Map-free, normals and correspondences: perfect, noise of known size, and answers that know nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from manyview import metrics
from manyview.metrics.mapfree import judged_scene, mapfree_scores, pose_line, read_poses

LENS = np.array([[590.0, 0, 270], [0, 590.0, 360], [0, 0, 1]])
SIZE = (540.0, 720.0)


def poses(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cameras = np.tile(np.eye(4), (count, 1, 1))
    cameras[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    cameras[:, :3, 3] = rng.normal(size=(count, 3))
    return cameras


def submitted(cameras: np.ndarray, confidences: np.ndarray) -> dict:
    lines = [
        pose_line(f"seq1/frame_{5 * i:05d}.jpg", camera, float(confidence))
        for i, (camera, confidence) in enumerate(zip(cameras, confidences, strict=True))
    ]
    return read_poses("\n".join(["# ours", *lines]), confidences=True)


def scored(estimates: dict | None, true: np.ndarray) -> dict[str, float]:
    truth = {i: true[i // 5] for i in range(5 * len(true))}
    return mapfree_scores([judged_scene(estimates, truth, dict.fromkeys(truth, LENS), SIZE)])


def test_a_submission_of_true_poses_is_perfect_and_survives_the_file():
    true = poses(8)
    scores = scored(submitted(true, np.arange(8.0)), true)
    assert all(scores[name] == 1 for name in ("precision_pose", "precision_vcre_45", "auc_vcre_90", "estimated"))
    assert scores["median_translation"] < 1e-6


def test_a_shift_of_known_size_moves_virtual_points_by_what_a_pinhole_says():
    true = poses(4)
    moved = true.copy()
    moved[:, :3, 3] += true[:, :3, 0] * 0.01  # 1 cm to the right, in the camera's own frame
    error = metrics.virtual_correspondence_error(moved, true, LENS, SIZE)
    depth = metrics.virtual_points()[:, 2]
    pixels = metrics.virtual_points() @ LENS.T
    inside = ((pixels[:, :2] / pixels[:, 2:] > 0) & (pixels[:, :2] / pixels[:, 2:] < SIZE)).all(-1)
    assert (error <= (590 * 0.01 / depth).mean() + 1e-9).all()
    assert (error >= (590 * 0.01 / depth * inside).mean() - 1e-9).all()


def test_identity_for_every_frame_and_no_answer_score_nothing_and_low_confidence_costs_no_area():
    true = poses(8)
    blind = scored(submitted(np.tile(np.eye(4), (8, 1, 1)), np.ones(8)), true)
    assert blind["precision_pose"] == 0
    assert blind["auc_pose"] == 0
    assert scored({}, true)["estimated"] == 0
    assert scored(None, true)["precision_vcre_90"] == 0
    half = true.copy()
    half[4:] = poses(4, seed=9)
    sure, unsure = (
        scored(submitted(half, order), true)["auc_pose"] for order in (np.arange(8.0)[::-1], np.arange(8.0))
    )
    assert sure == pytest.approx(1.0) or sure > unsure
    assert unsure < 0.6


def test_normals_of_a_tilted_plane_and_noise_of_known_size():
    v, u = np.mgrid[:30, :40]
    x, y = (u - 19.5) / 50, (v - 14.5) / 50
    normal = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
    depth = 2 * normal[2] / (normal @ np.stack([x, y, np.ones_like(x)], 0).reshape(3, -1)).reshape(x.shape)
    points = np.stack([x, y, np.ones_like(x)], -1) * depth[..., None]
    found, known = metrics.normals_from_points(points)
    assert known.all()
    assert np.abs(found - normal).max() < 1e-6
    turned = found @ Rotation.from_rotvec([0, 0, 0]).as_matrix().T
    assert metrics.normal_errors(turned, found)["rmse"] < 1e-4
    axis = np.cross(normal, [0.0, 1, 0])
    tilted = found @ Rotation.from_rotvec(np.radians(20) * axis / np.linalg.norm(axis)).as_matrix().T
    errors = metrics.normal_errors(tilted, found)
    assert errors["mean"] == pytest.approx(20, abs=1e-3)
    assert (errors["below_11"], errors["below_22"], errors["below_30"]) == (0, 1, 1)
    assert np.isnan(metrics.normal_errors(found, found, np.zeros(known.shape, bool))["rmse"])


def test_distinct_features_match_and_noise_does_not():
    rng = np.random.default_rng(0)
    features, points = rng.normal(size=(300, 24)), rng.uniform(1, 2, (300, 3))
    order = rng.permutation(300)
    motion = np.eye(4)
    motion[:3, 3] = 0.1, 0, 0
    second = (features[order] + 0.01 * rng.normal(size=(300, 24)), points[order] + [0.1, 0, 0])
    found = metrics.surface_matches((features, points), second, motion, LENS, 100)
    assert found["error_3d"].max() < 1e-9
    noise = metrics.surface_matches((rng.normal(size=(300, 24)), points), second, motion, LENS, 100)
    assert (noise["error_3d"] < 0.05).mean() < 0.1
    assert len(metrics.ratio_matches(np.zeros((0, 3)), np.ones((2, 3)), 5)[0]) == 0


def test_equal_pictures_give_keypoints_within_a_cell_when_cells_are_meant_by_their_centres():
    features = np.random.default_rng(1).normal(size=(32, 16, 16))
    keys = (np.random.default_rng(2).integers(1, 15, (9, 2)) + 0.5) / 16
    ours = np.diag(metrics.semantic_errors(features, features, keys, keys))
    published = np.diag(metrics.semantic_errors(features, features, keys, keys, published=True))
    assert ours.max() < 1e-6
    assert published.mean() > 0.02  # half a cell off: the published way cannot be perfect


def test_the_paper_s_accuracy_is_never_below_the_code_s():
    rng = np.random.default_rng(3)
    rotation, translation = rng.uniform(0, 60, (2, 400))
    paper, joint = (
        metrics.paper_average_accuracy(rotation, translation),
        metrics.exact_average_accuracy(rotation, translation),
    )
    assert paper > joint + 0.05  # independent errors
    assert metrics.paper_average_accuracy(rotation, rotation) == pytest.approx(
        metrics.exact_average_accuracy(rotation, rotation)
    )
    assert metrics.paper_average_accuracy(np.zeros(3), np.zeros(3)) == 1
