"""Metrics as plain functions on numpy arrays or torch tensors: `manyview.metrics.<name>(...)`.

Names load on first use; importing this package costs nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

_OF_FILE = {
    "cloud": "accuracy chamfer cloud_distances cloud_metrics completeness f_score normal_consistency",
    "correspondence": "binned_means ratio_matches semantic_errors surface_matches",
    "depth": "abs_rel align_depth depth_errors eigen_crop garg_crop inverse_fit valid_depth",
    "located": "map_and_locate",
    "mapfree": "mapfree_scores precision_recall virtual_correspondence_error virtual_points",
    "matching": "end_point_errors matching_scores",
    "normals": "normal_errors normals_from_points",
    "pose": "align_centres exact_average_accuracy mean_average_accuracy paper_average_accuracy pose_accuracy pose_auc "
    "relative_pose_errors relative_trajectory_error rotation_error trajectory_error translation_error",
    "reconstruction": "median_distances per_view_reconstruction",
    "scale": "mean_distance median_centre median_depth median_distance scale_factor",
}
_FILE = {name: file for file, names in _OF_FILE.items() for name in names.split()}

__all__ = sorted(_FILE)


def __getattr__(name: str) -> Any:
    if name in _FILE:
        return getattr(importlib.import_module(f"manyview.metrics.{_FILE[name]}"), name)
    raise AttributeError(f"module 'manyview.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
