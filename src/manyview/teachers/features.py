"""Encoders as teachers, on the student's patch grid: of the zoo, a model directory, timm or transformers."""

from __future__ import annotations

import weakref
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.models.dune.network import on_patches_of
from manyview.models.model import EncodesImages, EncodesTexts, weights_digest
from manyview.teachers.base import licence_of
from manyview.types import Signal, Teacher, Views
from manyview.zoo.models import load_as


class FeatureTeacher(Teacher):
    """Signals "patches" (B, V, h*w, D) and, where the network has a class token, "cls" (B, V, D).

    source: a zoo name, a model directory, timm:NAME or hf:NAME. The images are resized so that the teacher's patches
    fall on the student's (bicubic, aligned corners: DUNE's release); a teacher that takes one size only gets that, and
    its patches are resampled, which `resampled` says. model: `source`, where it is loaded. Raises UserError when the
    weights are not here.
    """

    has_network = True

    def __init__(self, source: str, *, name: str = "", student_patch: int = 14, model: nn.Module | None = None) -> None:
        self.source, self.name, self.student_patch = source, name or source, student_patch
        try:
            whole: Any = load_as(source if model is None else model, EncodesImages)[0]
        except UserError as error:
            raise UserError(f"teacher {self.name}: {error}") from error
        self.licence = licence_of(whole)
        # Where images share a space with texts (MaskCLIP) it answers there; whatever else a model holds is let go.
        self._shared = isinstance(whole, EncodesTexts)
        self.network = (whole if self._shared else whole.trunk).eval().requires_grad_(False)
        self.resampled = False
        self._digest = ""

    @property
    def dim(self) -> int:
        """Channels of its tokens."""
        return int(self.network.config.embed_dim if self._shared else self.network.config.dim)

    @property
    def has_cls(self) -> bool:
        return bool(self.network.trunk.config.cls_token)

    def settings(self) -> dict[str, Any]:
        config = self.network.trunk.config
        made_of = {field.name: getattr(config, field.name) for field in fields(config)}
        space = {"space": "texts"} if self._shared else {}  # not what an older cache holds under this name
        return {"network": made_of, "student_patch": self.student_patch, **space}

    def weights_digest(self) -> str:
        self._digest = self._digest or weights_digest(self.network)
        return self._digest

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] at the student's size -> the size the teacher sees, still in [0, 1]."""
        fixed = self.network.trunk.fixed_size
        if fixed is not None and fixed != tuple(images.shape[-2:]):
            return F.interpolate(images, size=fixed, mode="bicubic", align_corners=True)
        return on_patches_of(images, self.student_patch, self.network.trunk.config.patch_size)

    @torch.inference_mode()
    def __call__(self, views: Views) -> dict[str, Signal]:
        images = views.images.flatten(0, 1)
        features = self.network.to(images.device).encode(self.prepare(images))
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
