"""VGGT: views of a scene to cameras, depth and points in one pass, by alternating attention.

DINOv2's patches, a camera token and registers per view (those of the first view are its own, which makes it
the frame of everything), attention within each view and among all in turn, then a head for the cameras and one
each for depth and for points. The track head of the published network is not built.
Legend: B scenes, V views, H x W pixels, n = h*w patches of a view, P camera token and registers, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.geometry.pointmaps import unproject
from manyview.layers.init import init_weights
from manyview.layers.patches import image_grid
from manyview.layers.rope import Rope, RotaryPositions
from manyview.models.alternating import Alternating
from manyview.models.heads import Activation, Head, WithHeads
from manyview.models.many import answer_of, chunk_size, decoded, encoded, groups_of, heads_at_once
from manyview.models.model import AroundEncoder, Maps, Model, ReconstructsViews
from manyview.models.vggt.heads import CameraHead, decode_pose
from manyview.models.vit import Encoder, EncoderConfig, vit
from manyview.models.vit import debug as debug_encoder

# Channels and activation of the heads of depth and points.
SAYS: tuple[tuple[int, Activation], ...] = ((2, "depth"), (4, "signed"))
VIT_L = vit("l", registers=4, antialias=True)


@dataclass(frozen=True, kw_only=True)
class VggtConfig(WithHeads):
    """Sizes of the alternating attention, under names that the encoder has too, and of the heads. Defaults: VGGT-1B,
    1,190,596,120 parameters without its track head.
    """

    encoder: EncoderConfig = VIT_L
    """The encoder that patches come from; its position table is always fitted antialiased."""

    dim: int = 1024
    """Width of the alternating attention, and of the encoder, whose tokens it takes as they are."""
    depth: int = 24
    """Pairs of blocks: one within views, one among them."""
    heads: int = 16
    """Attention heads of those blocks, and of the camera head's, which are twice as wide."""
    registers: int = 4
    """Register tokens per view of the alternating attention."""
    embed: bool = False
    """Patches go through a linear map to `dim`, so that an encoder of any width may be taken (MuM, section 4.1)."""
    decoder_eps: float = 1e-5
    """LayerNorm epsilon everywhere but in the encoder."""
    decoder_layer_scale: float = 0.01
    """Initial LayerScale gain everywhere but in the encoder."""
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    """The pairs of blocks whose outputs the dense heads read, counted from 0."""
    camera_depth: int = 4
    """Blocks of the camera head."""
    camera_rounds: int = 4
    """How often the camera head refines its answer."""
    head_layer_dims: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four pyramid levels of a dense head."""
    head_last_dim: int = 32
    """Channels of a dense head's last convolutions."""
    head_spare_unit: bool = False
    """These heads have no unit to spare."""
    encoder_chunk: int = 64
    """Images that go through the encoder together when no gradient is needed; bounds memory only."""
    head_chunk: int = 8
    """Views that go through a dense head together when no gradient is needed; likewise."""


def debug(config: VggtConfig) -> VggtConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(
        config,
        encoder=debug_encoder(replace(config.encoder, registers=min(config.encoder.registers, 2))),
        dim=8,
        depth=2,
        heads=2,
        registers=min(config.registers, 2),
        taps=(0, 0, 1, 1),
        camera_depth=1,
        camera_rounds=2,
        head_layer_dims=(4, 4, 8, 8),
        head_dim=8,
        head_last_dim=4,
    )


