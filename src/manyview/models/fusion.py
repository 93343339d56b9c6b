"""Fusion transformers: joint self-attention over the tokens of all views, as published, or in turn with each view's.

As Fast3R and Distill3R have it (`Fusion`), views are told apart only by a row of a fixed sine table; row 0 is the
reference view. Nothing else marks position: the patch tokens carry theirs from the encoder. Ours (`TurnsFusion`) is
VGGT's: blocks within each view and among all in turn, rotary positions, normed queries and keys, and a camera token
that is one for the first view and another for all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.block import Block
from manyview.layers.positions import sine_table
from manyview.layers.rope import Rope, RotaryPositions
from manyview.models.alternating import Alternating

MOST_VIEWS = 1000
# Fast3R lengthens its attention at inference for more views than it was trained with: logits times
# sqrt(log(137) / log(20)), whatever the true number of views.
EXTENSION = math.sqrt(math.log(137) / math.log(20))


class Fusion(nn.Module):
    """Linear embedding, a view row, pre-norm blocks, a final norm."""

    view_table: Tensor

    def __init__(
        self,
        encoder_dim: int,
        dim: int,
        depth: int,
        heads: int,
        *,
        eps: float = 1e-5,
        norm_eps: float = 1e-6,
        view_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.view_scale = dim, heads, view_scale
        self.embed = nn.Linear(encoder_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.register_buffer("view_table", torch.empty(MOST_VIEWS, dim), persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        self.view_table.copy_(sine_table(MOST_VIEWS, self.dim) * self.view_scale)

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


class TurnsFusion(nn.Module):
    """Linear embedding, camera tokens, pairs of a block within each view and one among all, a final norm.

    Legend: B scenes, v views of a group, n patches, P = 1 + registers tokens before them.
    """

    def __init__(
        self,
        encoder_dim: int,
        dim: int,
        depth: int,
        heads: int,
        *,
        registers: int = 0,
        eps: float = 1e-5,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        self.depth, self.prefix, self.rotary = depth, 1 + registers, rotary
        self.embed = nn.Linear(encoder_dim, dim)
        self.marks = nn.Parameter(torch.empty(2, self.prefix, dim))
        """Those of the first view, those of any other; the first of each is the camera token."""
        self.rope = RotaryPositions("grid", dim // heads)
        self.pairs = Alternating(dim, depth // 2, heads, eps=eps, qk_norm=True)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def init_parameters(self) -> None:
        nn.init.normal_(self.marks, std=0.5)

    def forward(
        self, groups: Sequence[Tensor], grids: Sequence[tuple[int, int]], taps: Sequence[int]
    ) -> tuple[list[list[Tensor]], Tensor]:
        """Groups of views' tokens (B, v, n, D) -> for each group the patches (B, v, n, D) at `taps`, and the camera
        tokens (B, V, D) of all views.

        Tap 0 is what came in, tap i the output of block i (counted from 1, the even ones see all views), the last
        one normed.
        """
        tokens, first = [], 0
        for group in groups:
            kind = [int(first + index > 0) for index in range(group.shape[1])]
            marks = self.marks[kind].expand(len(group), -1, -1, -1)
            tokens.append(torch.cat([marks.to(group.dtype), self.embed(group)], dim=2))
            first += group.shape[1]
        # The marks stand where no rotation is, hence the patches' positions start at 1.
        ropes = [self.rope(grid, offset=1).prefixed(self.prefix) for grid in grids]
        if torch.is_autocast_enabled(groups[0].device.type):  # turning in half precision, as all else is done
            half = torch.get_autocast_dtype(groups[0].device.type)
            ropes = [Rope(rope.cos.to(half), rope.sin.to(half), rope.groups) for rope in ropes]
        rows = [rope.repeat(group.shape[1]) for rope, group in zip(ropes, groups, strict=True)]
        everywhere = Rope(torch.cat([r.cos for r in rows]), torch.cat([r.sin for r in rows]), rows[0].groups)
        wanted = [tap for tap in taps if tap not in (0, self.depth)]
        last, kept = self.pairs.mixed(
            tokens, ropes, everywhere if self.rotary else None, taps=[(tap - 1) // 2 for tap in wanted]
        )
        outputs: list[dict[int, Tensor]] = [{0: group} for group in groups]
        for tap, pair in zip(wanted, kept, strict=True):
            for output, both in zip(outputs, pair, strict=True):
                output[tap] = both[(tap - 1) % 2][:, :, self.prefix :]
        normed = [self.norm(group) for group in last]
        for output, group in zip(outputs, normed, strict=True):
            output[self.depth] = group[:, :, self.prefix :]
        cameras = torch.cat([group[:, :, 0] for group in normed], dim=1)
        return [[output[tap] for tap in taps] for output in outputs], cameras

    def looks(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """What the first heads of the first global blocks ask and offer: queries and keys (B, V, h, w, d) of each, from
        the patches (B, V, n, D) at the taps 1, 3, …
        """
        answers = []
        for level, block in zip(levels, self.pairs.everywhere):
            assert isinstance(block, Block)
            q, k, _ = block.attn.parts(block.norm1(level.flatten(0, 1)))
            q, k = (part[:, 0].unflatten(1, grid).unflatten(0, level.shape[:2]) for part in (q, k))
            answers.append((q, k))
        return answers


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
