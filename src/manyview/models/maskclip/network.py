"""MaskCLIP (Zhou et al. 2022): CLIP's image tower read patch by patch, beside CLIP's text tower.

The last block's attention mixes patches for the class token's sake. Left out, but for its value and output maps,
what remains of a patch is about that patch, and still lies in the space of the texts.

Legend: N images, h x w patch grid, D channels of the tower, E channels of the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.block import Block
from manyview.layers.init import init_weights
from manyview.models import vit
from manyview.models.maskclip.text import TextTower, tokenise
from manyview.models.model import AroundEncoder, EncodesTexts, Model
from manyview.models.vit import Encoder, EncoderConfig, WithEncoder
from manyview.types import Features

# What CLIP itself was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_TEMPERATURE = 0.07


CLIP = vit.vit(
    "b",
    patch_size=16,
    positions=14,
    layer_scale=None,
    eps=1e-5,
    mask_token=False,
    activation="quick_gelu",
    patch_bias=False,
    pre_norm=True,
    image_size=224,
)


@dataclass(frozen=True, kw_only=True)
class MaskclipConfig(WithEncoder):
    """The image tower's configuration and the text tower's. The defaults are CLIP's ViT-B/16.

    Images are normalised with ImageNet's mean and std, as FeatUp feeds MaskCLIP and as its upsampler and SAB3R's
    targets expect; CLIP_MEAN and CLIP_STD are CLIP's own.
    """

    encoder: EncoderConfig = CLIP
    """The image tower; its epsilon is also the text tower's."""
    embed_dim: int = 512
    """Channels of the space that images and texts share."""
    text_dim: int = 512
    """Width of the text tower."""
    text_depth: int = 12
    """Blocks of the text tower."""
    text_heads: int = 8
    """Attention heads of the text tower."""
    context: int = 77
    """Tokens that a text may have, its start and end included."""
    vocabulary: int = 49408
    """Entries of the vocabulary."""


def debug(config: MaskclipConfig) -> MaskclipConfig:
    """The same layout with a few thousand parameters, for tests; its vocabulary is too small for real texts."""
    sizes = {"embed_dim": 6, "text_dim": 8, "text_depth": 2, "text_heads": 2, "context": 12, "vocabulary": 40}
    return replace(config, encoder=vit.debug(config.encoder), **sizes)  # type: ignore[arg-type]


class Maskclip(Model, AroundEncoder, EncodesTexts):
    """Images to patch features, texts to vectors, in one space of E channels: compare them by cosine."""

    architecture = "maskclip"
    config: MaskclipConfig

    def __init__(self, config: MaskclipConfig) -> None:
        super().__init__()
        inner = config.encoder
        if inner.depth < 2:
            raise UserError(f"depth is {inner.depth}; MaskCLIP reads what enters its last block, so at least 2")
        self.config = config
        self.encoder = Encoder(inner)
        self.projection = nn.Parameter(torch.empty(inner.dim, config.embed_dim))
        self.text = TextTower(
            config.text_dim,
            config.text_depth,
            config.text_heads,
            out=config.embed_dim,
            context=config.context,
            vocabulary=config.vocabulary,
            eps=inner.eps,
        )
        self.logit_scale = nn.Parameter(torch.empty(()))
        init_weights(self)

    def init_parameters(self) -> None:
        nn.init.normal_(self.projection, std=self.config.encoder.dim**-0.5)
        nn.init.constant_(self.logit_scale, -math.log(INITIAL_TEMPERATURE))

    def encode_blocks(
        self, images: Tensor, layers: Sequence[int], *, mask: Tensor | None = None, norm: bool = True
    ) -> list[Features]:
        """The last block's: patches (N, h*w, E) and CLIP's own image vector as `cls` (N, E), not L2-normalised;
        `norm=False` leaves the LayerNorm before the projection away. Those of earlier blocks are the tower's tokens
        with D channels.
        """
        last = self.config.encoder.depth - 1
        needed = sorted({*layers, last - 1, last} if last in layers else set(layers))
        tokens = dict(zip(needed, self.encoder.encode_blocks(images, needed, mask=mask, norm=False)))
        return [
            self._shared(tokens[last - 1], tokens[last], norm) if index == last else self._own(tokens[index], norm)
            for index in layers
        ]

    def forward(self, images: Tensor) -> Features:
        return self.encode(images)

    def encode_text(self, texts: str | Sequence[str | Sequence[int]] | Tensor) -> Tensor:
        """Texts, or their token ids, (N, T) or lists, -> (N, E), not L2-normalised: to compare, normalise both sides.

        Texts need CLIP's tokeniser (`pip install 'manyview[text]'`); without it a UserError says so.
        """
        ids = texts if isinstance(texts, Tensor) else tokenise(texts, context=self.config.context)
        return self.text(ids.to(self.projection.device))

    def _own(self, features: Features, norm: bool) -> Features:
        """Tokens of the tower, in its own D channels."""
        return _map(features, self.encoder.norm) if norm else features

    def _shared(self, before: Features, after: Features, norm: bool) -> Features:
        """What enters the last block and what leaves it, to the shared space: patches by its values alone."""
        patches = _values(cast(Block, self.encoder.blocks[-1]), before.patches)
        features = self._own(Features(patches, after.cls, None, after.grid), norm)
        return _map(features, lambda tokens: tokens @ self.projection)


def _map(features: Features, function: Callable[[Tensor], Tensor]) -> Features:
    cls = None if features.cls is None else function(features.cls)
    return Features(function(features.patches), cls, None, features.grid)


def _values(block: Block, tokens: Tensor) -> Tensor:
    """A block's attention where every token looks at itself only, without residual and MLP: (N, T, D)."""
    attention, dim = block.attn, tokens.shape[-1]
    weight, bias = attention.qkv.weight[2 * dim :], attention.qkv.bias[2 * dim :]
    return attention.proj(F.linear(block.norm1(tokens), weight, bias))
