"""Encoders as teachers: any model of the zoo, a model directory, or a timm model, on the student's patch grid."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.models.dune.network import on_patches_of
from manyview.models.model import EncodesImages, weights_digest
from manyview.teachers.base import licence_of
from manyview.types import Features, Signal, Teacher, Views
from manyview.zoo.models import load_as

TIMM = "timm:"


class FeatureTeacher(Teacher):
    """Signals "patches" (B, V, h*w, D) and, where the network has a class token, "cls" (B, V, D).

    source: a zoo name, a model directory, or timm:NAME. The images are resized so that the teacher's patches fall on
    the student's (bicubic, aligned corners: DUNE's release); a teacher that takes one size only gets that, and its
    patches are resampled, which `resampled` says. model: `source`, where it is loaded. Raises UserError when the
    weights are not here.
    """

    has_network = True

    def __init__(self, source: str, *, name: str = "", student_patch: int = 14, model: nn.Module | None = None) -> None:
        self.source, self.name, self.student_patch = source, name or source, student_patch
        try:
            timm = source.startswith(TIMM)
            self.network, self.licence = _timm(source) if timm else _zoo(source if model is None else model)
        except UserError as error:
            raise UserError(f"teacher {self.name}: {error}") from error
        self.network.requires_grad_(False)
        self.resampled = False
        self._digest = ""

    @property
    def dim(self) -> int:
        """Channels of its tokens."""
        return int(self.network.dim)

    @property
    def has_cls(self) -> bool:
        return bool(self.network.has_cls)

    def settings(self) -> dict[str, Any]:
        return {"network": self.network.made_of, "student_patch": self.student_patch}

    def weights_digest(self) -> str:
        self._digest = self._digest or weights_digest(self.network)
        return self._digest

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] at the student's size -> the size the teacher sees, still in [0, 1]."""
        fixed = self.network.fixed_size
        if fixed is not None and fixed != tuple(images.shape[-2:]):
            return F.interpolate(images, size=fixed, mode="bicubic", align_corners=True)
        return on_patches_of(images, self.student_patch, self.network.patch_size)

    @torch.inference_mode()
    def __call__(self, views: Views) -> dict[str, Signal]:
        images = views.images.flatten(0, 1)
        features = self.network.to(images.device)(self.prepare(images))
        grid = tuple(side // self.student_patch for side in images.shape[-2:])
        patches = features.patches
        if features.grid != grid:
            self.resampled = True
            maps = F.interpolate(features.as_map(), size=grid, mode="bilinear", align_corners=False)
            patches = maps.flatten(2).transpose(1, 2)
        shape = views.images.shape[:2]
        signals = {"patches": Signal(patches.clone().unflatten(0, shape))}
        if features.cls is not None:
            signals["cls"] = Signal(features.cls.clone().unflatten(0, shape))
        return signals


_LOADED: weakref.WeakValueDictionary[tuple[str, str, int], FeatureTeacher] = weakref.WeakValueDictionary()


def loaded(source: str, *, name: str, student_patch: int) -> FeatureTeacher:
    """A FeatureTeacher, the one that is in memory already if there is one: networks are large, and frozen."""
    key = (source, name, student_patch)
    teacher = _LOADED.get(key) or FeatureTeacher(source, name=name, student_patch=student_patch)
    _LOADED[key] = teacher
    return teacher


class _Network(nn.Module):
    """What the teacher asks of a network, whoever made it."""

    def __init__(
        self,
        network: nn.Module,
        encode: Callable[[Tensor], Features],
        *,
        dim: int,
        patch_size: int,
        has_cls: bool,
        made_of: dict[str, Any],
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.made_of = made_of
        self.network, self.encode = network, encode
        self.dim, self.patch_size, self.has_cls, self.fixed_size = dim, patch_size, has_cls, fixed_size

    def forward(self, images: Tensor) -> Features:
        return self.encode(images)


def _zoo(source: str | nn.Module) -> tuple[_Network, str]:
    """The encoder of a model of the zoo; whatever else the model holds is let go."""
    model: Any = load_as(source, EncodesImages)[0]
    encoder = model.trunk
    config = encoder.config
    network = _Network(
        encoder,
        encoder.encode,
        dim=config.dim,
        patch_size=config.patch_size,
        has_cls=config.cls_token,
        made_of={field.name: getattr(config, field.name) for field in fields(config)},
    )
    return network.eval(), licence_of(model)


def _timm(source: str) -> tuple[_Network, str]:
    """A pretrained timm model. Raises UserError when timm is not installed or the model is no plain ViT."""
    try:
        import timm
    except ImportError:
        raise UserError("timm models need the package timm; pip install timm") from None
    name = source.removeprefix(TIMM)
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0, dynamic_img_size=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"timm cannot make {name!r}: {reason}; check its name") from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None:
        raise UserError(f"timm's {name!r} has no patch grid; choose a vision transformer")
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))

    def encode(images: Tensor) -> Features:
        tokens = model.forward_features((images - mean.to(images)) / std.to(images))
        grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
        return Features(tokens[:, prefix:], tokens[:, 0] if prefix else None, None, grid)

    network = _Network(
        model, encode, dim=model.num_features, patch_size=patch[0], has_cls=prefix > 0, made_of={"timm": name}
    )
    return network.eval(), f"as timm says of {name}"
