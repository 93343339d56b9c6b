"""A guess of depth everywhere, bent smoothly to depths that are known in places.

Stereo knows textured surfaces and is silent on bare walls; a network says something everywhere, at its own scale. The
logarithm of known over guessed depth is averaged over wide, then over narrower neighbourhoods, and added to the guess.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTHS = (0.27, 0.11)
"""Standard deviations of the neighbourhoods, in longer sides of the picture."""
SHRINK = 0.004
"""Mean weight of a neighbourhood below which it changes little."""
SUPPORT = 0.05
"""Mean weight of the narrowest neighbourhood at which half is known."""
FARTHEST = 0.7
"""Steps of the logarithm are cut off here: an outlier cannot pull far."""


def bent(guess: Tensor, known: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and how well it is supported, 0 to 1, from a guess and known depths (V, H, W), all positive.

    weight: (V, H, W) from 0, unknown, to 1. A view without any weight keeps its guess, without support.
    """
    there = weight > 0
    logarithm = guess.clamp(min=1e-30).log()
    step = torch.where(there, known.clamp(min=1e-30).log() - logarithm, torch.nan)
    bend = step.flatten(1).nanmedian(1).values.nan_to_num(0.0)[:, None, None].expand_as(guess)
    nearby = torch.zeros_like(guess)
    for width in WIDTHS:
        sigma = width * max(guess.shape[-2:])
        nearby = _blurred(weight, sigma)
        rest = torch.where(there, step - bend, 0.0).clamp(-FARTHEST, FARTHEST)
        bend = bend + _blurred(rest * weight, sigma) / (nearby + SHRINK)
    return torch.exp(logarithm + bend), nearby / (nearby + SUPPORT)


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """(V, H, W) under a Gaussian of `sigma` pixels; nothing lies outside."""
    reach = int(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=values.device) / sigma).square())
    taps = (taps / taps.sum()).to(values.dtype)
    across = F.conv2d(values[:, None], taps[None, None, None], padding=(0, reach))
    return F.conv2d(across, taps[None, None, :, None], padding=(reach, 0))[:, 0]
