"""Segmentation from patches: nearest patches and logistic regression on standardised tokens (CAPI's protocols).

Legend: N patches known, Q patches asked, D channels, C classes, k neighbours, p pixels along a patch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.progress import track

Distance = Literal["cosine", "L2"]
ASKED, KNOWN = 1024, 65536  # patches looked at together


def patch_labels(maps: Tensor, patch: int) -> Tensor:
    """Maps (n, H, W) -> the labels of every patch's pixels, (n * P, p * p), row by row."""
    count, height, width = maps.shape
    cells = maps.reshape(count, height // patch, patch, width // patch, patch)
    return cells.permute(0, 1, 3, 2, 4).reshape(-1, patch * patch)


def painted(labels: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The inverse: (n * P, p * p) -> (n, H, W)."""
    cells = labels.reshape(-1, *grid, patch, patch).permute(0, 1, 3, 2, 4)
    return cells.reshape(-1, grid[0] * patch, grid[1] * patch)


def tallies(labels: Tensor, classes: int) -> Tensor:
    """How often each class occurs along the last axis: (..., n) -> (..., C); labels below 0 are not counted."""
    counts = torch.zeros(*labels.shape[:-1], classes, dtype=torch.int32, device=labels.device)
    return counts.scatter_add_(-1, labels.clamp(min=0).long(), (labels >= 0).int())


def commonest(counts: Tensor) -> Tensor:
    """(..., C) -> the class with most votes, the smallest of several."""
    classes = counts.shape[-1]
    order = torch.arange(classes, device=counts.device)
    return (counts.long() * classes - order).argmax(-1)


def modal(labels: Tensor, classes: int) -> Tensor:
    """The commonest label of patches (N, p * p), or -1 where more pixels are unknown than of any class."""
    counts = tallies(labels, classes)
    unknown = (labels < 0).sum(-1)
    return torch.where(unknown > counts.max(-1).values, -1, commonest(counts))


def voted(labels: Tensor, classes: int) -> Tensor:
    """The commonest label of every pixel over neighbours (Q, k, p * p): (Q, p * p).

    Unknown pixels have no vote; a pixel without any gets what the neighbours hold most of.
    """
    counts = tallies(labels.transpose(1, 2), classes)
    overall = commonest(counts.sum(1))
    return torch.where(counts.sum(-1) > 0, commonest(counts), overall[:, None])


def neighbours(queries: Tensor, features: Tensor, *, count: int, distance: Distance) -> Tensor:
    """Rows of the nearest features, nearest first: (Q, k) with k = min(count, N)."""

    def ready(values: Tensor) -> Tensor:
        return F.normalize(values.float(), dim=-1) if distance == "cosine" else values.float()

    nearest = []
    for asked in track(queries.split(ASKED), label=f"nearest patches, {distance}", unit="chunk"):
        best, rows = asked.new_zeros(len(asked), 0).float(), asked.new_zeros(len(asked), 0).long()
        for start in range(0, len(features), KNOWN):
            chunk = ready(features[start : start + KNOWN])
            near = ready(asked) @ chunk.T
            if distance == "L2":
                near = 2 * near - chunk.square().sum(1)  # the query's own square is the same for all
            which = torch.arange(start, start + len(chunk), device=rows.device).expand_as(near)
            best, rows = torch.cat([best, near], 1), torch.cat([rows, which], 1)
            best, kept = best.topk(min(count, best.shape[1]))
            rows = rows.gather(1, kept)
        nearest.append(rows)
    return torch.cat(nearest)


def logistic(
    features: Tensor, labels: Tensor, start: tuple[Tensor, Tensor], *, strength: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and offsets (C,) of the least strength * sum of cross-entropies + |weights|^2 / 2.

    From `start` by L-BFGS, at most `steps` iterations; the problem has one solution, so the start only saves time.
    """
    weights, offsets = (values.clone().requires_grad_() for values in start)
    optimiser = torch.optim.LBFGS(
        [weights, offsets],
        max_iter=steps,
        history_size=5,
        tolerance_grad=1e-6,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )
    penalty = 1 / (strength * len(features))

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = penalty / 2 * weights.square().sum()
        total.backward()
        for begin in range(0, len(features), KNOWN):
            rows = slice(begin, begin + KNOWN)
            logits = features[rows].float() @ weights.T + offsets
            part = F.cross_entropy(logits, labels[rows], reduction="sum") / len(features)
            part.backward()
            total = total.detach() + part.detach()
        return total

    optimiser.step(closure)
    return weights.detach(), offsets.detach()
