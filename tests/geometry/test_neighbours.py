"""Nearest distances, against the slow way and at the empty ends."""

from __future__ import annotations

import numpy as np

from manyview.geometry.neighbours import nearest_distances


def test_agrees_with_all_pairs():
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(40, 3)), generator.normal(size=(70, 3))
    slow = np.linalg.norm(source[:, None] - target[None], axis=-1).min(1)
    assert np.allclose(nearest_distances(source, target), slow)
    assert np.allclose(nearest_distances(source.astype(np.float32), target), slow, atol=1e-6)


def test_empty_sets():
    points = np.zeros((2, 3))
    assert nearest_distances(points, np.zeros((0, 3))).tolist() == [np.inf, np.inf]
    assert nearest_distances(np.zeros((0, 3)), points).shape == (0,)
    assert nearest_distances(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
