"""Metrics as plain functions on numpy arrays or torch tensors: `manyview.metrics.<name>(...)`.

Names load on first use; importing this package costs nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {  # name -> file
    "abs_rel": "depth",
    "accuracy": "cloud",
    "align_centres": "pose",
    "align_depth": "depth",
    "chamfer": "cloud",
    "cloud_distances": "cloud",
    "cloud_metrics": "cloud",
    "completeness": "cloud",
    "depth_errors": "depth",
    "eigen_crop": "depth",
    "end_point_errors": "matching",
    "exact_average_accuracy": "pose",
    "f_score": "cloud",
    "inverse_fit": "depth",
    "matching_scores": "matching",
    "mean_average_accuracy": "pose",
    "mean_distance": "scale",
    "median_centre": "scale",
    "median_depth": "scale",
    "median_distance": "scale",
    "median_distances": "reconstruction",
    "normal_consistency": "cloud",
    "per_view_reconstruction": "reconstruction",
    "pose_accuracy": "pose",
    "pose_auc": "pose",
    "relative_pose_errors": "pose",
    "relative_trajectory_error": "pose",
    "rotation_error": "pose",
    "scale_factor": "scale",
    "trajectory_error": "pose",
    "translation_error": "pose",
    "valid_depth": "depth",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"manyview.metrics.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'manyview.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
