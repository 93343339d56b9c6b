"""Photos as a graph whose edges are pairs of them: what is joined, along which tree, and which pairs others support."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

CLOSED = 10.0
"""Degrees within which the rotations of a loop of pairs close."""


def closing(turns: Mapping[tuple[int, int], np.ndarray]) -> dict[tuple[int, int], float]:
    """Per pair (i, j), the share of its loops whose rotations close, one more of both counted in its favour.

    turns: (3, 3) rotations from i's axes to j's. Loops are triangles, and the way back where both orders are there.
    """
    every = {**{(j, i): turn.T for (i, j), turn in turns.items()}, **turns}
    nearby: dict[int, set[int]] = {}
    for i, j in every:
        nearby.setdefault(i, set()).add(j)
    shares = {}
    for i, j in turns:
        loops = [every[k, i] @ every[j, k] @ every[i, j] for k in nearby[i] & nearby[j]]
        loops += [turns[j, i] @ turns[i, j]] if (j, i) in turns else []
        closed = sum((np.trace(loop) - 1) / 2 > np.cos(np.radians(CLOSED)) for loop in loops)
        shares[i, j] = (1 + closed) / (1 + len(loops))
    return shares


def spanning_tree(count: int, weights: Mapping[tuple[int, int], float]) -> tuple[np.ndarray, np.ndarray]:
    """Views in the order in which the heaviest tree reaches them, and the one before each (V,); from the heaviest."""
    ends = np.array(list(weights), int).reshape(-1, 2)
    values = np.array(list(weights.values()), float)
    graph = coo_array((-values, (ends[:, 0], ends[:, 1])), shape=(count, count)).tocsr()
    degree = np.bincount(ends.ravel(), np.repeat(values, 2), count)
    return breadth_first_order(abs(minimum_spanning_tree(graph)), int(degree.argmax()), directed=False)


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """(V,) number of the set of views joined by pairs that each belongs to."""
    ends = np.array([*pairs], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]
