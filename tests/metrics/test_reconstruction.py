"""The per-view protocol: perfect is perfect, scale is taken out, noise costs, invalid pixels never count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyview import metrics


def scene(seed: int = 0) -> np.ndarray:
    """A measured pointmap (12, 16, 3) of a wavy surface, with a hole."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:12, :16] + 0.5
    depth = 2 + 0.3 * np.sin(u / 3) + 0.2 * np.cos(v / 2) + 0.01 * rng.random((12, 16))
    points = np.stack([(u - 8) / 14 * depth, (v - 6) / 14 * depth, depth], -1)
    points[3:5, 4:7] = 0
    return points


def test_a_perfect_prediction_scores_perfectly():
    truth = scene()
    found = metrics.per_view_reconstruction(truth, truth)
    assert (found["accuracy"], found["completeness"], found["abs_rel"]) == (0, 0, 0)
    assert (found["scale_factor"], found["delta_1"], found["unusable"]) == (1, 1, 0)
    assert found["pixels"] == 12 * 16 - 6


def test_scale_is_taken_out_and_reported():
    found = metrics.per_view_reconstruction(2 * scene(), scene())
    assert found["scale_factor"] == pytest.approx(0.5)
    assert found["accuracy"] == pytest.approx(0, abs=1e-9)
    assert found["completeness"] == pytest.approx(0, abs=1e-9)
    assert found["abs_rel"] == pytest.approx(0, abs=1e-12)


def test_noise_scores_worse_and_more_noise_worse_still():
    truth, rng = scene(), np.random.default_rng(1)
    noise = rng.standard_normal(truth.shape[:2])
    scores = []
    for strength in (0.0, 0.02, 0.1):
        found = metrics.per_view_reconstruction(truth * (1 + strength * noise)[..., None], truth)
        scores.append([found[key] for key in ("accuracy", "completeness", "abs_rel")])
    assert (np.diff(scores, axis=0) > 0).all()


def test_against_naive_loops_on_torch_input():
    truth, rng = scene(2), np.random.default_rng(3)
    predicted = 0.4 * truth * (1 + 0.05 * rng.standard_normal(truth.shape[:2]))[..., None]
    predicted[truth[..., 2] == 0] = 7  # where nothing was measured anything may stand
    found = metrics.per_view_reconstruction(torch.from_numpy(predicted), torch.from_numpy(truth))

    pairs = [(predicted[i, j], truth[i, j]) for i in range(12) for j in range(16) if truth[i, j, 2] > 0]
    ratios = sorted(t[2] / p[2] for p, t in pairs)
    scale = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
    ours, theirs = [scale * p for p, _ in pairs], [t for _, t in pairs]
    to_truth = [min(float(np.linalg.norm(p - t)) for t in theirs) for p in ours]
    to_ours = [min(float(np.linalg.norm(p - t)) for p in ours) for t in theirs]
    assert found["scale_factor"] == pytest.approx(scale)
    assert found["accuracy"] == pytest.approx(100 * np.median(to_truth))
    assert found["completeness"] == pytest.approx(100 * np.median(to_ours))
    assert found["abs_rel"] == pytest.approx(np.mean([abs(scale * p[2] - t[2]) / t[2] for p, t in pairs]), rel=1e-6)


def test_unusable_predictions_cost_and_are_counted():
    truth = scene()
    predicted = truth.copy()
    predicted[0, 0], predicted[0, 1, 2] = np.nan, -1
    found = metrics.per_view_reconstruction(predicted, truth)
    assert found["unusable"] == pytest.approx(2 / found["pixels"])
    assert found["abs_rel"] == pytest.approx(2 / found["pixels"])  # an error of 1 each
    assert found["delta_1"] == pytest.approx(1 - 2 / found["pixels"])
    assert np.isfinite([found["accuracy"], found["completeness"]]).all()


def test_views_without_a_score_say_why():
    truth = scene()
    with pytest.raises(ValueError, match="only 0 pixels"):
        metrics.per_view_reconstruction(truth, np.zeros_like(truth))
    with pytest.raises(ValueError, match="no predicted point"):
        metrics.per_view_reconstruction(np.full_like(truth, np.nan), truth)


def test_a_mask_narrows_what_is_judged():
    truth = scene()
    predicted = truth.copy()
    predicted[:, 8:] *= 3
    left = np.zeros(truth.shape[:2], bool)
    left[:, :8] = truth[:, :8, 2] > 0
    assert metrics.per_view_reconstruction(predicted, truth, left)["abs_rel"] == 0
    assert metrics.per_view_reconstruction(predicted, truth)["abs_rel"] > 0.1
