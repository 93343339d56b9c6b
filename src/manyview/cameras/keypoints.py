"""Keypoints of photos and their matches: SIFT by OpenCV, mutual nearest neighbours that are clearly the nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

LONG_SIDE = 1024
"""Photos are looked at with at most this long side: finer detail moves keypoints by less than their own noise."""
MOST, CONTRAST = 4000, 0.02
"""Keypoints of a photo, and the contrast that a keypoint must have (OpenCV's default of 0.04 misses dim rooms)."""
TILTED_MOST, TILTS = (500, 1500), 2
"""Keypoints of each of the ten tilted copies of a photo, in a first and in a second try; tilts up to this number."""
BLOCK = 512
"""Keypoints of tilted photos that are compared with all of another photo at once: bounds memory, not the result."""
RATIO = 0.8
"""A match is at most this share of the distance to the next best one (Lowe)."""
APART = 8.0
"""Keypoints of a tilted photo that are nearer than this many pixels are the same place."""

MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8)].ravel()
"""Where the numbers of a SIFT descriptor are when the photo is turned over."""


@dataclass(frozen=True)
class Keypoints:
    """Places of a photo that can be recognised."""

    uv: np.ndarray
    """(N, 2) float64 pixels of the original photo, pixel centres at +0.5."""
    descriptors: torch.Tensor
    """(N, 128) uint8: RootSIFT, 512 being one."""
    pixel: float
    """How precise a place is, in pixels of the original photo: a pixel where the long side is brought to LONG_SIDE."""

    def __len__(self) -> int:
        return len(self.uv)


def detect(photo: np.ndarray, size: tuple[int, int] | None = None, *, tilted: int = 0) -> Keypoints:
    """Keypoints of an (h, w, 3) uint8 photo, which may be a smaller copy of one of `size` (H, W).

    `tilted`: so many of each of ten copies of the photo, as seen from aside (ASIFT; five times slower).
    """
    import cv2

    tools: Any = cv2
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    pixel = max(size or grey.shape) / LONG_SIDE
    shrunk, scale = LONG_SIDE / max(grey.shape), min(1.0, 1 / pixel)
    if shrunk < 1:
        grey = cv2.resize(grey, None, fx=shrunk, fy=shrunk, interpolation=cv2.INTER_AREA)
    sift = tools.SIFT_create(tilted or MOST, contrastThreshold=CONTRAST)
    finder = tools.AffineFeature_create(sift, TILTS, 0) if tilted else sift
    points, descriptors = finder.detectAndCompute(grey, None)
    if descriptors is None or not len(points):
        return Keypoints(np.empty((0, 2)), torch.empty(0, 128, dtype=torch.uint8), pixel)
    uv = (np.array([point.pt for point in points], np.float64) + 0.5) / scale
    share = descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9)
    return Keypoints(uv, torch.from_numpy(np.rint(512 * np.sqrt(share)).clip(0, 255).astype(np.uint8)), pixel)


def mirrored(keypoints: Keypoints, width: float) -> Keypoints:
    """SIFT keypoints of a photo turned over, left to right, without looking again: (N, 128) descriptors.

    A descriptor has 4 x 4 places, counted along and across the keypoint's direction, and 8 angles each.
    """
    kept = torch.from_numpy(MIRRORED)
    return replace(keypoints, uv=keypoints.uv * [-1, 1] + [width, 0], descriptors=keypoints.descriptors[:, kept])


def of_unit_length(descriptors: torch.Tensor) -> torch.Tensor:
    """(N, D) float32."""
    return torch.nn.functional.normalize(descriptors.float(), dim=1)


def match(first: Keypoints, second: Keypoints, *, tilted: bool = False) -> np.ndarray:
    """(M, 2) indices of keypoints that are each other's nearest, and clearly so.

    `tilted`: of keypoints that `detect` found in tilted photos, where one place has several that are alike.
    """
    few = 9 if tilted else 2
    if min(len(first), len(second)) < few:
        return np.empty((0, 2), np.int64)
    one, two = of_unit_length(first.descriptors), of_unit_length(second.descriptors)
    if not tilted:
        return _clear((one @ two.T).numpy())
    values, candidates, back = _nearest(one, two, few)
    distance = np.sqrt((2 - 2 * values).clip(min=0))
    rows, columns = np.arange(len(candidates)), candidates[:, 0]
    back = back[columns]
    elsewhere = _apart(second.uv[candidates], second.uv[columns][:, None], second.pixel)
    elsewhere[:, -1] = True
    rival = distance[rows, elsewhere.argmax(1)]
    good = (distance[:, 0] < RATIO * rival) & ~_apart(first.uv[back], first.uv, first.pixel / 2)
    pairs = np.stack([rows[good], columns[good]], 1)
    places = np.concatenate([first.uv[pairs[:, 0]] / first.pixel, second.uv[pairs[:, 1]] / second.pixel], 1)
    _, once = np.unique(np.round(places / 3), axis=0, return_index=True)
    return pairs[np.sort(once)]


def _nearest(one: torch.Tensor, two: torch.Tensor, few: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, few) products of unit descriptors (N, D) with their nearest of (K, D), and which; (K,) the nearest back."""
    best, back = torch.full((len(two),), -torch.inf), torch.zeros(len(two), dtype=torch.long)
    found = []
    for start in range(0, len(one), BLOCK):
        similarity = one[start : start + BLOCK] @ two.T
        value, row = similarity.max(0)
        better = value > best
        best[better], back[better] = value[better], row[better] + start
        found.append(similarity.topk(few, dim=1))
    values, candidates = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return values, candidates, back.numpy()


def _clear(similarity: np.ndarray) -> np.ndarray:
    """(M, 2) rows and columns of mutual best similarities that are clearly so. Takes the best of rows off its input."""
    rows = np.arange(len(similarity))
    columns = similarity.argmax(1)
    best, best_of_column = similarity[rows, columns], similarity.max(0)
    similarity[rows, columns] = -1
    good = (1 - best < RATIO**2 * (1 - similarity.max(1))) & (best >= best_of_column[columns])
    return np.stack([rows[good], columns[good]], 1)


def _apart(one: np.ndarray, other: np.ndarray, pixel: float) -> np.ndarray:
    return np.linalg.norm(one - other, axis=-1) > APART * pixel
