"""Distill3R's distillation loss (equations 1 to 6): normalised pointmap regression and confidence regression.

Legend: B scenes, V views, H x W pixels. What a Signal marks invalid is selected away, never multiplied by
zero: it may be NaN or infinite, in value, weight and prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from manyview.geometry.pointmaps import mean_distance
from manyview.types import Signal

Reduction = Literal["released", "per_scene", "printed"]
Weighting = Literal["teacher", "none", "student"]


def usable(signal: Signal) -> Tensor:
    """Pixels (B, V, H, W) that may be read: valid, and finite even if the signal forgot to say so."""
    finite = signal.value.isfinite()
    finite = finite.all(-1) if signal.value.ndim == 5 else finite
    return finite if signal.valid is None else finite & signal.valid


def surest(signals: Mapping[str, Signal], share: float) -> dict[str, Signal]:
    """The same signals, of whose pointmaps only the surest `share` of each scene's valid pixels still count.

    Confidences are compared within a scene and map, never with a number: those of Fast3R, for one, are all above 1, so
    that the paper's threshold of 0.3 leaves out nothing. Pixels as sure as the last one stay.
    """
    kept = dict(signals)
    for name, by in (("pointmap", "confidence"), ("pointmap_local", "confidence_local")):
        if name in signals and by in signals:
            points, sure = signals[name], signals[by].value
            valid = usable(points) & usable(signals[by])
            left_out = []
            for values, known in zip(sure, valid, strict=True):
                number = min(int((1 - share) * int(known.sum())), int(known.sum()) - 1) + 1
                least = values[known].float().kthvalue(number).values if number > 0 else 0
                left_out.append(known & (values < least))
            kept[name] = Signal(points.value, points.weight, valid & ~torch.stack(left_out))
    return kept


def trust(confidence: Tensor, scale: float = 10.0, low: float = 0.1, high: float = 1.0) -> Tensor:
    """The weight that a raw confidence earns a point: clamp(confidence / scale, low, high)."""
    return (confidence / scale).clamp(low, high)


def pointmap_error(
    points: Tensor, signal: Signal, weight: Tensor | None, *, scale_dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Sums and counts per view (B, V) of w * |p/s - t/s'|^2 over usable pixels (equations 2, 4 and 5).

    points (B, V, H, W, 3); `scale_dims`: dimensions of (B, V, H, W) that share one mean distance s.
    """
    valid = usable(signal)
    here = torch.where(valid[..., None], points.float(), 0)
    there = torch.where(valid[..., None], signal.value.float(), 0)
    here = here / mean_distance(here, valid, scale_dims)[..., None]
    there = there / mean_distance(there, valid, scale_dims)[..., None]
    error = (here - there).square().sum(-1)
    if weight is not None:
        error = error * torch.where(valid, weight.float(), 0)
    return error.sum((2, 3)), valid.sum((2, 3))


def confidence_error(confidence: Tensor, signal: Signal) -> tuple[Tensor, Tensor]:
    """Sums and counts per view (B, V) of |c - c'| over usable pixels (equation 6)."""
    valid = usable(signal)
    error = torch.where(valid, confidence.float(), 0) - torch.where(valid, signal.value.float(), 0)
    return error.abs().sum((2, 3)), valid.sum((2, 3))


def mean_over_views(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean over the views that have pixels of their mean over pixels: (B, V) twice -> (B,), 0 for an empty
    scene.
    """
    views = (counts > 0).sum(1).clamp(min=1)
    return (sums / counts.clamp(min=1)).sum(1) / views


def mean_over_scene(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean over a scene's pixels: (B, V) twice -> (B,), 0 for an empty scene."""
    return sums.sum(1) / counts.sum(1).clamp(min=1)


def pooled_over_views(sums: Tensor, counts: Tensor) -> Tensor:
    """(B,) whose mean is the mean over view positions of the mean over that position's pixels in the whole batch."""
    pooled = counts.sum(0)
    return (sums * (len(sums) / pooled.clamp(min=1))).sum(1) / (pooled > 0).sum().clamp(min=1)


def pooled_over_batch(sums: Tensor, counts: Tensor) -> Tensor:
    """(B,) whose mean is the sum over the batch divided by the batch's number of pixels, |M| of the paper."""
    return sums.sum(1) * (len(sums) / counts.sum().clamp(min=1))


# How points and confidences are reduced, and which dimensions of (B, V, H, W) share the global scale.
REDUCTIONS = {
    "released": (pooled_over_views, pooled_over_batch, (1, 2, 3)),
    "per_scene": (mean_over_views, mean_over_scene, (1, 2, 3)),
    "printed": (pooled_over_batch, pooled_over_batch, (0, 1, 2, 3)),
}


def distill3r_loss(
    pred: Mapping[str, Tensor],
    signals: Mapping[str, Signal],
    *,
    reduction: Reduction = "released",
    weighting: Weighting = "teacher",
    confidence: bool = True,
    alpha_global: float = 2.0,
    alpha_local: float = 1.0,
    gamma: float = 0.001,
) -> dict[str, Tensor]:
    """Per-scene terms (B,), each with its factor in it: total = global + local + confidence.

    reduction: "released" is the released function: the global scale is shared by the views of a scene, and
    the pixels at one view position are averaged over the batch, then the positions; "per_scene" is that
    function called scene by scene, as its training loop does (the same numbers when every view has as many
    valid pixels); "printed" shares the global scale over the batch and divides by the batch's pixels.
    weighting: by the Signal's weight, not at all, or by the student's own confidence (Table III).
    confidence=False leaves equation 6 away (Table III).
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
    if weighting not in ("teacher", "none", "student"):
        raise ValueError(f"weighting is {weighting!r}; it must be teacher, none or student")
    reduce, reduce_confidence, shared = REDUCTIONS[reduction]
    terms = {}
    for name, suffix, factor, dims in (("global", "", alpha_global, shared), ("local", "_local", alpha_local, (2, 3))):
        signal = signals[f"pointmap{suffix}"]
        weight = signal.weight if weighting == "teacher" else None
        if weighting == "student":
            weight = trust(pred[f"confidence{suffix}"])
        terms[name] = factor * reduce(*pointmap_error(pred[f"pointmap{suffix}"], signal, weight, scale_dims=dims))
    terms["confidence"] = torch.zeros_like(terms["global"])
    if confidence:
        for key in ("confidence", "confidence_local"):
            error = reduce_confidence(*confidence_error(pred[key], signals[key]))
            terms["confidence"] = terms["confidence"] + gamma / 2 * error
    return {"total": terms["global"] + terms["local"] + terms["confidence"], **terms}
