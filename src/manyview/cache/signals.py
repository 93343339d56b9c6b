"""A teacher's Signals to the fields of an archive and back; equal fields are stored once.

Maps (pointmaps, confidences, depth, …) are float16 with a mask: invalid pixels are 0. Tokens and feature maps have no
mask, and may be kept smaller (`keep`); class tokens are small and stay float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from manyview.cache import codec
from manyview.cache.options import Keep
from manyview.cache.record import TeacherCard
from manyview.errors import UserError
from manyview.types import Signal

KINDS = {
    **dict.fromkeys(("patches", "cls", "registers"), "tokens"),
    **dict.fromkeys(("features", "descriptors"), "features"),
    **dict.fromkeys(("pointmap", "pointmap_local"), "pointmaps"),
}
SMALLER = {"int8": codec.INT8, "pca": codec.PCA}
Parts = dict[str, dict[str, str]]
"""Signal -> the fields of its value, and of its valid and weight where it has them."""


def kind_of(signal: str) -> str:
    """What a signal is, as `cache info` says it."""
    first = signal.partition(".")[0]
    return "confidences" if "confidence" in first else KINDS.get(first, first)


@dataclass
class Packed:
    """Fields of an archive, how those are kept that are not kept as usual, and what they belong to."""

    fields: dict[str, np.ndarray] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)
    """What confidences are divided by, where that depends on the sample."""

    def add(self, name: str, values: np.ndarray) -> str:
        """Add a field unless one with the same bits is there; the name that it has."""
        for other, stored in self.fields.items():
            alike = stored.dtype == values.dtype and stored.shape == values.shape
            if alike and stored.tobytes() == values.tobytes():
                return other
        taken = sum(other == name or other.startswith(f"{name}-") for other in self.fields)
        name = f"{name}-{taken}" if taken else name
        self.fields[name] = values
        return name

    @property
    def raw_bytes(self) -> int:
        """Bytes of all signals' values as plain float16, those stored once counted each time."""
        return sum(2 * self.fields[part["value"]].size for part in self.parts.values())


def pack(card: TeacherCard, answers: Mapping[str, Signal]) -> Packed:
    """A teacher's answers to one sample, batch 1, as fields whose names begin with the teacher's.

    Weights that follow from a confidence are not stored; confidences are clipped to float16's range, where other
    maps become invalid beyond it. Raises UserError for answers without a single valid pixel, and for tokens that
    are not finite.
    """
    packed = Packed()
    for name, signal in sorted(answers.items()):
        if signal.value.shape[0] != 1:
            raise ValueError(f"signal {name!r}: one scene at a time, got {signal.value.shape[0]}")
        value, key = signal.value[0].detach().float().cpu().numpy(), f"{card.name}/{name}"
        if kind_of(name) in ("tokens", "features"):
            packed.parts[name] = {"value": _add_features(packed, key, value, card.keep)}
            continue
        valid = np.ones(value.shape[:3], bool) if signal.valid is None else signal.valid[0].cpu().numpy()
        half, valid = codec.to_half(value, valid, saturate=name in card.weighted_by.values())
        parts = {"value": packed.add(key, half), "valid": packed.add(f"{card.name}/valid", valid)}
        if signal.weight is not None and name not in card.weighted_by:
            weight, _ = codec.to_half(signal.weight[0].float().cpu().numpy(), valid, saturate=True)
            parts["weight"] = packed.add(f"{key}.weight", weight)
        packed.parts[name] = parts
        if name in card.weighted_by.values() and card.weight_rule.by == "quantile":
            packed.units[name] = card.weight_rule.unit(torch.from_numpy(half), torch.from_numpy(valid))
    masks = [packed.fields[part["valid"]] for part in packed.parts.values() if "valid" in part]
    if masks and not any(mask.any() for mask in masks):
        raise UserError(f"{card.name} says nothing of these views: not one pixel of its answer is valid")
    return packed


def unpack(fields: Mapping[str, np.ndarray], parts: Parts) -> dict[str, Signal]:
    """Signals with batch 1, float16 unless kept smaller; fields stored once are shared."""
    tensors = {name: torch.from_numpy(values)[None] for name, values in fields.items()}
    return {
        name: Signal(
            tensors[part["value"]],
            tensors[part["weight"]] if "weight" in part else None,
            tensors[part["valid"]] if "valid" in part else None,
        )
        for name, part in parts.items()
    }


def _add_features(packed: Packed, name: str, value: np.ndarray, keep: Keep) -> str:
    if not np.isfinite(value).all():
        raise UserError(f"{name} has NaN or infinite values, so it cannot be kept; check the teacher's weights")
    if keep != "float16" and value.ndim > 2:
        packed.encodings[name] = SMALLER[keep]
        return packed.add(name, value)
    return packed.add(name, value.clip(-codec.LARGEST, codec.LARGEST).astype(np.float16))
