"""Pair reconstructors: DUSt3R, MASt3R, MASt3R on DUNE, SAB3R. Two views in, both as points in the first's frame.

One encoder, a decoder of two branches that look at each other at every block, named heads per branch.
Legend: B pairs, n = h*w patches of a view, D channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.init import init_weights
from manyview.models.croco import network as croco
from manyview.models.croco.network import CrossDecoder, CrossDecoderConfig
from manyview.models.heads import Head, PatchMap, WithHeads
from manyview.models.model import AroundEncoder, Maps, Model, ReconstructsPairs
from manyview.models.vit import HALF, Encoder, croco_vit
from manyview.registry import did_you_mean
from manyview.types import Features


@dataclass(frozen=True, kw_only=True)
class PairConfig(CrossDecoderConfig, WithHeads):
    """An encoder's and a cross decoder's configuration, and that of the heads."""

    own_norm: bool = False
    """The decoder reads the encoder's tokens without its final LayerNorm, through one of its own (MASt3R on DUNE)."""
    taps: tuple[int, int, int, int] = (0, 6, 9, 12)
    """What the heads read: 0 is the encoder's tokens, i the output of decoder block i, the last one normed."""
    head: Literal["dpt", "linear"] = "dpt"
    """Pointmap heads: DPT, or one linear map per patch."""
    descriptor_dim: int = 0
    """Channels of the descriptors for matching; 0 for none."""
    descriptor_hidden: float = 4.0
    """Width of the descriptors' MLP, in widths of what it reads."""
    descriptor_floor: float = 0.0
    """Least descriptor confidence: 0 in MASt3R's release, 1 in SAB3R's and wherever a file says nothing."""
    metric: bool = False
    """Whether the points are in metres, as MASt3R's release was trained to say them."""
    feature_heads: tuple[tuple[str, int], ...] = ()
    """Name and channels of each head that predicts another network's features at every pixel."""


def dust3r(head: Literal["dpt", "linear"] = "dpt", *, size: int = 512) -> PairConfig:
    """The three published DUSt3R layouts."""
    encoder = croco_vit(image_size=size, image_mean=HALF, image_std=HALF)
    return PairConfig(encoder=encoder, head=head)


def mast3r() -> PairConfig:
    """The published metric MASt3R: descriptors whose confidence may go to zero."""
    return replace(dust3r(), descriptor_dim=24, metric=True)


def sab3r(*features: tuple[str, int]) -> PairConfig:
    """SAB3R: MASt3R and one DPT per feature and side, 512 channels for CLIP, 384 for DINO.

    There is no reference output for it; the choices are read off its released code: whole DPTs with the points'
    exponential and no unit length; no mode given for the descriptors' confidence, which then is 1 + exp.
    """
    return replace(mast3r(), descriptor_floor=1.0, metric=False, feature_heads=features)


def debug(config: PairConfig) -> PairConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(
        croco.debug(config),
        taps=(0, 1, 1, 2),
        head_layer_dims=(2, 2, 4, 4),
        head_dim=2,
        head_last_dim=2,
        descriptor_dim=min(config.descriptor_dim, 2),
        descriptor_hidden=0.25,
        feature_heads=tuple((name, 3) for name, _ in config.feature_heads),
    )


