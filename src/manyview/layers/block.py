"""The pre-norm transformer block of the ViT encoders and of the fusion transformer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyview.layers.attention import Attention
from manyview.layers.rope import Rope

Activation = Literal["gelu", "quick_gelu"]


class Mlp(nn.Module):
    """Two linear layers with a GELU between: the exact one, or CLIP's approximation x * sigmoid(1.702 x)."""

    def __init__(self, dim: int, hidden: int, out: int | None = None, *, activation: Activation = "gelu") -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.fc1(tokens)
        return self.fc2(F.gelu(hidden) if self.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden))


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
    """x + attention(norm(x)), then x + mlp(norm(x)).

    `layer_scale` is the initial gain of both branches, None for none; `causal` lets a token see only those before.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        layer_scale: float | None = None,
        qk_norm: bool = False,
        activation: Activation = "gelu",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm=qk_norm)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, tokens: Tensor, scale: float | None = None, rope: Rope | None = None) -> Tensor:
        """(N, T, D) -> (N, T, D); `scale` and `rope` as in Attention."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), scale, rope, causal=self.causal))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


def run(block: nn.Module, tokens: Tensor, rope: Rope | None = None, *, recompute: bool = False) -> Tensor:
    """One block; `recompute`: its activations are computed again in the backward pass instead of being kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, tokens, None, rope, use_reentrant=False)
    return block(tokens, None, rope)
