"""Matches of descriptor maps: places of two photos whose descriptors are each other's nearest.

The nearest of two hundred thousand descriptors is looked for through an inverted-file index, in plain torch: they are
shared out to the lists of some hundred centres, and a query is compared with those of the nearest lists only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manyview.cameras.keypoints import Keypoints

LISTS, PROBED = 256, 4
"""Lists of the index, and how many of them a query is compared with."""
SMALL = 8192
"""Up to so many descriptors a query is compared with all of them."""
ROUNDS, SAMPLE = 6, 64
"""Rounds of k-means for the centres, and descriptors per centre that take part."""

Pairs = Iterable[tuple[int, int]]


@dataclass(frozen=True)
class OwnMatches:
    """What a model itself says is the same in two photos."""

    keypoints: Sequence[Keypoints]
    """Places of each photo."""
    match: Callable[[Pairs], dict[tuple[int, int], np.ndarray]]
    """Pairs of photos -> (M, 2) indices of places, for those that the model has seen."""


def reciprocal(first: Tensor, second: Tensor) -> np.ndarray:
    """(M, 2) indices of unit descriptors (N, D) and (K, D) that are each other's nearest; both ways by an index."""
    if not len(first) or not len(second):
        return np.empty((0, 2), np.int64)
    forward, backward = nearest(first, second), nearest(second, first)
    rows = torch.arange(len(first))
    good = backward[forward] == rows
    return torch.stack([rows[good], forward[good]], 1).numpy()


def nearest(queries: Tensor, others: Tensor, *, lists: int = LISTS, probed: int = PROBED) -> Tensor:
    """(N,) which of others (K, D) has the largest product with each query (N, D); nearly always the true one."""
    if len(others) <= SMALL:
        return exact_nearest(queries, others)
    centres = _centres(others, lists)
    owner = exact_nearest(others, centres)
    order = owner.argsort()
    ends = torch.bincount(owner, minlength=len(centres)).cumsum(0).tolist()
    best = torch.full((len(queries),), -torch.inf, dtype=queries.dtype)
    found = torch.zeros(len(queries), dtype=torch.long)
    near = torch.cat([(block @ centres.T).topk(probed, dim=1).indices for block in queries.split(SMALL)])
    flat, asked = near.flatten().sort()
    asked = asked // probed
    starts = torch.searchsorted(flat, torch.arange(len(centres) + 1)).tolist()
    for number in range(len(centres)):
        members = order[(ends[number - 1] if number else 0) : ends[number]]
        which = asked[starts[number] : starts[number + 1]]
        if len(members) and len(which):
            value, place = (queries[which] @ others[members].T).max(1)
            better = value > best[which]
            best[which[better]], found[which[better]] = value[better], members[place[better]]
    return found


def exact_nearest(queries: Tensor, others: Tensor) -> Tensor:
    """The same by comparing all with all, a block at a time."""
    block = max(1, 2**24 // len(others))
    return torch.cat([(part @ others.T).argmax(1) for part in queries.split(block)])


def _centres(values: Tensor, count: int) -> Tensor:
    """(count, D) unit centres of values (K, D) by k-means on an even sample."""
    sample = values[:: max(1, len(values) // (count * SAMPLE))]
    centres = sample[:: max(1, len(sample) // count)][:count].clone()
    for _ in range(ROUNDS):
        owner = exact_nearest(sample, centres)
        centres = centres.index_add(0, owner, sample)  # an empty list keeps its centre
        centres = torch.nn.functional.normalize(centres, dim=1)
    return centres
