"""Which device a pipeline runs on."""

from __future__ import annotations

import torch

from manyview.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first of cuda, mps, cpu that works here. Raises UserError for a device this machine lacks."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device {name!r}; known: auto, cpu, cuda, cuda:N, mps") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise UserError(f"device {name!r} is not available here; use --device auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} of them; use cuda:0 or auto")
    return device
