"""Which patches of an image are hidden, and which are left to see.

Masks are made, and counted, on the CPU: a count read from a GPU would wait for all that the GPU still has to do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.errors import UserError


def hide_at_random(shape: tuple[int, ...], hidden: int, generator: torch.Generator | None = None) -> Tensor:
    """(..., L) bool with `hidden` patches of each row True, drawn row by row on the CPU: a seed means
    the same everywhere.
    """
    return torch.rand(shape, generator=generator).argsort(-1).argsort(-1) >= shape[-1] - hidden


def visible_patches(mask: Tensor, device: torch.device | None = None) -> Tensor:
    """Indices (N, K) of the patches a mask (N, h*w) leaves visible, in row-major order, on `device` (the mask's own).

    A mask on the CPU costs no wait for a GPU. Raises UserError when images hide different numbers of patches.
    """
    device, mask = device or mask.device, mask.cpu()
    counts = mask.sum(1)
    if counts.min() != counts.max():
        raise UserError(
            f"masks hide {int(counts.min())} to {int(counts.max())} patches; an encoder that leaves hidden patches "
            "out needs the same number in every image"
        )
    visible = mask.shape[1] - int(counts[0])
    return send(mask.to(torch.uint8).argsort(dim=1, stable=True)[:, :visible], device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; from the CPU to a CUDA device without waiting for either."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
