"""A teacher's Signals to the fields of an archive and back; equal fields are stored once.

Maps (pointmaps, confidences, depth, …) have a mask. They are float16, invalid pixels 0, or compact: then what follows
from another map (a confidence of measured depth, a pointmap that is another one moved) is made when it is read. Tokens
and feature maps have no mask, and may be kept smaller (`keep`); class tokens are small and stay float16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.cache import codec
from manyview.cache.options import Keep
from manyview.cache.record import TeacherCard
from manyview.errors import UserError
from manyview.geometry.alignment import apply_similarity, similarity
from manyview.geometry.measured import confidence_of_depth
from manyview.types import Signal

KINDS = {
    **dict.fromkeys(("patches", "cls", "registers"), "tokens"),
    **dict.fromkeys(("features", "descriptors"), "features"),
    **dict.fromkeys(("pointmap", "pointmap_local"), "pointmaps"),
}
SMALLER = {"int8": codec.INT8, "pca": codec.PCA, "cosine": codec.STEPS}
Parts = dict[str, dict[str, Any]]
"""Signal -> the fields of its value, and of its valid, its weight and how it is moved, where it has them; "scale":
what the value is multiplied by; "rule": "measured" for a confidence that is made from the value, a pointmap."""
NUMBERS = ("scale", "rule")
"""What of a signal's parts is no field."""
SAME = 2e-4
"""A pointmap whose relative distance to a moved local one is below this is kept as that motion."""


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

    raw_bytes: int = 0
    """Bytes of all signals' values as plain float16, those stored once counted each time."""


def pack(card: TeacherCard, answers: Mapping[str, Signal]) -> Packed:
    """A teacher's answers to one sample, batch 1, as fields whose names begin with the teacher's.

    Weights that follow from a confidence are not stored. Of maps kept as float16, confidences are clipped to its range,
    where others become invalid beyond it. Raises UserError for answers without a single valid pixel, and for tokens
    that are not finite or too large for float16.
    """
    packed, masks = Packed(), []
    for name, signal in sorted(
        answers.items(), key=lambda item: (item[0] in card.derived, "local" not in item[0], item)
    ):
        if signal.value.shape[0] != 1:
            raise ValueError(f"signal {name!r}: one scene at a time, got {signal.value.shape[0]}")
        value, key = signal.value[0].detach().float().cpu().numpy(), f"{card.name}/{name}"
        packed.raw_bytes += 2 * value.size
        if kind_of(name) in ("tokens", "features"):
            packed.parts[name] = {"value": _add_features(packed, key, value, card.keep)}
            continue
        valid = np.ones(value.shape[:3], bool) if signal.valid is None else signal.valid[0].cpu().numpy()
        is_confidence = name in card.weighted_by.values()
        half, parts = None, {}
        if card.maps == "compact":
            valid = valid & np.isfinite(value).reshape(*valid.shape, -1).all(-1)
            value = np.where(valid.reshape(*valid.shape, *[1] * (value.ndim - 3)), value, 0)
            source = packed.parts.get(card.derived.get(name, ""), {}).get("value")
            if source is not None and _follows(card, value, answers[card.derived[name]], valid):
                parts = {"value": source, "rule": "measured"}
            else:
                parts = _add_compact(packed, key, value, valid, is_confidence, answers.get("pointmap_local"))
        if not parts:
            scale = 1.0 if is_confidence else _scale(value, valid)
            half, valid = codec.to_half(value / np.float32(scale), valid, saturate=is_confidence)
            parts = {"value": packed.add(key, half), **({} if scale == 1 else {"scale": scale})}
        parts["valid"] = packed.add(f"{card.name}/valid", valid)
        masks.append(valid)
        if signal.weight is not None and name not in card.weighted_by:
            weight, _ = codec.to_half(signal.weight[0].float().cpu().numpy(), valid, saturate=True)
            parts["weight"] = packed.add(f"{key}.weight", weight)
        packed.parts[name] = parts
        if is_confidence and card.weight_rule.by == "quantile":
            kept = value if half is None else half
            packed.units[name] = card.weight_rule.unit(torch.from_numpy(kept), torch.from_numpy(valid))
    if masks and not any(mask.any() for mask in masks):
        raise UserError(f"{card.name} says nothing of these views: not one pixel of its answer is valid")
    return packed


def fields_of(parts: Parts) -> list[str]:
    """The fields that signals are made of, each once."""
    return list(dict.fromkeys(name for part in parts.values() for key, name in part.items() if key not in NUMBERS))


def unpack(fields: Mapping[str, np.ndarray], parts: Parts, card: TeacherCard) -> dict[str, Signal]:
    """Signals with batch 1, float16 or float32 as they are kept; fields stored once are shared."""
    tensors = {name: torch.from_numpy(values)[None] for name, values in fields.items()}
    made: dict[str, Tensor] = {}
    signals = {}
    for name, part in parts.items():
        value, valid = tensors[part["value"]], tensors[part["valid"]] if "valid" in part else None
        if "scale" in part:
            value = value.float() * part["scale"]
        if part.get("rule") == "measured":
            if part["value"] not in made:
                whole = torch.ones(value.shape[:-1], dtype=torch.bool) if valid is None else valid
                made[part["value"]] = _measured(card, value.float(), whole)
            value = made[part["value"]]
        if "moved" in part:
            value = _moved(value, tensors[part["moved"]][0].float())
        signals[name] = Signal(value, tensors[part["weight"]] if "weight" in part else None, valid)
    return signals


