"""The pre-norm transformer block of the ViT encoders and of the fusion transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.layers.attention import Attention


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.empty(dim))
        self.init_parameters()

    def init_parameters(self) -> None:
        nn.init.constant_(self.gamma, self.initial)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); `layer_scale` is the initial gain of both branches, None
    for none.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, tokens: Tensor, scale: float | None = None) -> Tensor:
        """(N, T, D) -> (N, T, D); `scale` as in Attention."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), scale))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))
