"""DUNE: one encoder and, per teacher, a projector into that teacher's feature space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.block import Block
from manyview.layers.init import init_weights
from manyview.models.vit import IMAGENET_MEAN, IMAGENET_STD, Encoder
from manyview.registry import did_you_mean
from manyview.types import Features

# Token types of each teacher that have statistics; only DINOv2's class token takes part in the distillation.
TOKEN_TYPES = {"dinov2": ("cls", "patch"), "mast3r": ("patch",), "multihmr": ("patch",)}


@dataclass(frozen=True, kw_only=True)
class DuneConfig:
    """Everything that decides the shapes and the arithmetic of a DUNE model."""

    dim: int = 768
    """Encoder width."""
    depth: int = 12
    """Encoder blocks."""
    heads: int = 12
    """Attention heads of the encoder and of the projectors."""
    patch_size: int = 14
    """Side of a patch in pixels."""
    registers: int = 4
    """Register tokens."""
    positions: int = 32
    """Side of the learned square position table, in patches."""
    layer_scale: float | None = 1e-4
    """Initial LayerScale gain; null for no LayerScale."""
    eps: float = 1e-6
    """LayerNorm epsilon."""
    teachers: tuple[str, ...] = ("dinov2", "mast3r", "multihmr")
    """Teachers that have a projector."""
    teacher_dim: int = 1024
    """Width of the teachers' features."""
    image_size: int = 448
    """Side in pixels that the model was made for."""
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean per channel that [0, 1] images are normalised with."""
    image_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation per channel, likewise."""


def dune(size: str, resolution: int) -> DuneConfig:
    """The published layouts: size "s" or "b", resolution 336 or 448."""
    config = DuneConfig(image_size=resolution, positions=resolution // 14)
    return config if size == "b" else replace(config, dim=384, heads=6)


def debug(config: DuneConfig) -> DuneConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(config, dim=8, depth=2, heads=2, positions=4, teacher_dim=16, image_size=56)


class Projector(nn.Module):
    """One transformer block over [class token; patches], then a linear map into the teacher's space."""

    def __init__(self, config: DuneConfig) -> None:
        super().__init__()
        self.block = Block(config.dim, config.heads, eps=config.eps, layer_scale=config.layer_scale)
        self.linear = nn.Linear(config.dim, config.teacher_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 1 + h*w, D) -> (N, 1 + h*w, teacher's D)."""
        return self.linear(self.block(tokens))


class Statistics(nn.Module):
    """Mean and standard deviation per channel of one teacher's tokens, stored with the published weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def init_parameters(self) -> None:
        nn.init.zeros_(self.mean)
        nn.init.ones_(self.std)


class Dune(nn.Module):
    """Encoder plus projectors."""

    def __init__(self, config: DuneConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            config.dim,
            config.depth,
            config.heads,
            patch_size=config.patch_size,
            registers=config.registers,
            positions=config.positions,
            layer_scale=config.layer_scale,
            eps=config.eps,
        ).normalise_with(config.image_mean, config.image_std)
        self.projectors = nn.ModuleDict({name: Projector(config) for name in config.teachers})
        self.statistics = nn.ModuleDict(
            {
                name: nn.ModuleDict({kind: Statistics(config.teacher_dim) for kind in TOKEN_TYPES[name]})
                for name in config.teachers
            }
        )
        init_weights(self)

    @property
    def encode(self) -> Callable[..., Any]:
        """The encoder's own: `encode(images, mask=None, norm=True, layers=None)`."""
        return self.encoder.encode

    def forward(self, images: Tensor) -> Features:
        """(N, 3, H, W) in [0, 1] -> the encoder's Features."""
        return self.encoder.encode(images)

    def project(self, features: Features, teacher: str) -> Features:
        """Features of encode(norm=False) -> Features in a teacher's (standardised) space.

        Raises UserError for a teacher without a projector, or features without a class token.
        """
        if teacher not in self.projectors:
            raise UserError(
                f"this model has no projector {teacher!r}; {did_you_mean(teacher, self.projectors)}"
            )
        if features.cls is None:
            raise UserError("the features have no class token; take them from encode(images, norm=False)")
        tokens = self.projectors[teacher](torch.cat([features.cls[:, None], features.patches], 1))
        return Features(tokens[:, 1:], tokens[:, 0], None, features.grid)


def mast3r_input(images: Tensor) -> Tensor:
    """What DUNE's MASt3R teacher (patch 16) sees of the student's [0, 1] images (patch 14), on the same token
    grid.

    (N, 3, H, W) -> (N, 3, 16/14 H, 16/14 W), bicubic with aligned corners, neither antialiased nor clamped,
    with mean and std 0.5. The other teachers see the student's images.
    """
    size = [side * 16 // 14 for side in images.shape[-2:]]
    return (F.interpolate(images, size=size, mode="bicubic", align_corners=True) - 0.5) / 0.5
