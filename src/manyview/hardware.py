"""What this machine computes natively."""

from __future__ import annotations

from functools import cache

import torch


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on this device, and not emulated.

    A CPU must have AVX512-BF16 or AMX instructions and a PyTorch that uses them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and _cpu_bf16()


@cache
def _cpu_bf16() -> bool:
    try:
        usable = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return usable and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError):  # a PyTorch without oneDNN, or another processor's
        return False


def short_of_memory(device: torch.device, least: int = 8 << 30) -> bool:
    """Whether a GPU has less than `least` bytes that are free or kept by PyTorch for reuse."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) < least
