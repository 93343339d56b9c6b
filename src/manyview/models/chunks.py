"""Doing a few images at a time: bounds memory, never the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def chunk_size(name: str, asked: int | None, usual: int) -> int | None:
    """What was asked for, else the usual number where no gradient is kept, else None: all at once.

    Raises ValueError for a number below one.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"{name} must be at least 1, got {asked}")
    return asked or (None if torch.is_grad_enabled() else usual)


def chunks(levels: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Tensors of equal length, `size` rows of each at a time."""
    yield from ([*part] for part in zip(*(level.split(size) for level in levels), strict=True))
