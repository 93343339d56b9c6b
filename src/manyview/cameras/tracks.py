"""What a camera rests on, and the points that photos share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RestsOn = Literal["matches", "depth", "model", "given", "nothing"]
"""What a pose is worth: matches with parallax, matches with depth, the model's word, the user's, or nothing."""
REGISTERED = ("matches", "depth", "given")
"""Poses that rest on these count as registered."""


@dataclass(frozen=True, repr=False, eq=False)
class Tracks:
    """Points of the world and where photos show them."""

    points: np.ndarray  # (N, 3) in the frame of their component
    component: np.ndarray  # (N,)
    view: np.ndarray  # (M,)
    point: np.ndarray  # (M,)
    uv: np.ndarray  # (M, 2) pixels of the original photo

    def __repr__(self) -> str:
        return f"Tracks({len(self.points):,} points, {len(self.uv):,} observations)"

    def of(self, views: Sequence[int]) -> Tracks:
        """The points that these photos show, and where; photos and points are numbered anew."""
        number = {view: row for row, view in enumerate(views)}
        kept = np.isin(self.view, views)
        ids, point = np.unique(self.point[kept], return_inverse=True)
        renumbered = np.array([number[view] for view in self.view[kept].tolist()], int)
        return Tracks(self.points[ids], self.component[ids], renumbered, point, self.uv[kept])


def no_tracks() -> Tracks:
    return Tracks(np.empty((0, 3)), np.empty(0, int), np.empty(0, int), np.empty(0, int), np.empty((0, 2)))
