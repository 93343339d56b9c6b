"""Alternating attention: within each view, then among all views, in turn (VGGT's aggregator, MuM's decoder).

Legend: B scenes, V views, T tokens of a view, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyview.layers.block import Block, run
from manyview.layers.rope import Rope


class Alternating(nn.Module):
    """`pairs` frame-wise blocks, each followed by a global one. `checkpointing = True` recomputes them backwards."""

    def __init__(
        self,
        dim: int,
        pairs: int,
        heads: int,
        *,
        eps: float = 1e-6,
        layer_scale: float | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = False
        self.frame, self.everywhere = (
            nn.ModuleList(Block(dim, heads, eps=eps, layer_scale=layer_scale, qk_norm=qk_norm) for _ in range(pairs))
            for _ in range(2)
        )

    def forward(self, tokens: Tensor, frame_rope: Rope | None = None, global_rope: Rope | None = None) -> Tensor:
        """(B, V, T, D) -> the same; frame_rope rotates the T tokens of a view, global_rope the V*T of a scene."""
        return self.mixed([tokens], [frame_rope], global_rope)[0][0]

    def mixed(
        self,
        groups: Sequence[Tensor],
        frame_ropes: Sequence[Rope | None],
        global_rope: Rope | None = None,
        *,
        taps: Sequence[int] = (),
    ) -> tuple[list[Tensor], list[list[tuple[Tensor, Tensor]]]]:
        """Views of different sizes: groups (B, v, t, D), whose v add up to V -> the same; for each tap, per group, the
        outputs of frame block i and of global block i.

        Each of frame_ropes rotates the t tokens of a group's view, global_rope those of all groups in a row.
        """
        groups, kept = list(groups), {}
        for index, (frame, everywhere) in enumerate(zip(self.frame, self.everywhere, strict=True)):
            within = [
                run(frame, group.flatten(0, 1), rope, recompute=self.checkpointing).view(group.shape)
                for group, rope in zip(groups, frame_ropes, strict=True)
            ]
            flat = [group.flatten(1, 2) for group in within]  # each (B, v*t, D)
            joined = flat[0] if len(flat) == 1 else torch.cat(flat, 1)
            scene = run(everywhere, joined, global_rope, recompute=self.checkpointing)
            parts = scene.split([part.shape[1] for part in flat], dim=1)
            groups = [part.reshape(group.shape) for part, group in zip(parts, within, strict=True)]
            if index in taps:
                kept[index] = list(zip(within, groups, strict=True))
        return groups, [kept[tap] for tap in taps]
