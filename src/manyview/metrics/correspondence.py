"""Correspondences by the nearest feature, as Probe3D judges them: on surfaces (NAVI, ScanNet), of keypoints (SPair).

Definitions: facts of github.com/mbanani/probe3d (evals/utils/correspondence.py and its three evaluations).

Legend: N and M points of two views, C channels, K matches, h x w cells of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from manyview.metrics.arrays import Array, as_numpy

TINY = 1e-9
CHUNK = 1024  # points of the first view that are compared at once


def ratio_matches(first: Array, second: Array, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` most distinct matches of features (N, C) to (M, C): rows, their nearest rows, weights, each (K,).

    A match is the nearest by cosine; its weight is 1 - d1 / d2 of the cosine distances to the nearest and the second.
    Fewer where there are fewer points; a second view of one point gives weights of zero.
    """
    import torch  # here, so that importing the metrics costs nothing but numpy
    import torch.nn.functional as F

    a, b = (F.normalize(torch.as_tensor(as_numpy(rows, np.float32)), dim=-1) for rows in (first, second))
    if not len(a) or not len(b):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    near, which = [], []
    for part in a.split(CHUNK):
        best, rows = (part @ b.T).topk(min(2, len(b)), dim=-1)
        near.append(1 - best)
        which.append(rows[:, 0])
    distance = torch.cat(near).clamp(min=TINY)
    weight = 1 - distance[:, 0] / distance[:, -1]
    kept = weight.topk(min(count, len(weight))).indices
    return kept.numpy(), torch.cat(which)[kept].numpy(), weight[kept].numpy()


def surface_matches(
    first: tuple[Array, Array], second: tuple[Array, Array], second_from_first: Array, intrinsics: Array, count: int
) -> dict[str, np.ndarray]:
    """Errors of the matches of two views, each (features (N, C), points (N, 3) in its camera's frame).

    `error_3d` (K,): distance of the first point, moved by the (3 or 4, 4) motion, from the second one, in the unit of
    the points; `error_2d` (K,): the same in pixels of the second view's intrinsics; `first`, `second`, `weight`.
    """
    rows_a, rows_b, weight = ratio_matches(first[0], second[0], count)
    motion, lens = as_numpy(second_from_first, np.float64), as_numpy(intrinsics, np.float64)
    moved = as_numpy(first[1], np.float64)[rows_a] @ motion[:3, :3].T + motion[:3, 3]
    there = as_numpy(second[1], np.float64)[rows_b]

    def pixels(points: np.ndarray) -> np.ndarray:
        image = points @ lens.T
        return np.asarray(image[:, :2] / np.maximum(image[:, 2:], TINY))

    return {
        "error_3d": np.linalg.norm(moved - there, axis=-1),
        "error_2d": np.linalg.norm(pixels(moved) - pixels(there), axis=-1),
        "first": rows_a,
        "second": rows_b,
        "weight": weight,
    }


def binned_means(values: Array, of: Array, edges: Sequence[float]) -> np.ndarray:
    """Means of values (N,) by half-open bins of `of` (N,): (bins,), NaN for an empty one."""
    values, of = as_numpy(values, np.float64), as_numpy(of, np.float64)
    inside = [(of >= low) & (of < high) for low, high in pairwise(edges)]
    return np.array([values[part].mean() if part.any() else np.nan for part in inside])


def semantic_errors(
    first: Array, second: Array, first_keys: Array, second_keys: Array, *, published: bool = False
) -> np.ndarray:
    """Distance (K, K) of where each keypoint of the first view is found in the second from every keypoint there.

    first, second: feature maps (C, h, w) of square pictures; keys (K, 2), (x, y) in [0, 1] of the picture. The cell
    whose feature is most like that at the keypoint (bilinear) is the answer, at its centre. published: as Probe3D's
    code has it, keypoints sampled between the centres of the corner cells and a cell meant by its upper left corner,
    so that equal pictures do not score 100 %.
    """
    import torch
    import torch.nn.functional as F

    a, b = (F.normalize(torch.as_tensor(as_numpy(maps, np.float32)), dim=0) for maps in (first, second))
    keys = torch.as_tensor(as_numpy(first_keys, np.float32))
    where = (2 * keys - 1)[None, None]
    sampled = F.grid_sample(
        a[None], where, mode="bilinear", align_corners=published, padding_mode="zeros" if published else "border"
    )
    height, width = b.shape[-2:]
    best = torch.einsum("ck,chw->khw", sampled[0, :, 0], b).flatten(1).argmax(1)
    cells = torch.stack([best % width, best // width], -1) + (0.0 if published else 0.5)
    found = cells / torch.tensor([width, width if published else height])
    return np.asarray(np.linalg.norm(found.numpy()[:, None] - as_numpy(second_keys, np.float64)[None], axis=-1))
