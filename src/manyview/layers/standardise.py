"""Standardising features per channel with the statistics of the whole batch, over all ranks, and their averages."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

FLOOR = 1e-3
"""Smallest standard deviation that is divided by."""


class Standardise(nn.Module):
    """(x - mean) / std per channel of (..., D) features.

    In train() mean and unbiased std are those of the current batch over all ranks, and the buffers move towards
    them by the momentum; in eval(), or with momentum 0, the buffers are used and stay.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def init_parameters(self) -> None:
        nn.init.zeros_(self.mean)
        nn.init.ones_(self.std)

    @torch.no_grad()
    def forward(self, features: Tensor, momentum: float = 0.0) -> Tensor:
        """(..., D) -> (..., D) float32. momentum in [0, 1] is the weight of the current batch in the buffers."""
        features = features.float()
        mean, std = self.mean, self.std
        if self.training and momentum > 0:
            mean, std = self._batch_statistics(features.flatten(0, -2))
            self.mean.lerp_(mean, momentum)
            self.std.lerp_(std, momentum)
        return (features - mean) / std.clamp(min=FLOOR)

    def _batch_statistics(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased std of (N, D) over all ranks, from sums: no feature leaves its rank.

        The sums are taken around the running mean, which every rank shares, so that large means lose no digits.
        """
        centred = rows.double() - self.mean.double()
        count = torch.full_like(centred[:1], len(rows))
        sums = torch.cat([centred.sum(0, keepdim=True), centred.square().sum(0, keepdim=True), count])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        first, second, total = sums
        mean = first / total
        variance = (second - total * mean.square()) / (total - 1).clamp(min=1)
        return (mean + self.mean.double()).float(), variance.clamp(min=0).sqrt().float()
