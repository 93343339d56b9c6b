"""Cross-attention, and the decoder block of CroCo and DUSt3R: a view looks at itself, then at the other view.

Legend: N pairs, T tokens of the view that is decoded, M tokens of the other view (the memory), D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from manyview.layers.attention import Attention
from manyview.layers.block import Mlp
from manyview.layers.rope import Rope, rotate


class CrossAttention(nn.Module):
    """Queries from one view, keys and values from the other; each side turns by its own rotary table."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, tokens: Tensor, memory: Tensor, rope: Rope | None = None, memory_rope: Rope | None = None
    ) -> Tensor:
        """(N, T, D), (N, M, D) -> (N, T, D)."""
        q, k, v = (
            layer(side).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, T or M, d)
            for layer, side in ((self.query, tokens), (self.key, memory), (self.value, memory))
        )
        if rope is not None:
            q = rotate(q, rope)
        if memory_rope is not None:
            k = rotate(k, memory_rope)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """x + attention(norm(x)), then x + cross-attention(norm(x), norm(memory)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.norm_memory = nn.LayerNorm(dim, eps=eps)
        self.cross = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, tokens: Tensor, memory: Tensor, rope: Rope | None = None, memory_rope: Rope | None = None
    ) -> Tensor:
        """(N, T, D), (N, M, D) -> (N, T, D)."""
        tokens = tokens + self.attn(self.norm1(tokens), None, rope)
        tokens = tokens + self.cross(self.norm2(tokens), self.norm_memory(memory), rope, memory_rope)
        return tokens + self.mlp(self.norm3(tokens))