def _moved(points: Tensor, motion: Tensor) -> Tensor:
    """Points (1, V, H, W, 3) moved by (V, 3, 4); coordinate by coordinate, which takes half of a product's time."""
    out, each = torch.empty_like(points), motion[None, :, :, :, None, None].unbind(2)
    x, y, z = points.unbind(-1)
    for place, row in enumerate(each):
        a, b, c, d = row.unbind(2)
        torch.mul(x, a, out=out[..., place]).addcmul_(y, b).addcmul_(z, c).add_(d)
    return out


def _follows(card: TeacherCard, value: np.ndarray, local: Signal, valid: np.ndarray) -> bool:
    """Whether a confidence is the one of measured depth: another one is kept, whatever the teacher claims."""
    measured = _measured(card, local.value[0].float().cpu(), torch.from_numpy(valid)).numpy()
    return bool(np.allclose(measured[valid], value[valid], rtol=0.001))


def _measured(card: TeacherCard, local: Tensor, valid: Tensor) -> Tensor:
    return confidence_of_depth(local, valid, *(float(card.settings[key]) for key in ("edge_step", "full_cosine")))


def _add_compact(
    packed: Packed, key: str, value: np.ndarray, valid: np.ndarray, is_confidence: bool, local: Signal | None
) -> dict[str, Any]:
    """Add a map in few bytes; the parts of its signal, none when it holds numbers that cannot be kept so."""
    if value.ndim == 3:
        how = next(name for name, error in codec.POSITIVE.items() if (error > 0.01) == is_confidence)
        return _added(packed, key, value, how) if (value[valid] > 0).all() else {}
    if local is not None and not key.endswith("_local"):
        points = local.value[0].double().cpu().flatten(1, 2)
        weights = torch.from_numpy(valid).flatten(1).double()
        if local.valid is not None:
            weights *= local.valid[0].cpu().flatten(1)
        target = torch.from_numpy(value).double().flatten(1, 2)
        fit = similarity(points, target, weights)
        linear = fit.scale[:, None, None] * fit.rotation
        moved = {"moved": torch.cat([linear, fit.translation[..., None]], -1).numpy()}
        distance = (apply_similarity(fit, points) - target).norm(dim=-1) / target.norm(dim=-1).clamp(min=1e-30)
        used, known = weights > 0, packed.parts.get("pointmap_local", {}).get("value")
        if known in packed.encodings and not (distance[used] > SAME).double().mean() > 0.001:
            return {"value": known, "moved": _plain(packed, key, moved["moved"])}
        back = torch.linalg.solve(linear, (target - fit.translation[:, None]).transpose(1, 2)).transpose(1, 2)
        own = np.where(valid[..., None], back.float().numpy().reshape(value.shape), 0)
        if not (value[..., 2][valid] > 0).all() and (own[..., 2][valid] > 0).all() and np.isfinite(own).all():
            return {**_added(packed, key, own, codec.POINTS), "moved": _plain(packed, key, moved["moved"])}
    return _added(packed, key, value, codec.POINTS) if (value[..., 2][valid] > 0).all() else {}


def _added(packed: Packed, key: str, value: np.ndarray, how: str) -> dict[str, Any]:
    name = packed.add(key, value)
    packed.encodings[name] = how
    return {"value": name}


def _plain(packed: Packed, key: str, motion: np.ndarray) -> str:
    """(V, 3, 4) scaled rotations and translations."""
    name = packed.add(f"{key}.moved", motion)
    packed.encodings[name] = codec.PLAIN
    return name


def _scale(value: np.ndarray, valid: np.ndarray) -> float:
    """A power of two that brings lengths which float16 cannot hold near 1; 1 for all others."""
    size = np.abs(value[valid])
    middle = float(np.median(size[np.isfinite(size) & (size > 0)])) if (np.isfinite(size) & (size > 0)).any() else 1.0
    return 1.0 if 2**-6 < middle < 2**10 else 2.0 ** round(math.log2(middle))


def _add_features(packed: Packed, name: str, value: np.ndarray, keep: Keep) -> str:
    if not np.isfinite(value).all():
        raise UserError(f"{name} has NaN or infinite values, so it cannot be kept; check the teacher's weights")
    if keep != "float16" and value.ndim > 2:
        packed.encodings[name] = SMALLER[keep]
        return packed.add(name, value)
    largest = float(np.abs(value).max(initial=0))
    if largest > codec.LARGEST:
        raise UserError(
            f"{name} reaches {largest:g}, float16 holds up to {codec.LARGEST:g}: it cannot be kept; "
            "keep patch tokens as int8, or check the teacher's weights"
        )
    return packed.add(name, value.astype(np.float16))
