"""CroCo v2: a masked view is completed from another view of the scene (cross-view completion).

DUSt3R, MASt3R and Fast3R start from its encoder; its decoder is the pair decoder with one branch.
Legend: B pairs, n = h*w patches of a view, D channels, p side of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.cross import CrossBlock
from manyview.layers.init import init_weights
from manyview.layers.masking import hide_at_random, send, visible_patches
from manyview.layers.patches import image_grid
from manyview.layers.rope import RotaryPositions
from manyview.models import vit
from manyview.models.model import AroundEncoder, CompletesPairs, Completion, Model
from manyview.models.vit import Encoder, WithEncoder


@dataclass(frozen=True, kw_only=True)
class CrossDecoderConfig(WithEncoder):
    """An encoder's configuration, and that of a decoder in which one view looks at another."""

    decoder_dim: int = 768
    """Width of the decoder."""
    decoder_depth: int = 12
    """Blocks of the decoder, per branch."""
    decoder_heads: int = 12
    """Attention heads of the decoder."""
    decoder_eps: float = 1e-6
    """LayerNorm epsilon of the decoder."""


def croco() -> CrossDecoderConfig:
    """The published CroCo v2: ViT-L encoder, base decoder, ImageNet normalisation."""
    return CrossDecoderConfig(encoder=vit.croco_vit(image_size=224))


C = TypeVar("C", bound=CrossDecoderConfig)


def debug(config: C) -> C:
    """The same layout with a few thousand parameters, for tests."""
    encoder = vit.debug(config.encoder)
    return replace(config, encoder=encoder, decoder_dim=8, decoder_depth=2, decoder_heads=2)


class CrossDecoder(nn.Module):
    """Linear embedding, one or two branches of blocks that look at the other view, one final norm for all.

    The mask token is CroCo's; the published files of pair models still carry it, unused.
    """

    def __init__(self, config: CrossDecoderConfig, *, branches: int) -> None:
        super().__init__()
        dim, heads = config.decoder_dim, config.decoder_heads
        self.embed = nn.Linear(config.encoder.dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.branches = nn.ModuleList(
            nn.ModuleList(CrossBlock(dim, heads, eps=config.decoder_eps) for _ in range(config.decoder_depth))
            for _ in range(branches)
        )
        self.norm = nn.LayerNorm(dim, eps=config.decoder_eps)
        self.rope = RotaryPositions("grid", dim // heads, base=config.encoder.rope_base)

    def init_parameters(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)


class Croco(Model, AroundEncoder, CompletesPairs):
    """The encoder on both views, the decoder on the first, a linear map to the pixels of its patches."""

    architecture = "croco"
    config: CrossDecoderConfig

    def __init__(self, config: CrossDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.decoder = CrossDecoder(config, branches=1)
        self.predict = nn.Linear(config.decoder_dim, 3 * config.patch_size**2)
        init_weights(self)

    def forward(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        mask_ratio: float = 0.9,
        generator: torch.Generator | None = None,
    ) -> Completion:
        """Pairs (B, 2, 3, H, W) in [0, 1] -> the first view, completed from the second.

        mask (B, n): True hides a patch of the first view; without one `mask_ratio` of them are drawn. Raises
        UserError unless there are two views whose sides are multiples of the patch.
        """
        if images.ndim != 5 or images.shape[1] != 2:
            raise UserError(f"CroCo completes one view from another: give (B, 2, 3, H, W), not {images.shape}")
        grid = image_grid(images, self.config.patch_size, dims=5)
        if mask is None:
            patches = grid[0] * grid[1]
            mask = hide_at_random((len(images), patches), int(mask_ratio * patches), generator)
        seen, memory = (
            self.decoder.embed(self.encoder.encode(view, hidden).patches)
            for view, hidden in ((images[:, 0], mask), (images[:, 1], None))
        )
        where = visible_patches(mask, images.device)[..., None].expand(-1, -1, seen.shape[-1])
        tokens = self.decoder.mask_token.to(seen.dtype).expand(len(seen), mask.shape[1], -1)
        tokens = tokens.scatter(1, where, seen)
        rope = self.decoder.rope(grid)
        for block in self.decoder.branches[0].children():
            tokens = block(tokens, memory, rope, rope)
        return Completion(self.predict(self.decoder.norm(tokens)), send(mask, images.device))
