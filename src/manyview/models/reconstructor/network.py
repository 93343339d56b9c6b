"""The multi-view reconstructor of Fast3R and Distill3R: encoder, fusion transformer, a global and a local head.

Legend: B scenes, V views, H x W pixels, n = h*w patches of a view, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.geometry import poses
from manyview.layers.attention import Arithmetic, Attention
from manyview.layers.init import init_weights
from manyview.layers.masking import send
from manyview.layers.patches import image_grid
from manyview.models import vit
from manyview.models.fusion import Fusion, TurnsFusion, view_rows
from manyview.models.heads import FeatureMap, Head, PatchMap, WithHeads
from manyview.models.many import answer_of, chunk_size, decoded, encoded, featured, groups_of, heads_at_once
from manyview.models.model import AroundEncoder, Maps, Model, ReconstructsViews
from manyview.models.vggt.heads import CameraHead, decode_pose
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
    fusion: Literal["joint", "turns"] = "joint"
    """How views are fused: joint attention with a view table, as published; or blocks within each view and among all
    in turn, with rotary positions and a camera token for the first view and one for the others."""
    rotary_everywhere: bool = True
    """Whether positions also turn the blocks among all views, of fusion in turns; else these go by likeness alone."""
    fusion_registers: int = 0
    """Further tokens beside the camera token of each view, of fusion in turns."""
    view_scale: float = 1.0
    """Factor of the view table's rows, of joint fusion."""
    head: Literal["dpt", "patch"] = "dpt"
    """What turns tokens into pixels: a DPT, or an MLP patch by patch, which costs a hundredth."""
    feature_heads: tuple[tuple[str, int], ...] = ()
    """Space and channels of each head that says another network's features: minilm and 384, clip and 512 …"""
    feature_hidden: int = 768
    """Width of a feature head's MLP."""
    feature_inner: int = 64
    """Channels of a feature head's pixels before they are spread over its space."""
    feature_finer: int = 4
    """How much finer than the patches features are said."""
    camera_depth: int = 0
    """Blocks of the camera head, which reads the camera tokens of fusion in turns; 0: no camera head."""
    xavier: bool = False
    """Fresh linear layers keep the variance of what they are given (Xavier), instead of a deviation of 0.02."""
    encoder_chunk: int = 64
    """Images that go through the encoder together when no gradient is needed; bounds memory, not the result."""
    head_chunk: int = 16
    """Most views that go through a head together when no gradient is needed; likewise. A CPU takes two at a time, a GPU
    short of memory four.
    """
    fusion_attention: Arithmetic = "half_on_gpu"
    """Fusion attention of float32 tokens: half_on_gpu is bfloat16 on a GPU, as released; half: also on a CPU that has
    it; full: float32 everywhere."""


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
        feature_hidden=4,
        feature_inner=2,
        feature_finer=2,
    )


def small_words() -> ReconstructorConfig:
    """The small one with features in the space of the offline text encoder: points that answer to words."""
    return replace(small(), feature_heads=(("minilm", 384),))


def cameras_of(encoding: Tensor, sizes: Sequence[tuple[int, int]]) -> Maps:
    """Pose encodings (B, V, 9) and the views' (H, W) -> pose_encoding, cam2world, intrinsics, the first view's pose
    taken out of all, so that it is the identity.
    """
    decoded_cameras = [decode_pose(encoding[:, view], size) for view, size in enumerate(sizes)]
    cam2world, intrinsics = (torch.stack(kind, 1) for kind in zip(*decoded_cameras, strict=True))
    return {
        "pose_encoding": encoding.float(),
        "cam2world": poses.invert(cam2world[:, :1]) @ cam2world,
        "intrinsics": intrinsics,
    }


