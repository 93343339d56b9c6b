"""Rotary position embedding of patch grids, in the two conventions the field uses.

`axial` (DINOv3, MuM): centres of the patches, each axis scaled to [-1, 1]; a head's channels are rotated as one
group. `grid` (CroCo, DUSt3R, VGGT): integer rows and columns; half the channels turn with the row, half with the
column. Either way a table is a cosine and a sine per token and channel, and rotation is one function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

RopeKind = Literal["none", "axial", "grid"]


@dataclass(frozen=True)
class Rope:
    """Rotations of T tokens: cos and sin broadcast against (N, heads, T, d); `groups` of channels turn alone."""

    cos: Tensor
    sin: Tensor
    groups: int

    def prefixed(self, tokens: int, *, zero: bool = False) -> Rope:
        """With `tokens` leading tokens that are not rotated; `zero` wipes them out instead."""
        shape = (*self.cos.shape[:-2], tokens, self.cos.shape[-1])
        cos = self.cos.new_zeros(shape) if zero else self.cos.new_ones(shape)
        return Rope(torch.cat([cos, self.cos], -2), torch.cat([self.sin.new_zeros(shape), self.sin], -2), self.groups)

    def pick(self, index: Tensor) -> Rope:
        """The rows (N, K) of a (T, d) table, per image: a table for (N, heads, K, d)."""
        return Rope(self.cos[index][:, None], self.sin[index][:, None], self.groups)

    def repeat(self, views: int) -> Rope:
        """The (T, d) table of one view for `views` views in a row: (views*T, d)."""
        return Rope(self.cos.repeat(views, 1), self.sin.repeat(views, 1), self.groups)


def rotate(vectors: Tensor, rope: Rope) -> Tensor:
    """Queries or keys (N, heads, T, d) turned by their tokens' angles, computed in the table's dtype."""
    exact = vectors.to(rope.cos.dtype)
    first, second = exact.unflatten(-1, (rope.groups, 2, -1)).unbind(-2)
    quarter_turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return (exact * rope.cos + quarter_turned * rope.sin).to(vectors.dtype)


def _compute_again(module: RotaryPositions, _: object) -> None:
    module.init_buffers()


class RotaryPositions(nn.Module):
    """Tables for any patch grid. `dtype` is what angles, cosines and sines are computed in."""

    periods: Tensor

    def __init__(
        self, kind: RopeKind, head_dim: int, *, base: float = 100.0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"head_dim {head_dim} is not a multiple of 4, which rotary positions need")
        self.kind, self.base, self.dtype = kind, base, dtype
        # Published axial files carry their periods, some rounded to bfloat16: they are computed again after loading.
        self.register_buffer("periods", torch.empty(head_dim // 4, dtype=dtype), persistent=kind == "axial")
        self.register_load_state_dict_post_hook(_compute_again)
        self.init_buffers()

    def init_buffers(self) -> None:
        self.periods.copy_(self._periods())

    def _periods(self) -> Tensor:
        """Computed anew each time, for `model.to(torch.bfloat16)` rounds the buffer."""
        count = len(self.periods)
        steps = torch.arange(count, device=self.periods.device, dtype=self.dtype)
        return self.base ** (steps / count)

    def forward(self, grid: tuple[int, int], *, offset: int = 0) -> Rope:
        """(h, w) -> the table (h*w, head_dim). `offset` is added to the integer positions of `grid`."""
        device, kind = self.periods.device, self.dtype
        if self.kind == "grid":
            rows, cols = (torch.arange(offset, n + offset, device=device, dtype=kind) for n in grid)
            angle = 1.0
        else:
            rows, cols = ((torch.arange(0.5, n, device=device, dtype=kind)) / n * 2 - 1 for n in grid)
            angle = 2 * torch.pi
        where = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1).flatten(0, 1)  # (h*w, 2)
        angles = angle * where[..., None] / self._periods()  # (h*w, 2, d/4)
        if self.kind == "grid":
            angles = torch.cat([angles, angles], -1).flatten(1)
            return Rope(angles.cos(), angles.sin(), 2)
        angles = angles.flatten(1).tile(2)
        return Rope(angles.cos(), angles.sin(), 1)
