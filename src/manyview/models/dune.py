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
from manyview.models import vit
from manyview.models.vit import Encoder, EncoderConfig
from manyview.registry import did_you_mean
from manyview.types import Features

# Token types of each teacher that have statistics; only DINOv2's class token takes part in the distillation.
TOKEN_TYPES = {"dinov2": ("cls", "patch"), "mast3r": ("patch",), "multihmr": ("patch",)}


@dataclass(frozen=True, kw_only=True)
class DuneConfig(EncoderConfig):
    """An encoder's configuration, and that of the projectors, which share its width, heads and epsilon."""

    teachers: tuple[str, ...] = ("dinov2", "mast3r", "multihmr")
    """Teachers that have a projector."""
    teacher_dim: int = 1024
    """Width of the teachers' features."""


def dune(size: str, resolution: int) -> DuneConfig:
    """The published layouts: size "s" or "b", resolution 336 or 448."""
    return DuneConfig(
        dim={"s": 384, "b": 768}[size],
        heads={"s": 6, "b": 12}[size],
        registers=4,
        positions=resolution // 14,
        layer_scale=1e-4,
        image_size=resolution,
    )


def debug(config: DuneConfig) -> DuneConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(vit.debug(config), teacher_dim=16)


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
        self.encoder = Encoder(config)
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
