"""Groups of a few views of a scene that belong together: SAB3R's choice for Map and Locate, in words of the paper.

The paper (section 4) asks for overlap (each view overlaps with at least one other of its group), visibility of objects
and diversity, and publishes neither thresholds nor lists. Here a group counts when its views are linked by overlaps
within limits; of these the one is taken that shows most objects to two views or more, then most objects.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from manyview.data.loading import read_classes
from manyview.data.manifest import Manifest
from manyview.data.pairs import DepthReader, measured_pairs
from manyview.images.maps import read_labels
from manyview.images.reading import ImageProblem

MOST_FRAMES, MOST_GROUPS = 24, 2000
"""Of a scene, evenly spread; and groups of these that are compared."""
SHOWN = 0.005
"""An object is shown by a view that has at least this share of its pixels."""
SMALL = (84, 112)
"""Depth is compared at this size."""


@dataclass(frozen=True)
class Group:
    """Rows of a manifest, and why they were taken."""

    rows: list[int]
    shared: int
    """Objects that two of its views show, or more."""
    objects: int
    overlap: float
    """The smallest of the overlaps that link it."""


def objects_of(data: Manifest, row: int) -> set[tuple[int, int]]:
    """(class, instance) of what a frame shows; instance 0 where the manifest has none. Empty without labels."""
    frame = data[row]
    if frame.labels is None:
        return set()
    try:
        classes = read_classes(data, frame.labels)
        numbers = read_labels(data.path(frame.instances)) if frame.instances else np.zeros_like(classes)
    except ImageProblem:
        return set()
    if numbers.shape != classes.shape:
        numbers = np.zeros_like(classes)
    pairs, counts = np.unique(np.stack([classes.ravel(), numbers.ravel()]), axis=1, return_counts=True)
    large = (counts >= SHOWN * classes.size) & (pairs[0] >= 0)
    return {(int(kind), int(number)) for kind, number in pairs[:, large].T}


def groups_of_scene(
    data: Manifest,
    scene: str,
    rows: Sequence[int],
    sizes: Sequence[int],
    *,
    sets: int,
    overlap: tuple[float, float],
    seed: int,
) -> dict[int, list[Group]]:
    """At most `sets` groups of every size of these frames of a scene, which share as few views as can be."""
    rng = np.random.default_rng(seed)
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, MOST_FRAMES).round().astype(int))] if rows else []
    shown = {row: objects for row in rows if (objects := objects_of(data, row))}
    known = list(shown)
    pairs = measured_pairs(DepthReader(data, SMALL), scene, known, len(known) ** 2, rng)
    place = {row: index for index, row in enumerate(known)}
    shares = np.zeros((len(known), len(known)))
    for pair in pairs:
        shares[place[pair.a], place[pair.b]] = pair.overlap
    shares = np.minimum(shares, shares.T)
    linked = (shares >= overlap[0]) & (shares <= overlap[1])
    return {size: _chosen(known, shown, shares, linked, size, sets, rng) for size in sizes}


def _chosen(
    rows: Sequence[int],
    shown: dict[int, set[tuple[int, int]]],
    shares: np.ndarray,
    linked: np.ndarray,
    size: int,
    sets: int,
    rng: np.random.Generator,
) -> list[Group]:
    every = list(itertools.islice(itertools.combinations(range(len(rows)), size), 200_000))
    if len(every) > MOST_GROUPS:
        every = [every[i] for i in rng.choice(len(every), MOST_GROUPS, replace=False)]
    found = []
    for members in every:
        inner = linked[np.ix_(members, members)]
        edges = [(a, b) for a, b in itertools.combinations(range(size), 2) if inner[a, b]]
        if not _is_linked(size, edges):
            continue
        counts: dict[tuple[int, int], int] = {}
        for member in members:
            for thing in shown[rows[member]]:
                counts[thing] = counts.get(thing, 0) + 1
        shared = sum(count > 1 for count in counts.values())
        least = min(float(shares[members[a], members[b]]) for a, b in edges)
        found.append(Group([rows[member] for member in members], shared, len(counts), least))
    found.sort(key=lambda group: (-group.shared, -group.objects, group.rows))
    taken: list[Group] = []
    while found and len(taken) < sets:
        used = {row for group in taken for row in group.rows}
        best = min(found, key=lambda group: len(used & set(group.rows)))  # the first of the least
        taken.append(best)
        found.remove(best)
    return taken


def _is_linked(size: int, edges: Sequence[tuple[int, int]]) -> bool:
    reached, before = {0}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {end for edge in edges if reached & set(edge) for end in edge}
    return len(reached) == size
