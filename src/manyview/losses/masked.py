"""Masked image modelling: the pixels of hidden patches, normalised patch by patch (MAE, CroCo, MuM's equation 1).

Legend: B scenes, V views, h x w = L patches, p patch side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.types import Signal


def patchify(images: Tensor, patch: int) -> Tensor:
    """(..., 3, H, W) -> (..., h*w, p*p*3): patches row by row, the pixels of each row by row, channels last."""
    cut = images.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # (..., 3, h, p, w, p)
    return cut.movedim(-5, -1).transpose(-4, -3).flatten(-5, -4).flatten(-3)


def unpatchify(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of patchify for patches of a grid (h, w): (..., h*w, p*p*3) -> (..., 3, H, W)."""
    side = round((patches.shape[-1] / 3) ** 0.5)
    cut = patches.unflatten(-1, (side, side, 3)).unflatten(-4, grid)  # (..., h, w, p, p, 3)
    return cut.transpose(-4, -3).movedim(-1, -5).flatten(-2).flatten(-3, -2)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread (..., 1) of each patch: the root of the unbiased variance plus 1e-6."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def hidden_pixels(images: Tensor, mask: Tensor, patch: int, *, normalise: bool = True) -> Signal:
    """What is to be said of normalised images (B, V, 3, H, W): patches (B, V, L, p*p*3), valid where hidden.

    `normalise`: each patch minus its mean, over its spread; else the pixels as they are (Table 11).
    """
    value = patchify(images, patch)
    if normalise:
        mean, spread = patch_statistics(value)
        value = (value - mean) / spread
    return Signal(value, valid=mask)


def masked_mse(prediction: Tensor, signal: Signal) -> tuple[Tensor, Tensor]:
    """Sum over a scene's hidden patches of their mean squared error, and how many those are: (B,), (B,).

    Equation 1 is the sum of all sums over the sum of all counts. What is not hidden is never read.
    """
    if signal.valid is None:
        raise ValueError("the signal does not say which patches are hidden (valid)")
    target = signal.value.where(signal.valid[..., None], 0)  # here already: the gradient of a NaN is one
    error = (prediction.float() - target).square().mean(-1)
    scene = tuple(range(1, error.ndim))
    return error.where(signal.valid, 0).sum(scene), signal.valid.sum(scene)
