"""Where attention looks: weights of chosen queries, computed beside the fused kernels, which never form them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from manyview.layers.attention import Attention
from manyview.layers.rope import Rope, rotate

AT_ONCE = 256
"""Queries whose weights of all heads are in memory together, where only the heads' mean is wanted."""


def attention_weights(
    attention: Attention,
    tokens: Tensor,
    rope: Rope | None,
    queries: Tensor,
    scale: float | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """What some tokens attend to: (N, T, D) and their indices (Q,) -> (N, heads, Q, T), rows sum to one.

    mean: over the heads, (N, Q, T), without ever holding the weights of all heads and queries.
    """
    q, k, _ = attention.qkv(tokens).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if rope is not None:
        q, k = rotate(q, rope), rotate(k, rope)
    q = q[:, :, queries] * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mean:
        parts = q.split(AT_ONCE, dim=2)
        return torch.cat([(part @ k.transpose(-1, -2)).softmax(-1).mean(1) for part in parts], 1)
    return (q @ k.transpose(-1, -2)).softmax(-1)


@contextmanager
def recorded(modules: Sequence[Attention], queries: Tensor, *, mean: bool = False) -> Iterator[list[Tensor]]:
    """While open, every forward pass of the modules appends its weights for `queries` to the list it gives."""
    recordings: list[Tensor] = []

    def hook(module: Any, inputs: tuple[Any, ...]) -> None:
        tokens, scale, rope = (*inputs, None, None)[:3]
        with torch.no_grad():
            recordings.append(attention_weights(module, tokens, rope, queries, scale, mean=mean))

    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield recordings
    finally:
        for handle in handles:
            handle.remove()
