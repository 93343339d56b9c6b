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


def as_pair(predicted: Array, true: Array) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64. Raises ValueError unless their shapes are the same: numpy would repeat the smaller one."""
    pair = as_numpy(predicted, np.float64), as_numpy(true, np.float64)
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"shapes differ: {pair[0].shape} predicted, {pair[1].shape} true; bring both to one shape")
    return pair


def as_mask(valid: Array, shape: tuple[int, ...]) -> np.ndarray:
    """A bool mask of this shape. Raises ValueError for one of another shape."""
    mask = as_numpy(valid, bool)
    if mask.shape != shape:
        raise ValueError(f"the mask has shape {mask.shape}, what it is for {shape}")
    return mask
