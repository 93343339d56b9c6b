"""The nouns that every layer speaks: Views, Signal, Features, Teacher, StepResult.

Legend: B scenes, V views of a scene, H x W pixels, N images, h x w patch grid, D channels.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor


def _moved(value: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if value is None else value.to(device, non_blocking=True)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinite values."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype in _FLOATS and not tensor.is_meta}
    # A sum is finite unless a number is not, and takes no memory; one that overflows is looked at again.
    doubtful = [name for name, tensor in floats.items() if not math.isfinite(tensor.sum(dtype=torch.float32).item())]
    return [name for name in doubtful if not bool(torch.isfinite(floats[name]).all())]


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class Signal:
    """What a student must say: pixels, a measurement, a live teacher's answer, or the same answer from the cache.

    `weight` (default 1) and `valid` (default all) have the value's shape without its channel dimension.
    What lies under `valid == False` is never read: it may be NaN.
    """

    value: Tensor
    weight: Tensor | None = None
    valid: Tensor | None = None

    def to(self, device: torch.device | str) -> Signal:
        value = self.value.to(device, non_blocking=True)
        return Signal(value, _moved(self.weight, device), _moved(self.valid, device))


@dataclass(frozen=True)
class WeightRule:
    """Loss weight in [0, 1] of a raw confidence: clamp(confidence / unit, low, high).

    by "value": the unit is `scale` itself. By "quantile": it is that quantile of the sample's valid confidences, for
    sources whose confidences have a scale of their own.
    """

    scale: float
    low: float
    high: float
    by: Literal["value", "quantile"] = "value"

    def unit(self, confidence: Tensor, valid: Tensor | None = None) -> float:
        """What the confidences of one sample are divided by."""
        values = confidence.flatten() if valid is None else confidence[valid]
        values = values[values.isfinite()].float()
        if self.by == "value" or not len(values):
            return self.scale
        place = min(len(values), 1 + int(self.scale * len(values)))
        return max(float(values.kthvalue(place).values), 1e-12)

    def __call__(self, confidence: Tensor, unit: float | None = None) -> Tensor:
        """Weights of confidences; unit: of the whole sample, where these are a part of it."""
        unit = self.unit(confidence) if unit is None else unit
        return (confidence / unit).clamp_(self.low, self.high)


@dataclass
class Features:
    """What an encoder returns for N images; tokens are row-major over `grid` = (h, w)."""

    patches: Tensor  # (N, h*w, D)
    cls: Tensor | None  # (N, D)
    registers: Tensor | None  # (N, R, D)
    grid: tuple[int, int]

    def as_map(self) -> Tensor:
        """Patch tokens as a channel-first map (N, D, h, w)."""
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


@dataclass
class Views:
    """Images of one scene per row, with whatever is known of them. OpenCV axes, pixel centres at +0.5."""

    images: Tensor  # (B, V, 3, H, W) float RGB in [0, 1]
    intrinsics: Tensor | None = None  # (B, V, 3, 3) pixels
    cam2world: Tensor | None = None  # (B, V, 4, 4)
    depth: Tensor | None = None  # (B, V, H, W) along the optical axis, 0 = none
    masks: Tensor | None = None  # (B, V, H, W) bool, True = use this pixel
    labels: Tensor | None = None  # (B, V, H, W) indices into the names of the data's classes
    unchanged: Tensor | None = None  # (B, V, 3, H, W) the images before their colours were changed
    names: list[list[str]] | None = None
    signals: dict[str, Signal] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.images.shape[0]

    @property
    def views(self) -> int:
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    def to(self, device: torch.device | str) -> Views:
        names = ("images", "intrinsics", "cam2world", "depth", "masks", "labels", "unchanged")
        moved: dict[str, Any] = {name: _moved(getattr(self, name), device) for name in names}
        return replace(self, **moved, signals={name: signal.to(device) for name, signal in self.signals.items()})


class Teacher(ABC):
    """Base of all teachers: frozen, views in, Signals out, with its own preprocessing, confidence rule and licence.

    Raw confidences are what is stored; loss weights follow from them by the rule, so that a cache never has to be made
    again because the weighting changed.

    The usual signals: "pointmap" (B, V, H, W, 3) in the first view's camera frame, "pointmap_local" in each
    view's own frame, and their raw confidences "confidence" and "confidence_local" (B, V, H, W).
    """

    name: str
    licence: str
    """Terms under which its answers may be used; stored in every cache it makes."""
    weight_rule: WeightRule = WeightRule(1.0, 1.0, 1.0)
    weighted_by: Mapping[str, str] = MappingProxyType({"pointmap": "confidence", "pointmap_local": "confidence_local"})
    """Signal -> the raw confidence its weight is derived from."""
    requires: frozenset[str] = frozenset()
    """What it needs beside the images: names of fields of Views ("depth", "intrinsics", "cam2world")."""
    uses_given_poses: bool = False
    """Whether "pointmap" lives in the data's own cameras, so that their poses may move it to another view."""
    derived: Mapping[str, str] = MappingProxyType({})
    """Confidence -> the pointmap that it follows from (`geometry.measured`, with the teacher's settings)."""
    has_network: bool = False
    """Whether it has a network, which runs on the device of the views that it is given."""

    def settings(self) -> dict[str, Any]:
        """Every number that changes its answers, as JSON-able values."""
        return {}

    def weights_digest(self) -> str:
        """SHA-256 of its network's weights; empty for a teacher without a network."""
        return ""

    def digest(self) -> str:
        """SHA-256 of its name, settings and weights: equal digests, equal answers."""
        content = {"name": self.name, "settings": self.settings(), "weights": self.weights_digest()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def prepare(self, images: Tensor) -> Tensor:
        """What its network really sees of images (..., 3, H, W) in [0, 1]; without a network, the same."""
        return images

    @abstractmethod
    def __call__(self, views: Views) -> dict[str, Signal]:
        """Its answers for these views. Raises UserError, naming the frame, where something is missing."""

    def weigh(self, signals: dict[str, Signal]) -> dict[str, Signal]:
        """The same signals with the weights that follow from their raw confidences, scene by scene."""
        rule = self.weight_rule
        for name, confidence in self.weighted_by.items():
            if name in signals and confidence in signals:
                raw = signals[confidence]
                valid = torch.ones_like(raw.value, dtype=torch.bool) if raw.valid is None else raw.valid
                scenes = zip(raw.value, valid, strict=True)
                signals[name].weight = torch.stack([rule(values, rule.unit(values, v)) for values, v in scenes])
        return signals


@dataclass
class StepResult:
    """What a recipe's step returns: the loss to descend, numbers to log, pictures to look at."""

    loss: Tensor
    logs: dict[str, float | Tensor] = field(default_factory=dict)
    pictures: Callable[[], dict[str, Tensor]] | None = None
    """Made only when they are written, with a checkpoint: name -> (3, H, W) in [0, 1]."""


class Batches(ABC):
    """What a run learns from: a pure function from the index of a forward pass to its views, in two steps."""

    @abstractmethod
    def load(self, index: int) -> Any:
        """Read what batch `index` needs; runs in any process, so that several batches are made at once."""

    @abstractmethod
    def finish(self, loaded: Any, device: torch.device) -> Views:
        """The views on the run's device; runs in the process that trains, in the order of the indices."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data, as JSON-able values."""

    def __call__(self, index: int) -> Views:
        """The views of forward pass `index`, on the CPU."""
        return self.finish(self.load(index), torch.device("cpu"))
