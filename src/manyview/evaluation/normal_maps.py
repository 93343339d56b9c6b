"""Normals of a manifest's frames, kept as whole numbers so that they are resized and stored as labels are.

A frame's normals are a file beside its depth (`normals/NAME.npy` (H, W, 3), or `.png` with 127.5 (n + 1), as scenes
that `data synth --normals` writes), else they are those of its depth and intrinsics. Camera axes x right, y down, z
forward, facing the camera; files of another convention may be used as long as all of them have it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from manyview.data.depths import read_depth
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.geometry.cameras import rays
from manyview.images.reading import ImageProblem, read_image
from manyview.metrics.normals import normals_from_points

STEPS = 1 << 15
"""Two numbers of 15 bits: a place of the square that a sphere's octahedron unfolds to."""


def normals_of(data: Manifest, frame: Frame) -> np.ndarray:
    """A frame's normals, packed (H, W) int32, -1 where there is none. Raises ImageProblem for damaged files."""
    depth_file = data.path(str(frame.depth))
    for file in _beside(depth_file):
        if file.is_file():
            normals = _read(file)
            if normals.ndim != 3 or normals.shape[-1] != 3:
                raise ImageProblem(file, f"has shape {normals.shape}; normals are (H, W, 3)")
            length = np.linalg.norm(normals, axis=-1)
            return packed(normals, np.isfinite(length) & (length > 0.5))
    depth = read_depth(depth_file, frame.depth_scale or 1.0, data.farthest)
    if frame.intrinsics is None:
        raise UserError(f"{frame.image} has neither normals/{depth_file.stem}.npy beside its depth nor intrinsics")
    lens = frame.intrinsics.copy()
    lens[0] *= depth.shape[1] / frame.width
    lens[1] *= depth.shape[0] / frame.height
    points = rays(torch.from_numpy(lens), *depth.shape).numpy() * depth[..., None]
    return packed(*normals_from_points(points, depth > 0))


def _read(file: Path) -> np.ndarray:
    if file.suffix != ".npy":
        return read_image(file).astype(np.float32) / 127.5 - 1
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageProblem(file, f"cannot be read as normals: {error}") from error


def _beside(depth: Path) -> list[Path]:
    return [depth.parent.parent / "normals" / f"{depth.stem}{ending}" for ending in (".npy", ".png")]


def packed(normals: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Normals (H, W, 3) as whole numbers (H, W), so that they are kept and resized as labels are; -1 where unknown."""
    unit = np.where(known[..., None], normals, (0.0, 0.0, -1.0)).astype(np.float64)
    unit = unit / np.abs(unit).sum(-1, keepdims=True)
    flat, behind = unit[..., :2], unit[..., 2] > 0
    signs = np.where(flat >= 0, 1.0, -1.0)
    flat = np.where(behind[..., None], (1 - np.abs(flat[..., ::-1])) * signs, flat)
    whole = np.clip(np.round((flat + 1) / 2 * (STEPS - 1)), 0, STEPS - 1).astype(np.int64)
    return np.where(known, whole[..., 0] * STEPS + whole[..., 1], -1).astype(np.int32)


def unpacked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse: unit normals (..., 3) float32, and where there is one."""
    known = values >= 0
    whole = np.where(known, values, 0)
    flat = np.stack([whole // STEPS, whole % STEPS], -1) / (STEPS - 1) * 2 - 1
    depth = np.abs(flat).sum(-1) - 1
    signs = np.where(flat >= 0, 1.0, -1.0)
    flat = np.where((depth > 0)[..., None], (1 - np.abs(flat[..., ::-1])) * signs, flat)
    normals = np.concatenate([flat, depth[..., None]], -1)
    return (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32), known
