"""Whether a photo was only turned: matches that a rotation explains show no baseline, however wide their rays seem.

With a focal length that is not known, noise alone gives a turned camera a baseline of several degrees of parallax.
"""

from __future__ import annotations

import numpy as np

ZOOMS = np.geomspace(0.5, 2.0, 15)
"""What the focal lengths may be off by: a turn is asked for with each of them."""
ASKED, ROUNDS = 300, 3
"""Matches that are asked, and times that the rotation is fitted, each time to the half that fits it best."""
PRECISE = 1 / 3
"""Pixels as looked at: no epipolar geometry is taken to fit matches better than this."""
AS_WELL = 6.0
"""A rotation explains matches that lie less than so many times as far from where it puts them as from their epipolar
lines. Rendered turns reach 5 (two dimensions of noise, and a minority of the matches); rendered rooms begin at 11."""


def off_by_turning(one: np.ndarray, two: np.ndarray, focal: float) -> float:
    """Median distance in pixels of the second photo between matches and where the best rotation alone puts them.

    one, two: (M, 3) rays with z = 1 of both photos under focal lengths that may both be off by one of ZOOMS.
    """
    every = -(-len(one) // ASKED)
    zoom = np.stack([1 / ZOOMS, 1 / ZOOMS, np.ones_like(ZOOMS)], 1)[:, None]
    here, there = (zoom * rays[::every] for rays in (one, two))  # (Z, M, 3)
    unit = [rays / np.linalg.norm(rays, axis=-1, keepdims=True) for rays in (here, there)]
    kept = np.ones(here.shape[:2])
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd(np.einsum("zmi,zmj,zm->zij", unit[1], unit[0], kept))
        left[:, :, 2] *= np.linalg.det(left @ right)[:, None]
        turned = here @ (left @ right).transpose(0, 2, 1)
        place = turned[..., :2] / np.maximum(turned[..., 2:], 1e-6)
        off = (focal * ZOOMS)[:, None] * np.linalg.norm(place - there[..., :2], axis=-1)
        median = np.median(off, axis=1)
        kept = (off <= median[:, None]).astype(float)
    return float(median.min())
