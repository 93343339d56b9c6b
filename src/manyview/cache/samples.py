"""Signals of a sample to the fields of an archive and back: float16, invalid 0, equal fields stored once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from manyview.cache import codec
from manyview.types import Signal


def pack(
    signals: Mapping[str, Signal], confidences: Collection[str], derived: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, str]]]:
    """Fields (V, H, W, ...) and, per signal, which fields hold its value, valid and weight.

    `confidences`: signals that are clipped to float16's range; others become invalid beyond it. `derived`:
    signals whose weight follows from a confidence and is not stored. A signal's batch must be 1.
    """
    fields: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, str]] = {}
    for name, signal in sorted(signals.items()):
        if signal.value.shape[0] != 1:
            raise ValueError(f"signal {name!r}: one scene at a time, got {signal.value.shape[0]}")
        value = signal.value[0].detach().float().cpu().numpy()
        space = value.shape[:3]  # (V, H, W) of the signal's own grid
        valid = np.ones(space, bool) if signal.valid is None else signal.valid[0].cpu().numpy()
        half, valid = codec.to_half(value, valid, saturate=name in confidences)
        parts[name] = {"value": _keep(fields, name, half), "valid": _keep(fields, "valid", valid)}
        if signal.weight is not None and name not in derived:
            weight, _ = codec.to_half(signal.weight[0].float().cpu().numpy(), valid, saturate=True)
            parts[name]["weight"] = _keep(fields, f"{name}.weight", weight)
    return fields, parts


def unpack(fields: Mapping[str, np.ndarray], parts: Mapping[str, Mapping[str, str]]) -> dict[str, Signal]:
    """Signals with batch 1 and float16 values; fields stored once are shared."""
    tensors = {name: torch.from_numpy(values)[None] for name, values in fields.items()}
    return {
        name: Signal(
            tensors[part["value"]],
            tensors[part["weight"]] if "weight" in part else None,
            tensors[part["valid"]],
        )
        for name, part in parts.items()
    }


def raw_bytes(fields: Mapping[str, np.ndarray], parts: Mapping[str, Mapping[str, str]]) -> int:
    """Bytes of all signals' values as plain float16 arrays, those stored once counted each time."""
    return sum(fields[part["value"]].nbytes for part in parts.values())


def _keep(fields: dict[str, np.ndarray], name: str, values: np.ndarray) -> str:
    """Add a field unless one with the same bits is there; the name it is found under."""
    for known, field in fields.items():
        if (
            field.dtype == values.dtype
            and field.shape == values.shape
            and field.tobytes() == values.tobytes()
        ):
            return known
    taken = sum(known == name or known.startswith(f"{name}-") for known in fields)
    name = f"{name}-{taken}" if taken else name
    fields[name] = values
    return name
