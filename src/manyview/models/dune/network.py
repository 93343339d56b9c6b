"""DUNE: one encoder and, per teacher, a projector into that teacher's feature space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.init import init_weights
from manyview.layers.standardise import Standardise
from manyview.models import vit
from manyview.models.dune.projectors import LadderProjector, ProjectorKind, TransformerProjector
from manyview.models.model import Model, ProjectsFeatures
from manyview.models.vit import Encoder, WithEncoder
from manyview.registry import did_you_mean
from manyview.types import Features


@dataclass(frozen=True, kw_only=True)
class DuneConfig(WithEncoder):
    """An encoder's configuration, and that of the projectors, which share its heads, epsilon and LayerScale."""

    teachers: tuple[str, ...] = ("dinov2", "mast3r", "multihmr")
    """Teachers that have a projector."""
    teacher_dim: int = 1024
    """Width of the teachers' features."""
    teacher_dims: tuple[int, ...] = ()
    """Width of each teacher's features where they differ; empty: all `teacher_dim`."""
    cls_teachers: tuple[str, ...] = ("dinov2",)
    """Teachers whose class token is distilled beside their patches."""
    projector: ProjectorKind = "transformer"
    """One block and a linear map (TP), a ladder of MLPs on every block (LP), or its last rung only (SP)."""


def dune(size: str, resolution: int) -> DuneConfig:
    """The published layouts: size "s" or "b", resolution 336 or 448."""
    encoder = vit.vit(size, registers=4, positions=resolution // 14, layer_scale=1e-4, image_size=resolution)
    return DuneConfig(encoder=encoder)


def debug(config: DuneConfig) -> DuneConfig:
    """The same layout with a few thousand parameters, for tests."""
    return replace(config, encoder=vit.debug(config.encoder), teacher_dim=16)


class Dune(Model, ProjectsFeatures):
    """Encoder plus projectors."""

    architecture = "dune"
    config: DuneConfig

    def __init__(self, config: DuneConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        dims = config.teacher_dims or (config.teacher_dim,) * len(config.teachers)
        widths = dict(zip(config.teachers, dims, strict=True))
        self.projectors = nn.ModuleDict({name: self._projector(width) for name, width in widths.items()})
        self.statistics = nn.ModuleDict(
            {
                name: nn.ModuleDict({kind: Standardise(width) for kind in self.token_kinds(name)})
                for name, width in widths.items()
            }
        )
        init_weights(self)

    def _projector(self, width: int) -> nn.Module:
        inner = self.config.encoder
        if self.config.projector == "transformer":
            return TransformerProjector(inner.dim, width, inner.heads, eps=inner.eps, layer_scale=inner.layer_scale)
        return LadderProjector(inner.dim, width, len(self.projected_layers))

    @property
    def teachers(self) -> tuple[str, ...]:
        return self.config.teachers

    @property
    def projected_layers(self) -> list[int]:
        depth = self.config.encoder.depth
        return list(range(depth)) if self.config.projector == "ladder" else [depth - 1]

    def token_kinds(self, teacher: str) -> tuple[str, ...]:
        """Token types of a teacher that take part in the distillation and have statistics."""
        return ("cls", "patch") if teacher in self.config.cls_teachers else ("patch",)

    def forward(self, images: Tensor) -> Features:
        """(N, 3, H, W) in [0, 1] -> the encoder's Features."""
        return self.encoder.encode(images)

    def project(self, features: Features | Sequence[Features], teacher: str) -> Features:
        """Features of encode(norm=False) -> Features in a teacher's (standardised) space.

        A ladder needs those of every block: encode(images, norm=False, layers=model.projected_layers).
        Raises UserError for a teacher without a projector, or features it cannot use.
        """
        if teacher not in self.projectors:
            raise UserError(f"this model has no projector {teacher!r}; {did_you_mean(teacher, self.projectors)}")
        blocks = [features] if isinstance(features, Features) else list(features)
        if len(blocks) != len(self.projected_layers):
            raise UserError(
                f"this projector reads {len(self.projected_layers)} blocks, got {len(blocks)}; take them from "
                "encode(images, norm=False, layers=model.projected_layers)"
            )
        tokens = []
        for block in blocks:
            if block.cls is None:
                raise UserError("the features have no class token; take them from encode(images, norm=False)")
            tokens.append(torch.cat([block.cls[:, None], block.patches], 1))
        projected = self.projectors[teacher](tokens)
        return Features(projected[:, 1:], projected[:, 0], None, blocks[0].grid)

    def standardise(self, features: Features, teacher: str, momentum: float = 0.0) -> Features:
        """A teacher's raw Features as the projectors are to say them; `momentum` as in Standardise."""
        norms: Any = self.statistics[teacher]
        cls = features.cls
        if "cls" in norms and cls is None:
            raise UserError(f"teacher {teacher!r} gives no class token, but cls_teachers names it; take it out")
        return Features(
            norms["patch"](features.patches, momentum),
            norms["cls"](cls, momentum) if "cls" in norms else None,
            None,
            features.grid,
        )


def on_patches_of(images: Tensor, student_patch: int, teacher_patch: int) -> Tensor:
    """The student's images (N, 3, H, W) at the size where a teacher's patches fall on the student's.

    Bicubic with aligned corners, neither antialiased nor clamped; the same images when the patches are alike.
    """
    if student_patch == teacher_patch:
        return images
    size = [side // student_patch * teacher_patch for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bicubic", align_corners=True)


def mast3r_input(images: Tensor) -> Tensor:
    """What the network of DUNE's MASt3R teacher (patch 16) sees of the student's [0, 1] images (patch 14).

    (N, 3, H, W) -> (N, 3, 16/14 H, 16/14 W) with mean and std 0.5. The other teachers see the student's images.
    """
    return (on_patches_of(images, 14, 16) - 0.5) / 0.5
