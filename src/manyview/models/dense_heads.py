"""Linear heads that say a class or a depth per pixel from patch tokens: what dense probes train on frozen features.

Legend: N images, h x w patch grid, P = h*w patches, D channels, K sampled points.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FINER = 4
"""How much finer than the patches the depth head answers (DINOv2)."""


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of (N, C, h, w) at points (N, K, 2), (x, y) in [0, 1] of the picture: (N, C, K).

    At the pixel centres of an (H, W) picture these are what bilinear resizing to (H, W) gives.
    """
    where = 2 * points[:, None] - 1
    return F.grid_sample(maps, where, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]


class SegmentationHead(nn.Module):
    """Batch norm and one linear map per patch; its logits are resized bilinearly to the pixels."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(dim), nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(N, P, D) -> logits (N, C, h, w)."""
        rows = self.linear(self.norm(tokens.flatten(0, 1)))
        return rows.unflatten(0, tokens.shape[:2]).transpose(1, 2).unflatten(2, grid)


Bins = Literal["linear", "softmax", "sigmoid"]


def binned_depth(logits: Tensor, centres: Tensor, how: Bins = "linear") -> Tensor:
    """Depth (N, ...) of logits (N, C, ...): the mean of the bins (C,) weighted by what the logits say.

    linear: relu + 0.1, normalised (DINOv2, DINOv3, Probe3D); sigmoid: likewise normalised; softmax.
    """
    if how == "softmax":
        weights = logits.softmax(1)
    else:
        weights = (logits.relu() + 0.1) if how == "linear" else logits.sigmoid()
    return torch.einsum("nc...,c->n...", weights, centres) / weights.sum(1)


class DepthHead(nn.Module):
    """One linear map into depth bins, uniform between `least` and `most`; the depth is their mean (DINOv2).

    Bins are weighted by relu(logit) + 0.1, normalised, on a grid four times as fine as the patches. The batch norm
    before the map makes one learning rate fit features of any scale.
    """

    centres: Tensor

    def __init__(self, dim: int, *, least: float, most: float, bins: int = 256) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(dim), nn.Linear(dim, bins)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("centres", torch.linspace(least, most, bins))

    def forward(self, tokens: Tensor, grid: tuple[int, int], points: Tensor | None = None) -> Tensor:
        """(N, P, D) -> depth (N, 4h, 4w); with points (N, K, 2) of the picture: (N, K)."""
        rows = self.linear(self.norm(tokens.flatten(0, 1)))
        maps = rows.unflatten(0, tokens.shape[:2]).transpose(1, 2).unflatten(2, grid)
        if points is None:
            logits = F.interpolate(maps, scale_factor=FINER, mode="bilinear", align_corners=False)
        else:
            logits = sample_maps(maps, points)
        return binned_depth(logits, self.centres)


class AttentiveHead(nn.Module):
    """One learnt query looks at all tokens, heads of 64 channels, and a linear map says the class (CAPI's probe).

    Keys and values share one linear map of the tokens; what the query saw goes to the classes as it is.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, dim // 64), 0, -1) if dim % n == 0)
        self.query = nn.Parameter(torch.randn(dim) * 0.02)
        self.keys_values, self.linear = nn.Linear(dim, 2 * dim), nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, P, D) -> logits (N, C)."""
        keys, values = self.keys_values(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.query.unflatten(0, (self.heads, -1))[None, :, None].expand(len(tokens), -1, -1, -1)
        return self.linear(F.scaled_dot_product_attention(query, keys, values)[:, :, 0].flatten(1))
