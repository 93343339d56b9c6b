"""Focal lengths: what the matches of several photos say of them.

An essential matrix with the right focal length explains more matches than with a wrong one; where there is too little
parallax to tell, the guess of the reconstructor decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from manyview.cameras.keypoints import Keypoints

GRID = np.geomspace(0.45, 3.2, 20)
"""Focal lengths that are tried, in long sides of the photo."""
SPREAD = 0.35
"""Standard deviation of the logarithm of a guessed focal length."""
MISFIT = 60.0
"""What it costs, in units of half a squared standard deviation, to explain no match at all."""
PAIRS, MANY = 20, 40
"""Pairs of photos that are asked, those with most matches; of more than MANY photos, where those are neighbours that
have hardly moved, the ones whose matches have moved most."""


def camera(focal: float, size: tuple[int, int], principal: np.ndarray, aspect: float = 1.0) -> dict[str, object]:
    """A pinhole camera as poselib wants it; size is (H, W), aspect is fy over fx."""
    params = [focal, focal * aspect, float(principal[0]), float(principal[1])]
    return {"model": "PINHOLE", "width": size[1], "height": size[0], "params": params}


def focal_from_matches(
    photos: Sequence[Keypoints],
    sizes: Sequence[tuple[int, int]],
    matches: Mapping[tuple[int, int], np.ndarray],
    guess: float,
) -> float:
    """The focal length that photos of one camera share, in long sides; `guess` where their matches do not say.

    matches: (M, 2) indices of keypoints by pair of photos.
    """
    import poselib

    def worth(pair: tuple[int, int]) -> float:
        one, two = (photos[k].uv[matches[pair][:, side]] for side, k in enumerate(pair))
        moved = float(np.median(np.linalg.norm(one - two, axis=1))) if len(photos) > MANY else 1.0
        return len(matches[pair]) * moved

    asked = sorted(matches, key=worth, reverse=True)[:PAIRS]
    explained = np.zeros(len(GRID))
    for number, ratio in enumerate(GRID):
        for i, j in asked:
            lenses = [camera(ratio * max(sizes[k]), sizes[k], np.array(sizes[k][::-1]) / 2) for k in (i, j)]
            first, second = matches[i, j].T
            ransac = {"max_epipolar_error": photos[i].pixel, "max_iterations": 300, "seed": 1}
            _, about = poselib.estimate_relative_pose(photos[i].uv[first], photos[j].uv[second], *lenses, ransac, {})
            explained[number] += about["num_inliers"]
    if not explained.max():
        return guess
    cost = MISFIT * (1 - explained / explained.max()) + 0.5 * (np.log(GRID / guess) / SPREAD) ** 2
    best = int(np.clip(cost.argmin(), 1, len(GRID) - 2))
    left, middle, right = cost[best - 1 : best + 2]
    shift = np.clip((left - right) / 2 / max(left - 2 * middle + right, 1e-9), -0.5, 0.5)
    return float(GRID[best] * (GRID[1] / GRID[0]) ** shift)
