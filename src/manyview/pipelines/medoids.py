"""k-medoids: the k of n things that the others are closest to, by PAM (Kaufman and Rousseeuw), without chance.

BUILD adds one medoid after the other, SWAP exchanges one for a thing that is none while that helps; all exchanges are
weighed at once, in n^2 steps (FastPAM1 of Schubert and Rousseeuw, 2019). Equal costs go to the first index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_GAIN = 1e-10
"""An exchange must lower the cost by more than this share of it, so that rounding cannot turn in circles."""


@dataclass(frozen=True)
class Medoids:
    """Indices of the medoids, whose each thing is, and how far all are from theirs together."""

    indices: np.ndarray  # (k,)
    labels: np.ndarray  # (n,) in [0, k)
    cost: float


def k_medoids(distances: np.ndarray, k: int) -> Medoids:
    """The k medoids of things whose distances (n, n) are known, the largest group first. k in [1, n]."""
    distances = np.asarray(distances, np.float64)
    if not 1 <= k <= len(distances):
        raise ValueError(f"{k} medoids of {len(distances)} things")
    chosen = _build(distances, k)
    while _swap(distances, chosen):
        pass
    chosen.sort()
    labels = distances[:, chosen].argmin(1)
    labels[chosen] = np.arange(k)  # a medoid is its own, also where another lies at the same place
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    rank = np.empty(k, np.int64)
    rank[order] = np.arange(k)
    cost = float(distances[np.arange(len(distances)), np.array(chosen)[labels]].sum())
    return Medoids(np.array(chosen)[order], rank[labels], cost)


def _build(distances: np.ndarray, k: int) -> list[int]:
    """The thing nearest to all, then k - 1 times the one that brings the rest nearest."""
    chosen: list[int] = []
    nearest = np.full(len(distances), np.inf)
    for _ in range(k):
        cost = np.minimum(nearest[:, None], distances).sum(0)
        cost[chosen] = np.inf
        chosen.append(int(cost.argmin()))
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    return chosen


def _swap(distances: np.ndarray, chosen: list[int]) -> bool:
    """Make the best exchange in place; False when none helps."""
    own = distances[:, chosen]  # (n, k)
    label = own.argmin(1)
    first = own.min(1, keepdims=True)
    rest = own.copy()
    rest[np.arange(len(own)), label] = np.inf
    second = rest.min(1, keepdims=True)
    with_it = np.minimum(distances - first, 0)  # what each thing gains from a candidate, all medoids kept ...
    without = np.minimum(distances, second) - first - with_it  # ... and loses more when its own medoid goes
    group = (label == np.arange(len(chosen))[:, None]).astype(np.float64)  # (k, n)
    change = group @ without + with_it.sum(0)  # (k, n): medoid out, candidate in
    change[:, chosen] = np.inf
    out, candidate = np.unravel_index(change.argmin(), change.shape)
    if not change[out, candidate] < -LEAST_GAIN * max(float(first.sum()), np.finfo(np.float64).tiny):
        return False
    chosen[int(out)] = int(candidate)
    return True


def euclidean(rows: np.ndarray) -> np.ndarray:
    """Distances (n, n) between rows (n, D)."""
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(0)
    squares = np.square(rows).sum(1)
    between = squares[:, None] + squares - 2 * rows @ rows.T
    np.fill_diagonal(between, 0)
    return np.sqrt(between.clip(0))
