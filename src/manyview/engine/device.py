"""Where to compute and in which precision."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Literal

import torch

from manyview.errors import UserError
from manyview.hardware import native_bf16


def pick_device(name: str = "auto") -> torch.device:
    """The device called `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. Raises UserError when it is not there.

    `auto` is the local rank's GPU, else the first GPU, else Apple's, else the CPU.
    """
    if name == "auto":
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            return torch.device("cuda", local % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"no device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(
            f"device {name!r} is not available: this PyTorch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device auto or cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available on this machine; use --device auto or cpu")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def precision_on(device: torch.device, precision: str) -> Literal["fp32", "bf16"]:
    """What a precision means here: `auto` is bf16 on a GPU or CPU that computes it natively, fp32 elsewhere."""
    return "bf16" if precision == "bf16" or (precision == "auto" and native_bf16(device)) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The mixed-precision context of a forward pass, see `precision_on`."""
    if precision_on(device, precision) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
