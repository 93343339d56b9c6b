"""From an encoder's tokens into one teacher's feature space: DUNE's transformer projector, UNIC's ladder of MLPs.

Legend: N images, h x w patches, D the student's channels, E the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from manyview.layers.block import Block, Mlp

ProjectorKind = Literal["transformer", "ladder", "simple"]


class TransformerProjector(nn.Module):
    """One transformer block over [class token; patches] of the last block, then a linear map."""

    def __init__(self, dim: int, out: int, heads: int, *, eps: float, layer_scale: float | None) -> None:
        super().__init__()
        self.block = Block(dim, heads, eps=eps, layer_scale=layer_scale)
        self.linear = nn.Linear(dim, out)

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """(N, 1 + h*w, D) per encoder block -> (N, 1 + h*w, E)."""
        return self.linear(self.block(blocks[-1]))


class LadderProjector(nn.Module):
    """The sum of one MLP per encoder block, the class token and the patches with MLPs of their own.

    Hidden widths are the student's own, 4 times that after the last block. With one block it is the simple projector.
    """

    def __init__(self, dim: int, out: int, blocks: int) -> None:
        super().__init__()
        hidden = [dim] * (blocks - 1) + [4 * dim]
        self.cls, self.patch = (nn.ModuleList(Mlp(dim, width, out) for width in hidden) for _ in range(2))

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """(N, 1 + h*w, D) per encoder block -> (N, 1 + h*w, E)."""
        rungs = zip(blocks, self.cls, self.patch, strict=True)
        return torch.stack(
            [torch.cat([cls(tokens[:, :1]), patch(tokens[:, 1:])], 1) for tokens, cls, patch in rungs]
        ).sum(0)
