"""Training a linear head on the kept tokens of a frozen encoder, and its answers for whole pictures.

Legend: N crops, P patches, D channels, H x W pixels of a crop, h x w of a picture, K pixels drawn per crop.
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

from manyview.config import Positive
from manyview.evaluation.dense_maps import Part
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
    """Crops per step."""
    lr: Positive = 5e-3
    """Peak learning rate."""
    weight_decay: float = 1e-3
    """AdamW weight decay."""
    pixels: int = 256
    """Random pixels per crop and step that the loss looks at; 0 for all."""
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
    """Crops of pictures as tokens, with the map of each picture."""

    tokens: Tokens
    """By index of the crop."""
    part: Part
    maps: Sequence[np.ndarray]
    """(h, w) of every scaled picture."""
    usable: np.ndarray
    """Crops of the pictures that could be read."""
    patch: int
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.part.framing.padded
        return height // self.patch, width // self.patch

    def take(self, crops: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens (n, P, D) and maps (n, H, W), where padding holds what is not to be looked at."""
        return self.tokens[crops].to(device), self.stored(crops).to(device)

    def stored(self, crops: Sequence[int]) -> Tensor:
        """The maps (n, H, W) of crops."""
        framing, nothing = self.part.framing, 0 if self.part.kind == "depth" else -1
        maps = np.full((len(crops), *framing.padded), nothing, self.maps[0].dtype)
        for place, index in enumerate(crops):
            maps[place, *framing.inside] = self.maps[self.part.crops[index].row][self.part.place(index)]
        return torch.from_numpy(maps)


def train_head(
    head: SegmentationHead | DepthHead, examples: Examples, schedule: Schedule, *, label: str, seed: int
) -> float:
    """Train in place, leave it in eval mode; returns the mean loss over the last tenth."""
    device = next(head.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    decayed = {"params": [head.linear.weight], "weight_decay": schedule.weight_decay}
    others = {"params": [*head.norm.parameters(), head.linear.bias], "weight_decay": 0.0}
    optimiser = torch.optim.AdamW([decayed, others], lr=schedule.lr)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.rate)
    head.train()
    losses, order = [], torch.empty(0, dtype=torch.long)
    for _ in track(range(schedule.steps), label=f"head on {label}", unit="step"):
        while len(order) < min(schedule.batch, len(examples.usable)):
            order = torch.cat([order, torch.randperm(len(examples.usable), generator=generator)])
        drawn, order = order[: schedule.batch], order[schedule.batch :]
        tokens, maps = examples.take(examples.usable[drawn.numpy()].tolist(), device)
        loss = _loss(head, tokens, maps, examples.grid, schedule, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        losses.append(loss.detach())
    head.eval()
    return float(torch.stack(losses[-max(1, len(losses) // 10) :]).mean())


def _loss(
    head: Any, tokens: Tensor, maps: Tensor, grid: tuple[int, int], schedule: Schedule, generator: torch.Generator
) -> Tensor:
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
    """The map (h, w) of every picture, in order: the likeliest class, or the depth; windows are averaged."""
    device, part, depth = next(head.parameters()).device, examples.part, isinstance(head, DepthHead)
    inside = part.framing.inside
    for rows, crops in part.batches(AT_ONCE):
        said = head(examples.tokens[crops].to(device), examples.grid)
        by_crop = said[:, None] if depth else said  # (n, C, ., .)
        for row in rows:
            total = by_crop.new_zeros(by_crop.shape[1], *part.sizes[row])
            count = by_crop.new_zeros(part.sizes[row])
            for values, index in zip(by_crop, crops, strict=True):
                if part.crops[index].row == row:
                    total[:, *part.place(index)] += resized(values[None], part.framing.padded)[0][:, *inside]
                    count[part.place(index)] += 1
            mean = total / count
            yield (mean[0] if depth else mean.argmax(0)).cpu().numpy()


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W), bilinear."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
