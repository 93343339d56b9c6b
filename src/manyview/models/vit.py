"""The one ViT encoder of every model here: DINOv2's and DUNE's layout, MuM's, CroCo's and CLIP's as settings.

Legend: N images, h x w patch grid, D channels, R registers, P prefix tokens (class token and registers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyview.layers.block import Activation, Block, run
from manyview.layers.init import init_weights
from manyview.layers.masking import send, visible_patches
from manyview.layers.patches import PatchEmbed, image_grid
from manyview.layers.positions import resample_table
from manyview.layers.rope import Rope, RopeKind, RotaryPositions
from manyview.models.model import EncodesImages, Model
from manyview.types import Features

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Width, blocks and heads of the usual sizes.
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that decides an encoder's shapes and arithmetic. The defaults are DINOv2's ViT-S/14."""

    dim: int = 384
    """Encoder width."""
    depth: int = 12
    """Encoder blocks."""
    heads: int = 6
    """Attention heads of the encoder."""
    patch_size: int = 14
    """Side of a patch in pixels; images must have sides that are multiples of it."""
    cls_token: bool = True
    """Whether there is a class token."""
    registers: int = 0
    """Register tokens."""
    positions: int = 37
    """Side of the learned square position table, in patches; 0 for none."""
    antialias: bool = False
    """How the table is fitted to another grid: antialiased by size, or by scale factor with DINO's offset."""
    rope: RopeKind = "none"
    """Rotary positions: none, axial (MuM) or grid (CroCo, DUSt3R)."""
    rope_base: float = 100.0
    """Base of the rotary periods."""
    rope_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the rotary tables are computed in; bfloat16 is what MuM's published encoder class does."""
    layer_scale: float | None = 1e-5
    """Initial LayerScale gain; null for no LayerScale."""
    eps: float = 1e-6
    """LayerNorm epsilon of the encoder."""
    mask_token: bool = True
    """Hidden patches become a learned mask token; false: they are left out, as in masked autoencoders."""
    activation: Activation = "gelu"
    """Non-linearity of the MLPs."""
    patch_bias: bool = True
    """Whether the patch embedding has a bias."""
    pre_norm: bool = False
    """A LayerNorm before the first block (CLIP)."""
    image_size: int = 518
    """Long side in pixels that the model was made for."""
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean per channel that [0, 1] images are normalised with."""
    image_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation per channel, likewise."""


@dataclass(frozen=True, kw_only=True)
class WithEncoder:
    """The configuration of a network around an image encoder."""

    encoder: EncoderConfig = EncoderConfig()
    """The encoder inside."""

    @property
    def patch_size(self) -> int:
        return self.encoder.patch_size

    @property
    def image_size(self) -> int:
        return self.encoder.image_size


def vit(size: str, **fields: Any) -> EncoderConfig:
    """An encoder of size "s", "b" or "l"; the other fields are DINOv2's unless they are given."""
    dim, depth, heads = SIZES[size]
    return EncoderConfig(dim=dim, depth=depth, heads=heads, **fields)


def masked_vit(size: str, **fields: Any) -> EncoderConfig:
    """The encoder of a masked autoencoder: patches of 16, rotary positions, hidden patches left out."""
    usual: dict[str, Any] = {"patch_size": 16, "positions": 0, "layer_scale": None, "mask_token": False}
    return vit(size, **{**usual, **fields})


def croco_vit(**fields: Any) -> EncoderConfig:
    """CroCo's ViT-L, which DUSt3R and its heirs start from: no class token, integer rotary positions of base 100."""
    return masked_vit("l", cls_token=False, rope="grid", **fields)


