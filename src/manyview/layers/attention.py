"""Multi-head attention with torch's fused kernels, as every transformer here uses it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.hardware import native_bf16
from manyview.layers.rope import Rope, rotate

Arithmetic = Literal["full", "half_on_gpu", "half"]
SHORT = 1024
"""Tokens up to which attention is written out where that is faster."""


def is_short_half_training(q: Tensor) -> bool:
    """Whether torch's fused kernel would be slow: on a CPU its backward pass in half precision takes 2.6 (520 tokens)
    to 7 times (65 tokens) as long as the products written out.
    """
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and q.shape[-2] <= SHORT


class Attention(nn.Module):
    """Self-attention over (N, T, D) tokens, one fused projection; `qk_norm`: LayerNorm on queries and keys."""

    arithmetic: Arithmetic = "full"
    """What float32 queries, keys and values are mixed in: full, or bfloat16 on a GPU (half: or CPU) that has it."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, heads, T, d) of tokens (N, T, D), before they are turned."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.q_norm(q), self.k_norm(k), v

    def forward(
        self, tokens: Tensor, scale: float | None = None, rope: Rope | None = None, *, causal: bool = False
    ) -> Tensor:
        """(N, T, D) -> (N, T, D). `scale` multiplies the logits; None is head_dim ** -0.5."""
        q, k, v = self.parts(tokens)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        kind = q.dtype
        if kind == torch.float32 and self._halved(q.device):
            q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
        if is_short_half_training(q) and not causal:
            mixed = ((q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal)
        return self.proj(mixed.transpose(1, 2).flatten(2).to(kind))

    def _halved(self, device: torch.device) -> bool:
        wanted = self.arithmetic == "half" or (self.arithmetic == "half_on_gpu" and device.type == "cuda")
        return wanted and native_bf16(device)
