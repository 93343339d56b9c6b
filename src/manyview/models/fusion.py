"""The fusion transformer of Fast3R and Distill3R: joint self-attention over the tokens of all views.

Views are told apart only by a row of a fixed sine table; row 0 is the reference view. Nothing else marks
position: the patch tokens carry theirs from the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.block import Block
from manyview.layers.positions import sine_table

MOST_VIEWS = 1000
# Fast3R lengthens its attention at inference for more views than it was trained with: logits times
# sqrt(log(137) / log(20)), whatever the true number of views.
EXTENSION = math.sqrt(math.log(137) / math.log(20))


class Fusion(nn.Module):
    """Linear embedding, a view row, pre-norm blocks, a final norm."""

    view_table: Tensor

    def __init__(
        self, encoder_dim: int, dim: int, depth: int, heads: int, *, eps: float = 1e-5, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.embed = nn.Linear(encoder_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.register_buffer("view_table", torch.empty(MOST_VIEWS, dim), persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        self.view_table.copy_(sine_table(MOST_VIEWS, self.dim))

    def forward(
        self, tokens: Tensor, view_of_token: Tensor, taps: Sequence[int], *, extended: bool = False
    ) -> list[Tensor]:
        """(B, T, D) tokens of all views and their rows of the view table (B, T) -> the tokens at `taps`.

        Tap 0 is what came in, tap i the output of block i - 1, the last one normed.
        """
        scale = (self.dim // self.heads) ** -0.5 * (EXTENSION if extended else 1.0)
        outputs = {0: tokens}
        tokens = self.embed(tokens) + self.view_table[view_of_token]
        for index, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, scale)
            outputs[index] = tokens if index in taps else tokens[:0]
        outputs[len(self.blocks)] = self.norm(tokens)
        return [outputs[tap] for tap in taps]


def view_rows(view_ids: Tensor | Sequence[int] | None, batch: int, views: int) -> Tensor:
    """Rows of the view table (B, V), on the CPU; sequential when None. Raises UserError for more views than it has."""
    if views > MOST_VIEWS:
        raise UserError(f"{views} views are more than the {MOST_VIEWS} this model can tell apart; give it fewer")
    if view_ids is None:
        return torch.arange(views).expand(batch, views)
    rows = torch.as_tensor(view_ids).long().cpu()
    rows = rows.expand(batch, views) if rows.ndim == 1 and len(rows) == views else rows
    if rows.shape != (batch, views) or int(rows.min()) < 0 or int(rows.max()) >= MOST_VIEWS:
        raise UserError(
            f"view_ids are {tuple(rows.shape)}; they must be ({batch}, {views}) integers from 0 to {MOST_VIEWS - 1}"
        )
    return rows
