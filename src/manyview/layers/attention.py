"""Multi-head self-attention with one fused projection, as every transformer here uses it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention over (N, T, D) tokens through torch's fused kernels."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, scale: float | None = None) -> Tensor:
        """(N, T, D) -> (N, T, D). `scale` multiplies the logits; None is head_dim ** -0.5."""
        q, k, v = (
            self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (N, heads, T, d)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return self.proj(mixed.transpose(1, 2).flatten(2))
