"""How much memory is free: of the machine, of the process's limits, of its control group, of a GPU."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import cho_factor

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
SCARCE = 4_000_000_000
"""Bytes of free memory below which it is worth the time to give back at once what is freed."""
OPENBLAS = 80_000_000
"""Bytes with which there is room for the buffer that SciPy's OpenBLAS takes at its first use and keeps (34 MB)."""
MALLOPT = {-8: 1, -3: 1 << 16, -1: 1 << 16}
"""glibc's M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: one heap for all threads, and arrays of their own pages."""


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be taken on a device, the least of all limits; on a CPU where nothing says, 1 << 60."""
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, min(_of_machine(), _of_address_space(), _of_control_group()))


def _of_machine() -> int:
    return _kilobytes(PROC / "meminfo", "MemAvailable")


def _of_address_space() -> int:
    """What RLIMIT_AS leaves, which counts what is mapped (libraries of PyTorch too) and not only what is used."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit - _kilobytes(PROC / "self" / "status", "VmSize")


def _of_control_group() -> int:
    """What the groups of this process, and those above them, leave: version 2, or the memory controller of 1."""
    try:
        lines = [line.split(":", 2) for line in (PROC / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return UNLIMITED
    free = UNLIMITED
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = root / path.lstrip("/")
        for place in (folder, *(above for above in folder.parents if above.is_relative_to(root))):
            limit, used = (_number(place / name) for name in names)
            if limit is not None and used is not None:
                free = min(free, limit - used + _cached(place / "memory.stat"))
    return free


def _cached(path: Path) -> int:
    """Pages of files that the kernel gives back when asked."""
    try:
        values = dict(line.split() for line in path.read_text().splitlines())
        return int(values.get("inactive_file", values.get("total_inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
        return None if text == "max" else int(text)
    except (OSError, ValueError):
        return None


def _kilobytes(path: Path, name: str) -> int:
    try:
        return next(int(line.split()[1]) * 1024 for line in path.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration, ValueError, IndexError):
        return UNLIMITED


def spare_memory() -> None:
    """Where memory is scarce, have glibc give back what is freed.

    It would keep most of it between what is still in use, and reserve 64 MB of addresses for every thread: two to four
    times what is used. Other C libraries are left as they are.
    """
    if free_memory() >= SCARCE:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    for option, value in MALLOPT.items():
        mallopt(option, value)
    if free_memory() > OPENBLAS:  # later it would wait for its buffer for ever, where there is no room for it
        cho_factor(np.eye(2))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, whichever library says so."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc", "insufficient memory")
    said = str(error).lower()  # OpenCV's error is an Exception and nothing more
    return isinstance(error, Exception) and any(word in said for word in (*words, "can't start new thread"))


def megabytes(count: float) -> str:
    """1234567890 -> 1,235 MB"""
    return f"{count / 1e6:,.0f} MB"
