"""Nearest neighbours between point clouds, through scipy's k-d tree."""

from __future__ import annotations

import numpy as np


def nearest_distances(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Distance from every source point (N, 3) to its nearest target point (M, 3): (N,) float64.

    An empty target gives infinities, an empty source an empty array.
    """
    from scipy.spatial import cKDTree

    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if len(target) == 0:
        return np.full(len(source), np.inf)
    if len(source) == 0:
        return np.zeros(0)
    return cKDTree(target).query(source)[0]
