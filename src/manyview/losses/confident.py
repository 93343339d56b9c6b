"""DUSt3R's regression of a pair's points, weighted by the confidence that the network says beside them.

Wang et al., CVPR 2024: equation 2 is the distance of normalised points, 3 the normalisation, 4 the loss; MASt3R
(Leroy et al., ECCV 2024, section 3.1) leaves the prediction's own size in where the truth is in metres.
Legend: B pairs, V views, H x W pixels. What a Signal marks invalid is selected away and may be NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from manyview.geometry.pointmaps import mean_distance
from manyview.losses.pointmap import usable
from manyview.types import Signal

Alignment = Literal["mean", "median"]
SKY_DISTANCE = 2.0
"""What a pixel of sky costs in MASt3R before its confidence: nothing there has a place, and it should say so."""


def point_distances(
    points: Tensor,
    signal: Signal,
    *,
    metric: Tensor | None = None,
    sky: Tensor | None = None,
    alignment: Alignment = "mean",
) -> tuple[Tensor, Tensor]:
    """Distances (B, V, H, W) of points (B, V, H, W, 3) to their Signal, 0 where unknown, and where they are known.

    alignment "mean": both are divided by their own mean distance from the first camera over all views; `metric`
    (B,) bool: there the prediction is divided by the truth's mean distance too. "median": both are moved along the
    axis by their median depth and the prediction is scaled to the truth's median spread (DUSt3R's test criterion).
    sky (B, V, H, W) bool: pixels that count with SKY_DISTANCE unless they are measured.
    """
    known = usable(signal)
    said = torch.where(known[..., None], points.float(), 0)
    true = torch.where(known[..., None], signal.value.float(), 0)
    if alignment == "median":
        distance = _median_aligned(said, true, known)
    else:
        size = mean_distance(true, known, (1, 2, 3))
        own = mean_distance(said, known, (1, 2, 3))
        if metric is not None:
            own = torch.where(metric.reshape(-1, 1, 1, 1), size, own)
        distance = _norm(said / own[..., None] - true / size[..., None])
    distance = torch.where(known, distance, 0)
    if sky is None:
        return distance, known
    return torch.where(sky & ~known, SKY_DISTANCE, distance), known | sky


def confident(cost: Tensor, confidence: Tensor, alpha: float) -> Tensor:
    """confidence * cost - alpha * log confidence, the least of which is at confidence alpha / cost (equation 4)."""
    return confidence * cost - alpha * confidence.log()


def confident_regression(
    distances: Tensor, known: Tensor, confidence: Tensor, *, alpha: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Sums and counts per view (B, V) of equation 4 over the known pixels (B, V, H, W)."""
    value = confident(distances, torch.where(known, confidence.float(), 1), alpha)
    return torch.where(known, value, 0).sum((2, 3)), known.sum((2, 3))


def sum_of_views(sums: Tensor, counts: Tensor) -> Tensor:
    """(B, V) twice -> one number: each view position's mean over the batch's pixels, the positions added up."""
    return (sums.sum(0) / counts.sum(0).clamp(min=1)).sum()


def _norm(vectors: Tensor) -> Tensor:
    """Euclidean norm whose gradient at zero is zero."""
    square = vectors.square().sum(-1)
    zero = square == 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt())


def _median_aligned(said: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """Distances of points moved and scaled as "median" says."""
    (said_depth, said_spread), (true_depth, true_spread) = (_median_frame(p, known) for p in (said, true))
    scale = (true_spread / said_spread.clamp(1e-3, 1e3))[:, None, None, None, None]
    ahead = torch.tensor([0.0, 0.0, 1.0], device=said.device)
    moved = (
        points - ahead * depth[:, None, None, None, None] for points, depth in ((said, said_depth), (true, true_depth))
    )
    return _norm(next(moved) * scale - next(moved))


def _median_frame(points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Median depth, and median distance from the median point, of each pair's known points: (B,), (B,)."""
    flat = torch.where(known[..., None], points, torch.nan).flatten(1, 3)  # (B, V*H*W, 3)
    centre = flat.nanmedian(1, keepdim=True).values.nan_to_num()
    spread = (flat - centre).norm(dim=-1).nanmedian(1).values.nan_to_num(1.0)
    return centre[:, 0, 2], spread
