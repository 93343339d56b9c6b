"""Training a linear head on the kept tokens of a frozen encoder, and its answers for whole pictures.

Legend: N pictures, P patches, D channels, H x W pixels, K pixels drawn per picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.evaluation.tokens import Tokens
from manyview.losses.dense import class_loss, gradient_loss, random_pixels, sig_loss
from manyview.models.dense_heads import DepthHead, SegmentationHead, sample_maps
from manyview.progress import track

AT_ONCE = 16  # pictures


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a head is trained: AdamW, 10 % warm-up, cosine to zero. Fixed beforehand, so no split picks it."""

    steps: int = 800
    """Optimiser steps."""
    batch: int = 32
    """Pictures per step."""
    lr: float = 5e-3
    """Peak learning rate."""
    weight_decay: float = 1e-3
    """AdamW weight decay."""
    pixels: int = 256
    """Random pixels per picture and step that the loss looks at; 0 for all."""
    gradient: float = 0.0
    """Weight of the depth gradient loss; above 0 every pixel is looked at."""

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True)
class Examples:
    """Pictures as tokens, with the map of each."""

    tokens: Tokens
    frames: Sequence[int]
    """Keys of the tokens, in the order of the maps."""
    rows: np.ndarray
    """Rows of the maps that can be used; unreadable pictures are not among them."""
    maps: np.ndarray
    """(N, H, W)."""
    grid: tuple[int, int]

    def take(self, rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens (n, P, D) and maps (n, H, W)."""
        tokens = self.tokens[[self.frames[row] for row in rows]]
        maps = torch.from_numpy(np.stack([self.maps[row] for row in rows]))
        return tokens.to(device), maps.to(device)


def train_head(
    head: SegmentationHead | DepthHead, examples: Examples, schedule: Schedule, *, label: str, seed: int
) -> float:
    """Train in place, leave it in eval mode; returns the mean loss over the last tenth."""
    device = next(head.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    decayed = {"params": [head.linear.weight], "weight_decay": schedule.weight_decay}
    others = {"params": [*head.norm.parameters(), head.linear.bias], "weight_decay": 0.0}
    optimiser = torch.optim.AdamW([decayed, others], lr=schedule.lr)
    head.train()
    losses, order = [], torch.empty(0, dtype=torch.long)
    for step in track(range(schedule.steps), label=f"head on {label}", unit="step"):
        while len(order) < min(schedule.batch, len(examples.rows)):
            order = torch.cat([order, torch.randperm(len(examples.rows), generator=generator)])
        rows, order = order[: schedule.batch], order[schedule.batch :]
        tokens, maps = examples.take(examples.rows[rows.numpy()].tolist(), device)
        loss = _loss(head, tokens, maps, examples.grid, schedule, generator)
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.rate(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    head.eval()
    return float(torch.stack(losses[-max(1, len(losses) // 10) :]).mean())


def _loss(
    head: Any, tokens: Tensor, maps: Tensor, grid: tuple[int, int], schedule: Schedule,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    depth = isinstance(head, DepthHead)
    if schedule.pixels and not (depth and schedule.gradient):
        values, points = random_pixels(maps, schedule.pixels, generator)
        if not depth:
            return class_loss(sample_maps(head(tokens, grid), points), values.long())
        return sig_loss(head(tokens, grid, points), values, values > 0)
    if not depth:
        return class_loss(resized(head(tokens, grid), maps.shape[-2:]).flatten(2), maps.flatten(1).long())
    predicted = resized(head(tokens, grid)[:, None], maps.shape[-2:])[:, 0]
    valid = maps > 0
    return sig_loss(predicted, maps, valid) + schedule.gradient * gradient_loss(predicted, maps, valid)


@torch.inference_mode()
def answers(head: SegmentationHead | DepthHead, examples: Examples) -> Iterator[np.ndarray]:
    """Maps (n, H, W) of all pictures, in order: the likeliest class, or the depth."""
    device = next(head.parameters()).device
    size = examples.maps.shape[1:]
    count = len(examples.frames)
    for start in range(0, count, AT_ONCE):
        rows = range(start, min(start + AT_ONCE, count))
        tokens = examples.tokens[[examples.frames[row] for row in rows]].to(device)
        found = head(tokens, examples.grid)
        if isinstance(head, DepthHead):
            yield resized(found[:, None], size)[:, 0].cpu().numpy()
        else:
            yield resized(found, size).argmax(1).cpu().numpy()


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W), bilinear."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