class Reconstructor(Model, AroundEncoder, ReconstructsViews):
    """Views of a scene to pointmaps in the first view's camera frame and in each view's own, with confidences."""

    architecture = "reconstructor"
    config: ReconstructorConfig

    def __init__(self, config: ReconstructorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.fusion: Fusion | TurnsFusion = self._fusion()
        self.head = self._head()
        self.head_local = self._head()
        self.camera = self._camera()
        self.feature_heads = nn.ModuleDict({name: self._feature_head(size) for name, size in config.feature_heads})
        init_weights(self, xavier=config.xavier)
        for module in self.fusion.modules():
            if isinstance(module, Attention):
                module.arithmetic = config.fusion_attention

    def _fusion(self) -> Fusion | TurnsFusion:
        config = self.config
        sizes = (config.encoder.dim, config.decoder_dim, config.decoder_depth, config.decoder_heads)
        if config.fusion == "joint":
            return Fusion(*sizes, eps=config.decoder_eps, view_scale=config.view_scale)
        if config.decoder_depth % 2:
            raise UserError(f"decoder_depth is {config.decoder_depth}; fusion in turns takes an even number of blocks")
        registers, rotary = config.fusion_registers, config.rotary_everywhere
        return TurnsFusion(*sizes, eps=config.decoder_eps, registers=registers, rotary=rotary)

    def _tap_dims(self) -> list[int]:
        return [self.config.encoder.dim if tap == 0 else self.config.decoder_dim for tap in self.config.taps]

    def _feature_head(self, channels: int) -> FeatureMap:
        sizes = {name: getattr(self.config, f"feature_{name}") for name in ("hidden", "inner", "finer")}
        return FeatureMap(self._tap_dims(), channels=channels, **sizes)

    def _head(self) -> Head:
        config, dims = self.config, self._tap_dims()
        if config.head == "dpt":
            return Head(config.dpt(dims, 4), "dpt", activation="exp", floor=1.0)
        body = PatchMap(dims, patch=config.patch_size, channels=4, hidden=config.head_dim, first_too=True)
        return Head(body, "map", activation="exp", floor=1.0)

    def _camera(self) -> CameraHead | None:
        config, dim = self.config, self.config.decoder_dim
        if not config.camera_depth:
            return None
        if config.fusion != "turns":
            raise UserError("a camera head reads camera tokens, which fusion in turns has; set fusion=turns")
        sizes = {"depth": config.camera_depth, "heads": config.decoder_heads, "rounds": 1}
        return CameraHead(dim, **sizes, eps=config.decoder_eps, layer_scale=None)

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        view_ids: Tensor | Sequence[int] | None = None,
        *,
        attention_scale: AttentionScale | None = None,
        encoder_chunk: int | None = None,
        head_chunk: int | None = None,
        with_features: bool = False,
        points: bool = True,
    ) -> Maps:
        """Images (B, V, 3, H, W) in [0, 1] -> pointmap, pointmap_local (B, V, H, W, 3), confidence,
        confidence_local (B, V, H, W). A list of V tensors (B, 3, Hi, Wi) gives each map as a list of V.

        view_ids: rows of the view table (V,) or (B, V), sequential when None. Chunks bound the images that go
        through encoder and heads at a time; None: the config's without gradients, all with. `features`: what the
        feature heads say, by space (B, V, finer h, finer w, D), and, asked by with_features, the encoder's tokens as
        "encoder" (B, V, h, w, D). points=False leaves the maps of points away. Raises UserError for sides that are no
        multiple of the patch and for more than 1,000 views.
        """
        views, config = groups_of(images), self.config
        counts = [group.shape[1] for group in views]
        grids = [image_grid(group, config.patch_size, dims=5) for group in views]
        encoder_chunk = chunk_size("encoder_chunk", encoder_chunk, config.encoder_chunk)
        head_chunk = chunk_size("head_chunk", head_chunk, heads_at_once(config.head_chunk, views[0].device))
        rows = view_rows(view_ids, len(views[0]), sum(counts))

        tokens = [encoded(self.encoder, group, encoder_chunk) for group in views]
        cameras: Tensor | None = None
        looks: list[tuple[Tensor, Tensor]] = []
        if isinstance(self.fusion, TurnsFusion):
            asked = [1, 3][: config.decoder_depth // 2] if with_features and len(views) == 1 else []
            levels, cameras = self.fusion(tokens, grids, [*config.taps, *asked])
            groups = [level[: len(config.taps)] for level in levels]
            looks = self.fusion.looks(levels[0][len(config.taps) :], grids[0]) if asked else []
        else:
            groups = self._joint(tokens, rows, extended=self.is_extended(attention_scale))
        maps: dict[str, list[Tensor]] = {}
        for head, suffix in ((self.head, ""), (self.head_local, "_local")) if points else ():
            sides = [decoded(head, g, grid, head_chunk) for g, grid in zip(groups, grids, strict=True)]
            maps[f"pointmap{suffix}"], maps[f"confidence{suffix}"] = map(list, zip(*sides, strict=True))
        features = {
            name: [featured(cast(FeatureMap, head), g, grid, head_chunk) for g, grid in zip(groups, grids, strict=True)]
            for name, head in self.feature_heads.items()
        }
        if with_features:
            features["encoder"] = [group.unflatten(2, grid) for group, grid in zip(tokens, grids, strict=True)]
        answer = answer_of(maps, images)
        if features:
            answer["features"] = answer_of(features, images)
        if with_features:
            for number, (queries, keys) in enumerate(looks):
                answer["features"] |= {f"queries{number}": queries, f"keys{number}": keys}
        if self.camera is not None:
            assert cameras is not None
            sizes = [(group.shape[-2], group.shape[-1]) for group in views for _ in range(group.shape[1])]
            answer |= cameras_of(self.camera(cameras)[-1], sizes)
        return answer

    def _joint(self, tokens: Sequence[Tensor], rows: Tensor, *, extended: bool) -> list[list[Tensor]]:
        """Groups of tokens (B, v, n, D) and the views' rows (B, V) -> for each group what the heads read."""
        assert isinstance(self.fusion, Fusion)
        counts, ends = ([group.shape[1] for group in tokens], [group.shape[1] * group.shape[2] for group in tokens])
        per_view = torch.tensor([group.shape[2] for group in tokens for _ in range(group.shape[1])])
        view_of_token = send(rows.repeat_interleave(per_view, dim=1), tokens[0].device)
        joined = torch.cat([group.flatten(1, 2) for group in tokens], 1)
        fused = self.fusion(joined, view_of_token, self.config.taps, extended=extended)
        return [
            [level.unflatten(1, (count, -1)) for level in levels]
            for levels, count in zip(zip(*(level.split(ends, dim=1) for level in fused)), counts, strict=True)
        ]

    def is_extended(self, asked: AttentionScale | None = None) -> bool:
        """Whether attention is lengthened now, as asked or as configured."""
        scale = self.config.attention_scale if asked in (None, "auto") else asked
        if scale not in ("auto", "plain", "extended"):
            raise ValueError(f"attention_scale is {scale!r}; it must be auto, plain or extended")
        return scale == "extended" or (scale == "auto" and self.config.extended_in_eval and not self.training)