class Vggt(Model, AroundEncoder, ReconstructsViews):
    """Views of a scene to pointmaps and cameras in the first view's frame, depths, and confidences."""

    architecture = "vggt"
    config: VggtConfig

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps, gain = config.dim, config.decoder_eps, config.decoder_layer_scale
        if config.encoder.dim != dim and not config.embed:
            raise UserError(
                f"the encoder (patch_embed) is {config.encoder.dim} wide and dim is {dim}; they must be the same"
            )
        self.encoder = Encoder(config.encoder)
        self.embed = nn.Linear(config.encoder.dim, dim) if config.embed else None
        # One set for the first view, one for all the others.
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.registers, dim))
        self.rope = RotaryPositions("grid", dim // config.heads)
        self.aggregator = Alternating(dim, config.depth, config.heads, eps=eps, layer_scale=gain, qk_norm=True)
        self.camera = CameraHead(
            2 * dim,
            depth=config.camera_depth,
            heads=config.heads,
            rounds=config.camera_rounds,
            eps=eps,
            layer_scale=gain,
        )
        self.depth, self.points = (
            Head(
                config.dpt([2 * dim] * 4, channels, convention="vggt"),
                "dpt",
                activation=activation,
                floor=1.0,
                norm=nn.LayerNorm(2 * dim, eps=eps),
            )
            for channels, activation in SAYS
        )
        init_weights(self)

    def init_parameters(self) -> None:
        for token in (self.camera_token, self.register_token):
            nn.init.normal_(token, std=1e-6)

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        view_ids: None = None,
        *,
        encoder_chunk: int | None = None,
        head_chunk: int | None = None,
    ) -> Maps:
        """Images (B, V, 3, H, W) in [0, 1] -> the maps pointmap and confidence, depth and depth_confidence,
        pointmap_local with confidence_local (the depth along the rays of its own camera), and the cameras:
        pose_encoding (B, V, 9), cam2world (B, V, 4, 4), intrinsics (B, V, 3, 3).

        A list of V tensors (B, 3, Hi, Wi) gives each map as a list of V. The world is the first view's camera
        frame, as well as the network has learned that: the first cam2world is near the identity, not made it.
        Chunks bound the images that go through encoder and dense heads at a time; None: the config's without
        gradients, all with.
        View ids mean nothing here. Raises UserError for sides that are no multiple of the patch.
        """
        if view_ids is not None:
            raise UserError("this model knows the first view from the others and no more; leave view_ids away")
        views = groups_of(images)
        grids = [image_grid(group, self.config.patch_size, dims=5) for group in views]
        encoder_chunk = chunk_size("encoder_chunk", encoder_chunk, self.config.encoder_chunk)
        head_chunk = chunk_size("head_chunk", head_chunk, heads_at_once(self.config.head_chunk, views[0].device))
        levels, last = self.aggregate(views, grids, chunk=encoder_chunk)
        encoding = self.camera(torch.cat([group[:, :, 0] for group in last], dim=1))[-1]

        maps: dict[str, list[Tensor]] = {}
        cameras = []
        encodings = encoding.split([group.shape[1] for group in views], dim=1)
        for group, grid, own, level in zip(views, grids, encodings, levels, strict=True):
            cam2world, intrinsics = decode_pose(own, (group.shape[-2], group.shape[-1]))
            cameras.append((cam2world, intrinsics))
            depth, depth_confidence = self._decode(self.depth, level, grid, head_chunk)
            pointmap, confidence = self._decode(self.points, level, grid, head_chunk)
            for name, value in {
                "pointmap": pointmap,
                "confidence": confidence,
                "depth": depth,
                "depth_confidence": depth_confidence,
                "pointmap_local": unproject(depth, intrinsics),
                "confidence_local": depth_confidence,
            }.items():
                maps.setdefault(name, []).append(value)
        cam2world, intrinsics = (torch.cat(kind, dim=1) for kind in zip(*cameras, strict=True))
        whole = {"pose_encoding": encoding.float(), "cam2world": cam2world, "intrinsics": intrinsics}
        return {**answer_of(maps, images), **whole}

    def aggregate(
        self, views: Sequence[Tensor], grids: Sequence[tuple[int, int]], *, chunk: int | None = None
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Groups of views (B, v, 3, H, W) and their grids -> for each group the patches (B, v, n, 2D) at the
        taps, and the last pair's tokens (B, v, P + n, 2D). Channels: what a view says alone, then among others.
        """
        tokens = [self._tokens(group, chunk, first=index == 0) for index, group in enumerate(views)]
        # Camera token and registers stand where no rotation is, hence the patches' positions start at 1.
        prefix = 1 + self.config.registers
        ropes = [self.rope(grid, offset=1).prefixed(prefix) for grid in grids]
        rows = [rope.repeat(group.shape[1]) for rope, group in zip(ropes, views, strict=True)]
        everywhere = Rope(torch.cat([r.cos for r in rows]), torch.cat([r.sin for r in rows]), rows[0].groups)
        taps = (*self.config.taps, self.config.depth - 1)
        _, kept = self.aggregator.mixed(tokens, ropes, everywhere, taps=taps)
        joined = [[torch.cat(pair, dim=-1) for pair in pairs] for pairs in kept]  # by tap, by group
        levels = [[level[:, :, prefix:] for level in group] for group in zip(*joined[:-1], strict=True)]
        return levels, joined[-1]

    def _tokens(self, images: Tensor, chunk: int | None, *, first: bool) -> Tensor:
        """(B, v, 3, H, W) -> (B, v, P + n, D); `first`: the first of them is the first view of the scene."""
        batch, count = images.shape[:2]
        patches = encoded(self.encoder, images, chunk)
        patches = patches if self.embed is None else self.embed(patches)
        kinds = [int(not (first and index == 0)) for index in range(count)]
        prefix = torch.cat([self.camera_token, self.register_token], dim=2)[:, kinds].to(patches.dtype)
        return torch.cat([prefix.expand(batch, -1, -1, -1), patches], dim=2)

    def _decode(
        self, head: Head, levels: Sequence[Tensor], grid: tuple[int, int], chunk: int | None
    ) -> tuple[Tensor, Tensor]:
        """Four (B, v, n, 2D) -> a map (B, v, H, W, ...), its confidence. Without autocast, as published."""
        with torch.autocast(levels[0].device.type, enabled=False):
            dtype = next(head.parameters()).dtype
            return decoded(head, [level.to(dtype) for level in levels], grid, chunk)
