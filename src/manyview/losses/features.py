"""A student's features against another network's, or against the words for what is there, at sampled pixels.

SAB3R (Chen et al., 2025), equations 5 and 7. Legend: N views, K sampled pixels, D channels, C words.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.types import Signal

Distance = Literal["square", "norm"]


def feature_distance(said: Tensor, signal: Signal, distance: Distance = "square") -> tuple[Tensor, Tensor]:
    """Sum over a view's valid pixels of their distance, and how many those are: (N,), (N,).

    said (N, K, D). "square": mean over channels of squares, as released; "norm": the length of the difference, as
    equation 5 is printed. What is not valid is never read.
    """
    known = torch.ones(said.shape[:2], dtype=torch.bool, device=said.device) if signal.valid is None else signal.valid
    apart = torch.where(known[..., None], said.float() - torch.where(known[..., None], signal.value.float(), 0), 0)
    square = apart.square()
    cost = square.mean(-1) if distance == "square" else square.sum(-1).add(1e-12).sqrt()
    return torch.where(known, cost, 0).sum(1), known.sum(1)


def word_loss(said: Tensor, words: Tensor, labels: Tensor, temperature: float = 0.05) -> tuple[Tensor, Tensor]:
    """Sum over a view's labelled pixels of the cross-entropy of its cosines to all words, and their number: (N,), (N,).

    said (N, K, D), words (C, D) of length one, labels (N, K): those outside 0 … C - 1 are left out.
    """
    known = (labels >= 0) & (labels < len(words))
    logits = F.normalize(said.float(), dim=-1) @ words.T / temperature
    cost = F.cross_entropy(logits.flatten(0, 1), torch.where(known, labels, 0).flatten().long(), reduction="none")
    return torch.where(known, cost.view_as(labels), 0).sum(1), known.sum(1)
