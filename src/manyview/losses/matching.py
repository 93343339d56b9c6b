"""MASt3R's matching loss: descriptors of true correspondences are alike, and unlike all others (InfoNCE).

Leroy et al., ECCV 2024, section 3.2, equations 10 to 12. Legend: B pairs, K correspondences, H x W pixels, D channels.
A Signal of matches has `value` (B, K, 2, 2) long, pixel (x, y) in the first and in the second view, and `valid` (B, K):
what is not valid are pixels without a match, which only push others away.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from manyview.losses.confident import confident
from manyview.types import Signal

Normaliser = Literal["proper", "all"]


def info_nce(first: Tensor, second: Tensor, *, temperature: float = 0.05, normaliser: Normaliser = "proper") -> Tensor:
    """Unit descriptors (B, K, D) of both views -> costs (B, K) of saying that row k of one is row k of the other.

    normaliser "proper": minus the log of both softmaxes, over the second view's descriptors and over the first's;
    "all": of the one softmax over all pairs of them.
    """
    with torch.autocast(first.device.type, enabled=False):
        likeness = first.float() @ second.float().transpose(1, 2) / temperature  # (B, K, K)
        if normaliser == "all":
            shares = likeness.flatten(1).log_softmax(-1).view_as(likeness)
        else:
            shares = likeness.log_softmax(-1) + likeness.log_softmax(-2)
        return -shares.diagonal(dim1=1, dim2=2)


def at_matches(maps: Tensor, matches: Signal) -> tuple[Tensor, Tensor]:
    """Both views' values of maps (B, 2, H, W, ...) at the matches: twice (B, K, ...)."""
    pair = torch.arange(len(maps), device=maps.device)[:, None]
    x, y = matches.value.unbind(-1)
    return maps[pair, 0, y[..., 0], x[..., 0]], maps[pair, 1, y[..., 1], x[..., 1]]


def matching_loss(
    descriptors: Tensor,
    confidence: Tensor | None,
    matches: Signal,
    *,
    alpha: float = 10.0,
    temperature: float = 0.05,
    normaliser: Normaliser = "proper",
) -> tuple[Tensor, Tensor]:
    """Sums and counts (B,) over the valid matches of InfoNCE, weighted by the mean of both descriptors' confidences.

    descriptors (B, 2, H, W, D), confidence (B, 2, H, W) or None for no weights.
    """
    cost = info_nce(*at_matches(descriptors, matches), temperature=temperature, normaliser=normaliser)
    valid = torch.ones_like(cost, dtype=torch.bool) if matches.valid is None else matches.valid
    if confidence is not None:
        first, second = at_matches(confidence.float(), matches)
        cost = confident(cost, (first + second) / 2, alpha)
    return torch.where(valid, cost, 0).sum(1), valid.sum(1)
