"""What a teacher is: frozen, views in, Signals out, with its own preprocessing, confidence rule and licence.

A teacher's raw confidences are what is stored; the loss weight follows from them by the teacher's
`WeightRule`, so that a cache never has to be made again because the weighting changed.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from manyview import zoo
from manyview.registry import Registry
from manyview.types import Signal, Views, WeightRule


class Teacher(ABC):
    """Base of all teachers. Calling one gives Signals for B scenes of V views.

    The usual signals: "pointmap" (B, V, H, W, 3) in the first view's camera frame, "pointmap_local" in each
    view's own frame, and their raw confidences "confidence" and "confidence_local" (B, V, H, W).
    """

    name: ClassVar[str]
    licence: ClassVar[str]
    """Terms under which its answers may be used; stored in every cache it makes."""
    weight_rule: ClassVar[WeightRule]
    weighted_by: ClassVar[Mapping[str, str]] = {
        "pointmap": "confidence",
        "pointmap_local": "confidence_local",
    }
    """Signal -> the raw confidence its weight is derived from."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """What it needs beside the images: names of fields of Views ("depth", "intrinsics", "cam2world")."""
    uses_given_poses: ClassVar[bool] = False
    """Whether "pointmap" lives in the data's own cameras, so that their poses may move it to another view."""

    has_network: ClassVar[bool] = False
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
        for name, confidence in self.weighted_by.items():
            if name in signals and confidence in signals:
                raw = signals[confidence]
                valid = [None] * len(raw.value) if raw.valid is None else raw.valid
                units = map(self.weight_rule.unit, raw.value, valid)
                scenes = zip(raw.value, units, strict=True)
                signals[name].weight = torch.stack(
                    [self.weight_rule(values, unit) for values, unit in scenes]
                )
        return signals


def licence_of(source: str | Path | nn.Module) -> str:
    """The terms of a model's weights and of all they were made from, as its card says."""
    licences = [f"{entry['name']}: {entry['licence']}" for entry in zoo.licences_of(source)]
    return "; ".join(licences) or "not stated by the model"


TEACHERS: Registry[type[Teacher]] = Registry(
    "teacher", package="manyview.teachers", group="manyview.teachers", subclass_of=Teacher
)
