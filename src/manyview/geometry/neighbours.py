"""Nearest neighbours between point clouds, through scipy's k-d tree."""

from __future__ import annotations

import numpy as np


def nearest(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every source point (N, 3) its distance to the nearest target point (M, 3), (N,) float64, and that one's index.

    An empty target gives infinities and index -1, an empty source empty arrays.
    """
    from scipy.spatial import cKDTree

    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if len(target) == 0 or len(source) == 0:
        return np.full(len(source), np.inf), np.full(len(source), -1)
    return cKDTree(target).query(source)


def nearest_distances(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The first of `nearest`: (N,) float64."""
    return nearest(source, target)[0]
