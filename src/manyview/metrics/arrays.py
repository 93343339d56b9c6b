"""Metrics take numpy arrays or torch tensors alike; here both become numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # a numpy array, a torch tensor or nested lists of numbers


def as_numpy(values: Array, dtype: type | None = None) -> np.ndarray:
    """A numpy view or copy on the CPU; floats keep their precision unless `dtype` says otherwise."""
    if hasattr(values, "detach"):  # torch, without importing it
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":  # numpy has no such type
            values = values.float()
        values = values.numpy()
    return np.asarray(values, dtype)
