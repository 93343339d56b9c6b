"""A DPT on tokens of four depths that says a normal per pixel, and how sure it is (Probe3D's probe of surfaces).

Legend: N images, h x w patch grid, D channels, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.layers.dpt import DPT

LEVELS = 4


class NormalHead(nn.Module):
    """Tokens (N, h*w, 4 D), shallow to deep, to unit normals (N, 3, H, W) and a concentration (N, H, W) above 0."""

    def __init__(self, dim: int, patch: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(LEVELS))
        sizes = [width] * LEVELS
        self.dpt = DPT(
            [dim] * LEVELS, patch=patch, layer_dims=sizes, dim=width, last_dim=max(4, width // 2), channels=4
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        levels = [norm(level) for norm, level in zip(self.norms, tokens.chunk(LEVELS, -1), strict=True)]
        said = self.dpt(levels, grid)
        return F.normalize(said[:, :3], dim=1, eps=1e-6), F.elu(said[:, 3]) + 1.01


def angular_loss(normals: Tensor, concentration: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """Mean negative log likelihood of angles (Bae et al., ICCV 2021), each with its concentration k, over valid pixels:

    k * angle - log(k^2 + 1) + log(1 + exp(-k pi)). normals, true (N, 3, H, W); concentration, valid (N, H, W).
    """
    cosine = (normals * true).sum(1).clamp(-1 + 1e-5, 1 - 1e-5)
    cost = concentration * cosine.acos() - (concentration.square() + 1).log()
    cost = cost + torch.log1p(torch.exp(-concentration * torch.pi))
    return torch.where(valid, cost, 0).sum() / valid.sum().clamp(min=1)
