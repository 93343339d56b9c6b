"""How sure a number is: intervals from drawing scenes anew, since items of one scene are no independent trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

DRAWS = 2000


def mean(sums: np.ndarray) -> np.ndarray:
    """Of sums (..., 2) of values and of their count: (...)."""
    return np.asarray(sums[..., 0] / sums[..., 1])


@lru_cache(maxsize=4)
def _times(scenes: int, seed: int, draws: int) -> np.ndarray:
    """How often every scene is drawn, (draws, scenes)."""
    drawn = np.random.default_rng(seed).integers(0, scenes, (draws, scenes))
    return np.stack([np.bincount(row, minlength=scenes) for row in drawn])


def over_scenes(
    parts: np.ndarray,
    scenes: Sequence[str],
    seed: int,
    *,
    number: Callable[[np.ndarray], np.ndarray] = mean,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """The 95 % interval of a number that follows from sums over items; NaN for fewer than two scenes.

    parts (N, K): what each item adds to the sums. number: sums (..., K) -> (...). Scenes are drawn with replacement,
    as many as there are; the same seed draws the same ones.
    """
    names, rows = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        return math.nan, math.nan
    sums = np.zeros((len(names), parts.shape[1]))
    np.add.at(sums, rows, parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = number(_times(len(names), seed, draws) @ sums)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
