"""The multi-view reconstructor of Fast3R and Distill3R: encoder, fusion transformer, a global and a local head.

Legend: B scenes, V views, H x W pixels, n = h*w patches of a view, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from manyview.layers.init import init_weights
from manyview.layers.masking import send
from manyview.layers.patches import patch_grid
from manyview.models import vit
from manyview.models.fusion import Fusion, view_rows
from manyview.models.heads import Head, WithHeads
from manyview.models.many import answer_of, chunk_size, decoded, encoded, groups_of
from manyview.models.model import AroundEncoder, Maps, Model, ReconstructsViews
from manyview.models.vit import HALF, Encoder, EncoderConfig

AttentionScale = Literal["auto", "plain", "extended"]


@dataclass(frozen=True, kw_only=True)
class ReconstructorConfig(WithHeads):
    """An encoder's configuration, and that of the fusion transformer and the heads. These defaults are
    the published student's.
    """

    decoder_dim: int = 384
    """Width of the fusion transformer."""
    decoder_depth: int = 6
    """Blocks of the fusion transformer."""
    decoder_heads: int = 6
    """Attention heads of the fusion transformer."""
    decoder_eps: float = 1e-5
    """LayerNorm epsilon inside the fusion blocks (the final norm keeps 1e-6)."""
    taps: tuple[int, int, int, int] = (0, 3, 4, 6)
    """What the heads read: 0 is the encoder's tokens, i the output of fusion block i, the last one normed."""
    attention_scale: AttentionScale = "auto"
    """Logit scale of the fusion attention: plain, extended (Fast3R's factor for many views), or auto."""
    extended_in_eval: bool = True
    """What auto means: extended in eval() and plain in train(), as published; false: always plain."""
    encoder_chunk: int = 64
    """Images that go through the encoder together when no gradient is needed; bounds memory, not the result."""
    head_chunk: int = 16
    """Views that go through a head together when no gradient is needed; likewise."""


def distill3r() -> ReconstructorConfig:
    """The published Distill3R student: 71,969,288 parameters."""
    encoder = EncoderConfig(registers=4, positions=32, layer_scale=1e-4, image_mean=HALF, image_std=HALF)
    return ReconstructorConfig(encoder=encoder)


def tiny() -> ReconstructorConfig:
    """Ours for a CPU: 5.8 million parameters, made for 112x154 pixels."""
    shape: dict[str, int] = {"dim": 192, "depth": 8, "heads": 3, "positions": 11, "image_size": 154}
    return ReconstructorConfig(
        encoder=EncoderConfig(**shape, layer_scale=None, image_mean=HALF, image_std=HALF),  # type: ignore[arg-type]
        decoder_dim=192,
        decoder_depth=3,
        decoder_heads=3,
        taps=(0, 1, 2, 3),
        extended_in_eval=False,
        head_layer_dims=(32, 48, 96, 96),
        head_dim=32,
        head_last_dim=16,
        head_spare_unit=False,
    )


def small() -> ReconstructorConfig:
    """Ours, the default of `reconstruct`: 15.1 million parameters, made for 168x224 pixels."""
    shape: dict[str, int] = {"dim": 256, "depth": 8, "heads": 4, "positions": 16, "image_size": 224}
    return replace(
        tiny(),
        encoder=EncoderConfig(**shape, layer_scale=None, image_mean=HALF, image_std=HALF),  # type: ignore[arg-type]
        decoder_dim=256,
        decoder_depth=8,
        decoder_heads=4,
        taps=(0, 3, 5, 8),
        head_layer_dims=(48, 64, 128, 128),
        head_dim=64,
        head_last_dim=32,
    )


def debug(config: ReconstructorConfig) -> ReconstructorConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(
        config,
        encoder=vit.debug(config.encoder),
        decoder_dim=8,
        decoder_depth=2,
        decoder_heads=2,
        taps=(0, 1, 2, 2),
        head_layer_dims=(4, 4, 8, 8),
        head_dim=4,
        head_last_dim=4,
    )


class Reconstructor(Model, AroundEncoder, ReconstructsViews):
    """Views of a scene to pointmaps in the first view's camera frame and in each view's own, with confidences."""

    architecture = "reconstructor"
    config: ReconstructorConfig

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.fusion = Fusion(
            config.encoder.dim, config.decoder_dim, config.decoder_depth, config.decoder_heads, eps=config.decoder_eps
        )
        self.head = self._head()
        self.head_local = self._head()
        init_weights(self)

    def _head(self) -> Head:
        config = self.config
        dims = [config.encoder.dim if tap == 0 else config.decoder_dim for tap in config.taps]
        return Head(config.dpt(dims, 4), "dpt", activation="exp", floor=1.0)

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        view_ids: Tensor | Sequence[int] | None = None,
        *,
        attention_scale: AttentionScale | None = None,
        encoder_chunk: int | None = None,
        head_chunk: int | None = None,
    ) -> Maps:
        """Images (B, V, 3, H, W) in [0, 1] -> pointmap, pointmap_local (B, V, H, W, 3), confidence,
        confidence_local (B, V, H, W). A list of V tensors (B, 3, Hi, Wi) gives each map as a list of V.

        view_ids: rows of the view table (V,) or (B, V), sequential when None. Chunks bound the images that go
        through encoder and heads at a time; None: the config's without gradients, all with. Raises UserError
        for sides that are no multiple of the patch and for more than 1,000 views.
        """
        views, config = groups_of(images), self.config
        counts = [group.shape[1] for group in views]
        grids = [patch_grid(group.shape[-2], group.shape[-1], config.patch_size) for group in views]
        encoder_chunk = chunk_size("encoder_chunk", encoder_chunk, config.encoder_chunk)
        head_chunk = chunk_size("head_chunk", head_chunk, config.head_chunk)
        rows = view_rows(view_ids, len(views[0]), sum(counts))

        tokens = [encoded(self.encoder, group, encoder_chunk).flatten(1, 2) for group in views]
        per_view = [h * w for (h, w), count in zip(grids, counts, strict=True) for _ in range(count)]
        view_of_token = send(rows.repeat_interleave(torch.tensor(per_view), dim=1), views[0].device)
        extended = self.is_extended(attention_scale)
        fused = self.fusion(torch.cat(tokens, 1), view_of_token, config.taps, extended=extended)

        ends = [group.shape[1] for group in tokens]
        groups = [
            [level.unflatten(1, (count, -1)) for level in levels]
            for levels, count in zip(zip(*(level.split(ends, dim=1) for level in fused)), counts, strict=True)
        ]
        maps: dict[str, list[Tensor]] = {}
        for head, suffix in ((self.head, ""), (self.head_local, "_local")):
            sides = [decoded(head, g, grid, head_chunk) for g, grid in zip(groups, grids, strict=True)]
            maps[f"pointmap{suffix}"], maps[f"confidence{suffix}"] = map(list, zip(*sides, strict=True))
        return answer_of(maps, images)

    def is_extended(self, asked: AttentionScale | None = None) -> bool:
        """Whether attention is lengthened now, as asked or as configured."""
        scale = self.config.attention_scale if asked in (None, "auto") else asked
        if scale not in ("auto", "plain", "extended"):
            raise ValueError(f"attention_scale is {scale!r}; it must be auto, plain or extended")
        return scale == "extended" or (scale == "auto" and self.config.extended_in_eval and not self.training)
