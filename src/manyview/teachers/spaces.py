"""Teachers of a feature space at sampled pixels: another network's features, or the words for what labels say is there.

Legend: B scenes, V views, N = B*V, K sampled pixels, H x W pixels, D channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manyview import zoo
from manyview.errors import UserError
from manyview.models.dense_heads import sample_maps
from manyview.models.model import UpsamplesFeatures, device_of
from manyview.teachers.features import loaded
from manyview.types import Signal, Views

LABELS = "labels"
"""The source of a teacher that needs no network of images."""


class SpaceTeacher(ABC):
    """What is in a feature space at places of views."""

    @abstractmethod
    def at(self, views: Views, points: Tensor) -> Signal:
        """Values (N, K, D) and where they are known (N, K), at points (N, K, 2), (x, y) in [0, 1] of the view."""


class LabelTeacher(SpaceTeacher):
    """The embedding of the name of a pixel's class: for data with labels, in a space that texts are in.

    templates as `zoo.embed_texts` takes them. What has a label outside the names is not valid.
    """

    def __init__(self, names: Sequence[str], space: str, templates: Sequence[str] = ("{}",)) -> None:
        self.names, self.space, self.templates = tuple(names), space, tuple(templates)

    @cached_property
    def words(self) -> Tensor:
        """(C, D), each of length one. Raises UserError as embed_texts does."""
        return zoo.embed_texts(self.space, self.names, self.templates)

    def labels(self, views: Views, points: Tensor) -> Tensor:
        """(N, K) labels of the pixels that the points lie in. Raises UserError for views without any."""
        if views.labels is None:
            raise UserError(
                "these data have no labels to learn words from; give rooms (--data rooms:1), or a model as teacher"
            )
        height, width = views.size
        column, row = (
            (points[..., axis] * side).long().clamp(0, side - 1) for axis, side in enumerate((width, height))
        )
        return views.labels.flatten(0, 1).flatten(1).long().gather(1, row * width + column)

    def at(self, views: Views, points: Tensor) -> Signal:
        labels = self.labels(views, points)
        known = (labels >= 0) & (labels < len(self.names))
        return Signal(self.words.to(labels.device)[torch.where(known, labels, 0)], valid=known)


class NetworkTeacher(SpaceTeacher):
    """An image encoder's features, bilinear between its patches or through an upsampler that the image leads (FeatUp).

    It sees the student's own crop before its colours were changed. `upsampler`: a zoo name or model directory.
    `kept`: the signal that holds the patches of views whose answers were read from a cache.
    """

    def __init__(self, source: str, *, student_patch: int, upsampler: str | None = None, kept: str = "") -> None:
        self.kept = kept
        self.encoder = loaded(source, name=source, student_patch=student_patch)
        self.upsampler: Any = None
        if upsampler is not None:
            network: Any = zoo.models.load_as(upsampler, UpsamplesFeatures)[0]
            self.upsampler = network.requires_grad_(False)

    @torch.inference_mode()
    def maps(self, views: Views) -> Tensor:
        """(N, D, h, w), or 16 times as fine."""
        clean = views.images if views.unchanged is None else views.unchanged
        signal = views.signals.get(self.kept) or self.encoder(Views(clean))["patches"]
        patches = signal.value.float().flatten(0, 1)
        patch = self.encoder.student_patch
        maps = patches.transpose(1, 2).unflatten(2, (views.size[0] // patch, views.size[1] // patch))
        if self.upsampler is None:
            return maps
        if device_of(self.upsampler) != maps.device:
            self.upsampler.to(maps.device)
        return torch.cat([self.upsampler(*pair) for pair in zip(maps.split(1), clean.flatten(0, 1).split(1))])

    def at(self, views: Views, points: Tensor) -> Signal:
        return Signal(sample_maps(self.maps(views).clone().float(), points).transpose(1, 2))
