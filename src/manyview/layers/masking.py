"""Which patches of an image are hidden, and which are left to see."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import UserError


def hide_at_random(shape: tuple[int, ...], hidden: int, generator: torch.Generator | None = None) -> Tensor:
    """(..., L) bool with `hidden` patches of each row True, drawn row by row on the CPU: a seed means the same
    everywhere.
    """
    return torch.rand(shape, generator=generator).argsort(-1).argsort(-1) >= shape[-1] - hidden


def visible_patches(mask: Tensor) -> Tensor:
    """Indices (N, K) of the patches a mask (N, h*w) leaves visible, in row-major order.

    Raises UserError when images hide different numbers of patches.
    """
    hidden = mask.sum(1)
    if bool((hidden != hidden[0]).any()):
        raise UserError(
            f"masks hide {int(hidden.min())} to {int(hidden.max())} patches; an encoder that leaves hidden patches "
            "out needs the same number in every image"
        )
    visible = mask.shape[1] - int(hidden[0])
    return mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :visible]
