"""A robust pointmap loss for short trainings: bounded gradients everywhere, shapes before sizes.

A local point is split into its log distance and its direction. The median log-distance residual of a view
(its unknown scale) is taken out before the errors are measured, and charged lightly on its own so that the
absolute scale is learnt too. Legend: B scenes, V views, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from manyview.losses.pointmap import mean_over_views, usable
from manyview.types import Signal

STRIDES = (1, 2, 4, 8)
NEAR = 1e-3  # softens the logarithm and the direction of a prediction at the camera itself


def robust_pointmap_loss(
    pred: Mapping[str, Tensor],
    signals: Mapping[str, Signal],
    *,
    alpha_global: float = 0.5,
    alpha_local: float = 1.0,
    direction: float = 2.0,
    gradient: float = 0.5,
    scale: float = 0.1,
    gamma: float = 0.05,
) -> dict[str, Tensor]:
    """Per-scene terms (B,), each with its factor in it: total = global + local + confidence.

    direction, gradient: factors of the local term's parts beside the log distance; scale: what a wrong
    scale costs in both geometric terms. Empty views are left out.
    """
    local = local_error(
        pred["pointmap_local"], signals["pointmap_local"], direction=direction, gradient=gradient, scale=scale
    )
    terms = {
        "global": alpha_global * global_error(pred["pointmap"], signals["pointmap"], scale=scale),
        "local": alpha_local * local,
        "confidence": torch.zeros_like(local),
    }
    for key in ("confidence", "confidence_local"):
        terms["confidence"] = terms["confidence"] + gamma / 2 * log_confidence_error(pred[key], signals[key])
    return {"total": terms["global"] + terms["local"] + terms["confidence"], **terms}


def local_error(
    points: Tensor, signal: Signal, *, direction: float = 2.0, gradient: float = 0.5, scale: float = 0.1
) -> Tensor:
    """(B, V, H, W, 3) against a Signal of camera-frame points, one unknown scale per view -> (B,)."""
    here, target, valid, weight = _selected(points, signal)
    residual = _log_length(here) - _log_length(target)
    shift = _shift(residual, valid, (2, 3))
    error = charbonnier(torch.where(valid, residual - shift, 0))
    turned = (_direction(here) - _direction(target)).abs().sum(-1)
    error = (error + direction * torch.where(valid, turned, 0)) * weight
    more = gradient * _slopes(residual, valid) + scale * charbonnier(shift)[..., 0, 0]
    return _mean(error, weight, valid, more)


def global_error(points: Tensor, signal: Signal, *, scale: float = 0.1) -> Tensor:
    """(B, V, H, W, 3) against a Signal of first-view points, one unknown scale per scene -> (B,).

    The distance between the points relative to the target's own distance from the first camera.
    """
    here, target, valid, weight = _selected(points, signal)
    distance = target.norm(dim=-1)
    typical = _median(distance, valid, (1, 2, 3))  # (B, 1, 1, 1)
    shift = _shift(_log_length(here) - _log_length(target), valid, (1, 2, 3))
    away = here * torch.exp(-shift)[..., None] - target
    relative = (away.square().sum(-1) + (0.01 * typical).square() + 1e-12).sqrt() / (distance + 0.1 * typical + 1e-6)
    # Beyond a few times the target's distance only the logarithm counts: a wild point cannot drown a scene.
    error = torch.where(valid, torch.log1p(relative), 0) * weight
    return _mean(error, weight, valid, scale * charbonnier(shift)[..., 0, 0])


def log_confidence_error(confidence: Tensor, signal: Signal) -> Tensor:
    """|log c - log c'| of confidences (B, V, H, W) that are at least one -> (B,)."""
    valid = usable(signal)
    here = torch.where(valid, confidence.float(), 1).clamp(min=1e-3)
    there = torch.where(valid, signal.value.float(), 1).clamp(min=1e-3)
    return mean_over_views((here.log() - there.log()).abs().sum((2, 3)), valid.sum((2, 3)))


def charbonnier(residual: Tensor, width: float = 0.02) -> Tensor:
    """|residual| with a rounded bottom."""
    return (residual.square() + width**2).sqrt() - width


def _selected(points: Tensor, signal: Signal) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prediction and target, ones where they do not count; where they do, and with which weight."""
    valid, one = usable(signal), torch.ones((), device=points.device)
    here, target = (torch.where(valid[..., None], values.float(), one) for values in (points, signal.value))
    return here, target, valid, torch.where(valid, one if signal.weight is None else signal.weight.float(), 0)


def _mean(error: Tensor, weight: Tensor, valid: Tensor, more: Tensor) -> Tensor:
    """Weighted means of errors per view and what is added to them (B, V), averaged by their pixels: (B,)."""
    per_view = error.sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6) + more
    counts = valid.sum((2, 3))
    return mean_over_views(per_view * counts, counts)


def _log_length(points: Tensor) -> Tensor:
    return 0.5 * (points.square().sum(-1) + NEAR**2).log()


def _direction(points: Tensor) -> Tensor:
    return points / (points.square().sum(-1, keepdim=True) + NEAR**2).sqrt()


def _median(values: Tensor, valid: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Median of (B, V, H, W) over the valid pixels of its last dimensions, kept as size 1; 0 without any."""
    median = torch.where(valid, values, torch.nan).flatten(dims[0]).nanmedian(-1).values
    return median.nan_to_num(0.0).reshape(*median.shape, *(1 for _ in dims))


def _shift(residual: Tensor, valid: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The median residual with the gradient of the mean: the median's own would move a single pixel.

    It has to carry one: with a constant, a student that is unsure of a direction shrinks without end.
    """
    mean = torch.where(valid, residual, 0).sum(dims, keepdim=True) / valid.sum(dims, keepdim=True).clamp(min=1)
    return _median(residual.detach(), valid, dims) + mean - mean.detach()


def _slopes(residual: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of the residual between pixels a few apart, over several distances: (B, V)."""
    total = torch.zeros(residual.shape[:2], dtype=residual.dtype, device=residual.device)
    used = 0
    for stride in STRIDES:
        for dim in (2, 3):
            length = residual.shape[dim] - stride
            if length < 1:
                continue
            both = valid.narrow(dim, stride, length) & valid.narrow(dim, 0, length)
            step = residual.narrow(dim, stride, length) - residual.narrow(dim, 0, length)
            step = torch.where(both, step.abs(), 0)
            total = total + step.sum((2, 3)) / both.sum((2, 3)).clamp(min=1)
            used += 1
    return total / max(used, 1)