class Encoder(Model, EncodesImages):
    """Images to tokens. Takes [0, 1] images with sides that are multiples of the patch, normalises them itself.

    `checkpointing = True` recomputes the blocks in the backward pass instead of keeping their activations.
    """

    config: EncoderConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.checkpointing = False
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if config.cls_token else None
        rows = config.positions**2 + config.cls_token
        self.pos_embed = nn.Parameter(torch.empty(1, rows, dim)) if config.positions else None
        self.register_tokens = nn.Parameter(torch.empty(1, config.registers, dim)) if config.registers else None
        self.mask_token = nn.Parameter(torch.empty(1, dim)) if config.mask_token else None
        self.patch_embed = PatchEmbed(config.patch_size, dim, bias=config.patch_bias)
        self.pre_norm: nn.Module = nn.LayerNorm(dim, eps=config.eps) if config.pre_norm else nn.Identity()
        self.rope = None
        if config.rope != "none":
            kind = torch.bfloat16 if config.rope_dtype == "bfloat16" else torch.float32
            self.rope = RotaryPositions(config.rope, dim // config.heads, base=config.rope_base, dtype=kind)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, eps=config.eps, layer_scale=config.layer_scale, activation=config.activation)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.eps)
        self.register_buffer("mean", torch.empty(3), persistent=False)
        self.register_buffer("std", torch.empty(3), persistent=False)

    @classmethod
    def fresh(cls, config: EncoderConfig) -> Encoder:
        """An encoder on its own; inside a model, the model initialises it."""
        model = cls(config)
        init_weights(model)
        return model

    def init_buffers(self) -> None:
        for buffer, values in ((self.mean, self.config.image_mean), (self.std, self.config.image_std)):
            buffer.copy_(torch.tensor(values))

    def init_parameters(self) -> None:
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.register_tokens):
            if token is not None:
                nn.init.normal_(token, std=1e-6 if self.config.positions else 0.02)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token and registers."""
        return int(self.config.cls_token) + self.config.registers

    def tokens(
        self, images: Tensor, mask: Tensor | None = None, *, visible: Tensor | None = None
    ) -> tuple[Tensor, Rope | None]:
        """What enters the first block, (N, P + h*w, D), and its rotations.

        mask (N, h*w): True becomes the mask token; without one it is left out, and every image must hide as many.
        visible (N, K): the indices of the patches to keep, where the caller has them from a mask already.
        """
        grid = image_grid(images, self.config.patch_size)
        patches = self.patch_embed((images - self.mean[:, None, None]) / self.std[:, None, None])
        if mask is not None and self.mask_token is not None:
            hidden = send(mask, patches.device)[..., None]
            patches = torch.where(hidden, self.mask_token.to(patches.dtype), patches)
        table = None
        if self.pos_embed is not None:
            rows: Tensor = self.pos_embed
            if not self.config.cls_token:  # the row of a class token, which an encoder without one lacks
                rows = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
            table = resample_table(rows, grid, antialias=self.config.antialias)
            patches = patches + table[:, 1:]
        rope = None if self.rope is None else self.rope(grid)
        if mask is not None and self.mask_token is None:
            visible = visible_patches(mask, patches.device)
        if visible is not None:
            patches = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))
            rope = rope and rope.pick(visible)
        prefix = self._prefix_tokens(patches, table)
        tokens = self.pre_norm(torch.cat([*prefix, patches], dim=1))
        return tokens, rope and rope.prefixed(self.prefix)

    def _prefix_tokens(self, patches: Tensor, table: Tensor | None) -> list[Tensor]:
        prefix = []
        if self.cls_token is not None:
            prefix.append(self.cls_token if table is None else self.cls_token + table[:, :1])
        if self.register_tokens is not None:
            prefix.append(self.register_tokens)
        return [token.to(patches.dtype).expand(len(patches), -1, -1) for token in prefix]

    def encode_blocks(
        self, images: Tensor, layers: Sequence[int], *, mask: Tensor | None = None, norm: bool = True
    ) -> list[Features]:
        grid = image_grid(images, self.config.patch_size)
        tokens, rope = self.tokens(images, mask)
        kept = {}
        for index, block in enumerate(self.blocks):
            tokens = run(block, tokens, rope, recompute=self.checkpointing)
            if index in layers:
                kept[index] = tokens
        return [self._features(kept[index], grid, norm) for index in layers]

    def _features(self, tokens: Tensor, grid: tuple[int, int], norm: bool) -> Features:
        if norm:
            tokens = self.norm(tokens)
        first = int(self.config.cls_token)
        return Features(
            tokens[:, self.prefix :],
            tokens[:, 0] if first else None,
            tokens[:, first : self.prefix] if self.config.registers else None,
            grid,
        )

    def forward(self, images: Tensor) -> Features:
        return self.encode(images)


def debug(config: EncoderConfig) -> EncoderConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(
        config, dim=8, depth=2, heads=2, positions=4 if config.positions else 0, image_size=4 * config.patch_size
    )
