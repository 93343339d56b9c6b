"""Losses of dense prediction: scale-invariant depth, and pixels drawn at random in place of all of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-3


def random_pixels(maps: Tensor, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """`count` random pixels of maps (N, H, W): their values (N, K), and centres (N, K, 2) as (x, y) in [0, 1].

    A mean over them is unbiased for the mean over all pixels, at a fraction of its cost.
    """
    height, width = maps.shape[-2:]
    index = torch.randint(height * width, (len(maps), count), generator=generator).to(maps.device)
    x, y = (index % width + 0.5) / width, (index // width + 0.5) / height
    return maps.flatten(1).gather(1, index), torch.stack([x, y], -1)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (N, C, K) against labels (N, K); those outside 0 .. C - 1 are left out."""
    known = (labels >= 0) & (labels < logits.shape[1])
    total = F.cross_entropy(logits, torch.where(known, labels, -100), ignore_index=-100, reduction="sum")
    return total / known.sum().clamp(min=1)


def sig_loss(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """sqrt(var(g) + 0.15 mean(g)^2) with g = log predicted - log true over all valid pixels (Eigen; DINOv2)."""
    g = torch.log(predicted + EPS)[valid] - torch.log(true + EPS)[valid]
    if g.numel() < 2:
        return predicted.sum() * 0
    return torch.sqrt(g.var() + 0.15 * g.mean().square() + 1e-12)


def gradient_loss(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """Differences of g two pixels apart, at strides 1, 2, 4 and 6, of maps (N, H, W), per valid pixel (DINOv2)."""
    total = predicted.new_zeros(())
    for stride in (1, 2, 4, 6):
        p, t, v = (maps[:, ::stride, ::stride] for maps in (predicted, true, valid))
        g = torch.where(v, torch.log(p + EPS) - torch.log(torch.where(v, t, 1.0) + EPS), 0.0)
        down = ((g[:, 2:] - g[:, :-2]).abs() * (v[:, 2:] & v[:, :-2])).sum()
        across = ((g[:, :, 2:] - g[:, :, :-2]).abs() * (v[:, :, 2:] & v[:, :, :-2])).sum()
        total = total + (down + across) / v.sum().clamp(min=1)
    return total
