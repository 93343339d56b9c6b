"""The ViT encoder in the DINOv2 / DUNE layout: class token, learned positions, registers, LayerScale.

Legend: N images, h x w patch grid, D channels, R registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor, nn

from manyview.layers.block import Block
from manyview.layers.patches import PatchEmbed, patch_grid
from manyview.layers.positions import resample_table
from manyview.types import Features

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Images to tokens. Takes [0, 1] images of any size that is a multiple of the patch, normalises them
    itself.

    `positions`: side of the square grid of the learned position table. `layer_scale`: initial gain, None for
    none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        *,
        patch_size: int = 14,
        registers: int = 4,
        positions: int = 32,
        layer_scale: float | None = 1e-4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + positions**2, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, registers, dim)) if registers else None
        self.mask_token = nn.Parameter(torch.empty(1, dim))
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, eps=eps, layer_scale=layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.register_buffer("mean", torch.empty(3), persistent=False)
        self.register_buffer("std", torch.empty(3), persistent=False)
        self.normalise_with(IMAGENET_MEAN, IMAGENET_STD)

    def normalise_with(self, mean: Sequence[float], std: Sequence[float]) -> Encoder:
        """Set the mean and std (per channel) that [0, 1] images are normalised with; returns itself."""
        self.image_mean, self.image_std = tuple(mean), tuple(std)
        self.init_buffers()
        return self

    def init_buffers(self) -> None:
        for buffer, values in ((self.mean, self.image_mean), (self.std, self.image_std)):
            buffer.copy_(torch.tensor(values))

    def init_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.register_tokens):
            if token is not None:
                nn.init.normal_(token, std=1e-6)
        nn.init.zeros_(self.mask_token)

    def tokens(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """What enters the first block: (N, 1 + R + h*w, D). mask (N, h*w): True is replaced by the mask
        token.
        """
        grid = patch_grid(images.shape[-2], images.shape[-1], self.patch_size)
        patches = self.patch_embed((images - self.mean[:, None, None]) / self.std[:, None, None])
        if mask is not None:
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        tokens = torch.cat([self.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1)
        tokens = tokens + resample_table(self.pos_embed, grid)
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    @overload
    def encode(
        self, images: Tensor, mask: Tensor | None = None, norm: bool = True, layers: None = None
    ) -> Features: ...

    @overload
    def encode(
        self, images: Tensor, mask: Tensor | None = None, norm: bool = True, *, layers: Sequence[int]
    ) -> list[Features]: ...

    def encode(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        norm: bool = True,
        layers: Sequence[int] | None = None,
    ) -> Features | list[Features]:
        """(N, 3, H, W) in [0, 1] -> Features of the last block, or a list of those of the 0-based block
        indices.

        `norm=False` leaves the final LayerNorm away. Raises UserError when a side is no multiple of the
        patch.
        """
        tokens = self.tokens(images, mask)
        grid = patch_grid(images.shape[-2], images.shape[-1], self.patch_size)
        kept = {}
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if layers is not None and index in layers:
                kept[index] = tokens
        if layers is None:
            return self._features(tokens, grid, norm)
        return [self._features(kept[index], grid, norm) for index in layers]

    def _features(self, tokens: Tensor, grid: tuple[int, int], norm: bool) -> Features:
        if norm:
            tokens = self.norm(tokens)
        prefix = tokens.shape[1] - grid[0] * grid[1]
        registers = tokens[:, 1:prefix] if prefix > 1 else None
        return Features(tokens[:, prefix:], tokens[:, 0], registers, grid)

    def forward(self, images: Tensor) -> Features:
        return self.encode(images)