class PairReconstructor(Model, AroundEncoder, ReconstructsPairs):
    """Two views to pointmaps in the first one's camera frame, confidences, and what else there are heads for.

    `model(images)` does everything; `encode_views` once per picture and `decode` once per ordered pair give the
    same and save encodings when pictures meet in several pairs or in both orders.
    """

    architecture = "pair"
    config: PairConfig

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.norm = nn.LayerNorm(config.encoder.dim) if config.own_norm else None  # this one has epsilon 1e-5
        self.decoder = CrossDecoder(config, branches=2)
        self.heads = nn.ModuleList(_heads(config) for _ in range(2))
        init_weights(self)

    @property
    def metric(self) -> bool:
        return self.config.metric

    def forward(
        self, images: Tensor | Sequence[Tensor], view_ids: None = None, *, heads: Collection[str] | None = None
    ) -> Maps:
        """Images (B, 2, 3, H, W) in [0, 1], or a list of two (B, 3, Hi, Wi) -> predictions.

        pointmap (B, 2, H, W, 3) in the first view's frame and confidence (B, 2, H, W); with their heads
        descriptors, descriptor_confidence and features {name: (B, 2, H, W, C)} at stride 1. A list gives each map
        as a list of two. `heads`: names of those to run, all when None. View ids mean nothing here. Raises
        UserError unless there are two views, or when a side is no multiple of the patch.
        """
        if view_ids is not None:
            raise UserError("a pair model tells its two views apart by their order; leave view_ids away")
        return self.decode(*self.encode_views(images), heads=heads, stacked=isinstance(images, Tensor))

    def encode_views(self, images: Tensor | Sequence[Tensor]) -> tuple[Features, Features]:
        """Both views' tokens as the decoder reads them, each Features with patches (B, n, D).

        Takes what forward takes, and raises what it raises.
        """
        views = list(images.unbind(1)) if isinstance(images, Tensor) and images.ndim == 5 else list(images)
        if len(views) != 2 or any(view.ndim != 4 or len(view) != len(views[0]) for view in views):
            raise UserError(
                f"this model takes pairs, images (B, 2, 3, H, W) or a list of two (B, 3, H, W), and got "
                f"{[tuple(view.shape) for view in views[:3]]}, {len(views)} in all; give it two views at a time, "
                "or use a model for many views such as fast3r-vitl16"
            )
        if views[0].shape == views[1].shape:
            both = self._read(torch.cat(views))
            first, second = both.patches.chunk(2)
            return (Features(first, None, None, both.grid), Features(second, None, None, both.grid))
        return self._read(views[0]), self._read(views[1])

    def _read(self, images: Tensor) -> Features:
        """Pictures (N, 3, H, W) in [0, 1] -> Features with patches (N, h*w, D), ready for decode."""
        if self.norm is None:
            return self.encoder.encode(images)
        raw = self.encoder.encode(images, norm=False)
        return Features(self.norm(raw.patches), None, None, raw.grid)

    def decode(
        self, first: Features, second: Features, *, heads: Collection[str] | None = None, stacked: bool | None = None
    ) -> Maps:
        """Encoded first and second views, B of each -> the predictions of forward.

        stacked: maps as tensors (B, 2, …) or as lists of two; None: tensors when the views are of one size.
        """
        wanted = self._wanted(heads)
        tokens = self._fuse(first, second)
        sides = [
            self._side(branch, levels, view.grid, wanted)
            for branch, levels, view in zip(self.heads, tokens, (first, second), strict=True)
        ]
        stacked = first.grid == second.grid if stacked is None else stacked
        return _together(sides, stacked=stacked)

    def _fuse(self, first: Features, second: Features) -> list[list[Tensor]]:
        """The tokens at the taps, per view: both branches step at once, each looking at where the other was."""
        decoder, taps = self.decoder, self.config.taps
        kept: list[dict[int, Tensor]] = [{0: first.patches}, {0: second.patches}]
        one, two = decoder.embed(first.patches), decoder.embed(second.patches)
        rope, other_rope = decoder.rope(first.grid), decoder.rope(second.grid)
        blocks = zip(*(branch.children() for branch in decoder.branches), strict=True)
        for index, (block, other) in enumerate(blocks, start=1):
            one, two = block(one, two, rope, other_rope), other(two, one, other_rope, rope)
            if index in taps:
                kept[0][index], kept[1][index] = one, two
        for view, tokens in zip(kept, (one, two), strict=True):
            view[self.config.decoder_depth] = decoder.norm(tokens)
        return [[view[tap] for tap in taps] for view in kept]

    def _side(self, heads: nn.Module, levels: Sequence[Tensor], grid: tuple[int, int], wanted: Collection[str]) -> Maps:
        """One view's maps. Heads run without autocast, as published: their exponentials need the digits."""
        dtype = next(heads.parameters()).dtype
        maps: Maps = {}
        with torch.autocast(levels[0].device.type, enabled=False):
            levels = [level.to(dtype) for level in levels]
            for name in wanted:
                values, confidence = heads.get_submodule(name)(levels, grid)
                if name == "pointmap":
                    maps |= {"pointmap": values, "confidence": confidence}
                elif name == "descriptors":
                    maps |= {"descriptors": values, "descriptor_confidence": confidence}
                else:
                    maps.setdefault("features", {})[name] = values
        return maps

    def _wanted(self, heads: Collection[str] | None) -> list[str]:
        names = [name for name, _ in self.heads[0].named_children()]
        for name in heads or ():
            if name not in names:
                raise UserError(f"this model has no head {name!r}; {did_you_mean(name, names)}")
        return [name for name in names if heads is None or name in heads]


def _heads(config: PairConfig) -> nn.ModuleDict:
    """The heads of one view."""
    inner, patch = config.encoder.dim, config.patch_size
    dims = [inner if tap == 0 else config.decoder_dim for tap in config.taps]
    if config.head == "linear":
        points = Head(PatchMap(dims, patch=patch, channels=4), "linear", activation="exp", floor=1.0)
    else:
        points = Head(config.dpt(dims, 4), "dpt", activation="exp", floor=1.0)
    heads = {"pointmap": points}
    if config.descriptor_dim:
        hidden = int(config.descriptor_hidden * (inner + config.decoder_dim))
        channels = config.descriptor_dim + 1
        body = PatchMap(dims, patch=patch, channels=channels, hidden=hidden, first_too=True)
        heads["descriptors"] = Head(body, activation="unit", floor=config.descriptor_floor)
    for name, channels in config.feature_heads:
        heads[name] = Head(config.dpt(dims, channels), activation="exp")
    return nn.ModuleDict(heads)


def _together(sides: Sequence[Maps], *, stacked: bool) -> Maps:
    """Two views' maps as one dictionary."""
    out: Maps = {}
    for key, value in sides[0].items():
        pair = [side[key] for side in sides]
        if isinstance(value, dict):
            out[key] = _together(pair, stacked=stacked)
        else:
            out[key] = torch.stack(pair, dim=1) if stacked else pair
    return out
