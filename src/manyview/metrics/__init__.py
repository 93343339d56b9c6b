"""Metrics as plain functions on numpy arrays or torch tensors: `manyview.metrics.<name>(...)`.

Names load on first use; importing this package costs nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "median_distances": "reconstruction",
    "per_view_reconstruction": "reconstruction",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"manyview.metrics.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'manyview.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
