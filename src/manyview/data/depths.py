"""Depth files of foreign layouts: HDF5, PFM, OpenEXR, float numbers hidden in 8 or 16-bit PNGs.

Everything comes out as (H, W) float32 along the optical axis, 0 = none; what means none is decided in `nothing` alone.
Which encoding a file has is told by its name, as the data sets name them; each line of ENCODINGS says where that is
from. NAVI's is told by the annotations beside its folder. h5py (and OpenEXR, where OpenCV was built without it) are
optional and imported here only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.images.maps import read_map
from manyview.images.reading import ImageProblem

FARTHEST = 1000.0
"""Metres: what lies at or beyond is sky. TartanAir's is stored at 10,000 m."""
_ALL_BITS = (2**16 - 1, 2**32 - 1)
_LARGEST = (float(np.finfo(np.float16).max), 1e10, float(np.finfo(np.float32).max))
"""Of floating-point maps: what a half float ends at, what Blender writes for nothing, what a float ends at."""


def read_depth(path: str | Path, scale: float, farthest: float = np.inf) -> np.ndarray:
    """(H, W) float32 depth along the optical axis, 0 = none: stored values * `scale`. Raises ImageProblem.

    farthest: from here on depth means none; FARTHEST for data in metres.
    """
    stored = read_stored(Path(path))
    depth = stored.astype(np.float32) * np.float32(scale)
    depth[nothing(stored, scale, farthest)] = 0
    return depth


def nothing(stored: np.ndarray, scale: float, farthest: float = np.inf) -> np.ndarray:
    """(H, W) where a stored number means that nothing is known there.

    NaN, infinities, zero and negative numbers; the whole number with all 16 or 32 bits set, which sensors and renderers
    write for no return and for sky, also where it was kept as a float; the largest number of a type; and what lies at
    or beyond `farthest`.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        depth = stored.astype(np.float32) * np.float32(scale)
        none = ~(np.isfinite(depth) & (depth > 0)) | (depth >= farthest)
        whole = np.issubdtype(stored.dtype, np.integer)
        marks = (*_ALL_BITS, np.iinfo(stored.dtype).max) if whole else (*_ALL_BITS, *_LARGEST)
        for mark in marks if stored.dtype.itemsize > 1 else ():
            none |= stored == mark
    return none


def read_stored(path: Path) -> np.ndarray:
    """(H, W) numbers as a depth file holds them. Raises ImageProblem."""
    reader = next((reader for ending, reader in ENCODINGS.items() if path.name.lower().endswith(ending)), None)
    if reader is None and path.parent.name == "depth" and (path.parent.parent / "annotations.json").is_file():
        reader = _navi
    if reader is None:
        return read_map(path, "depth")
    if not path.is_file():
        raise ImageProblem(path, "no such file")
    try:
        values = np.asarray(reader(path))
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageProblem(path, f"cannot be read as a depth map: {error}") from error
    if values.ndim != 2:
        raise ImageProblem(path, f"a depth map has one channel, this file has shape {values.shape}")
    return values


def open_hdf5(path: Path) -> Any:
    """An open h5py file. Raises UserError without h5py."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} is an HDF5 file, which needs h5py: pip install 'manyview[datasets]'") from None
    return h5py.File(path, "r")


def planar_from_distance(distance: np.ndarray, focal: float) -> np.ndarray:
    """(H, W) distances to the optical centre -> depth along the axis, for a centred axis and `focal` pixels."""
    height, width = distance.shape
    x = (np.arange(width) + 0.5 - width / 2)[None] / focal
    y = (np.arange(height) + 0.5 - height / 2)[:, None] / focal
    return distance / np.sqrt(1 + x * x + y * y)


def _hypersim(path: Path) -> np.ndarray:
    with open_hdf5(path) as file:
        distance = np.asarray(file["dataset"], np.float32)
    return planar_from_distance(distance, 3**0.5 * distance.shape[1] / 2)  # 60 degrees across


def _megadepth(path: Path) -> np.ndarray:
    with open_hdf5(path) as file:
        return np.asarray(file["depth"], np.float32)


def _co3d(path: Path) -> np.ndarray:
    """Half floats in a 16-bit PNG; what the mask beside it (depth_masks) leaves out is unreliable."""
    values = read_map(path, "depth").astype(np.uint16).view(np.float16)
    mask = path.parent.parent / "depth_masks" / f"{path.name.split('.')[0]}.png"
    return np.where(read_map(mask, "mask") > 0, values, 0) if mask.is_file() else values


def _navi(path: Path) -> np.ndarray:
    """Millimetres of inverse depth in a 16-bit PNG: 655350 / stored (evals/datasets/utils.py of mbanani/probe3d)."""
    stored = read_map(path, "depth").astype(np.float32)
    return np.where(stored > 0, 655350 / np.maximum(stored, 1), 0)


def _pfm(path: Path) -> np.ndarray:
    """Portable float map of one channel; its rows are stored from the bottom up."""
    with path.open("rb") as file:
        kind, size, order = (file.readline().strip() for _ in range(3))
        if kind != b"Pf":
            raise ValueError(f"it begins with {kind[:8]!r}, not Pf")
        width, height = (int(word) for word in size.split())
        values = np.frombuffer(file.read(), "<f4" if float(order) < 0 else ">f4")
    return values.reshape(height, width)[::-1]


def _exr(path: Path) -> np.ndarray:
    """One channel of an OpenEXR file: by OpenCV if it can, else by the package OpenEXR."""
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    import cv2

    if cv2.haveImageReader(str(path)):
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ValueError("damaged")
        return values if values.ndim == 2 else values[..., -1]
    try:
        import OpenEXR
    except ImportError:
        raise UserError(
            f"{path} is an OpenEXR file, which this OpenCV cannot read; pip install 'manyview[datasets]'"
        ) from None
    with OpenEXR.File(str(path)) as file:
        channels = file.channels()
        return np.asarray(next(iter(channels.values())).pixels)


ENCODINGS: dict[str, Callable[[Path], np.ndarray]] = {
    ".depth_meters.hdf5": _hypersim,  # README of apple/ml-hypersim: distances, dataset named "dataset"
    ".h5": _megadepth,  # megadepth_utils of mihaidusmanu/d2-net, naver/dust3r: dataset named "depth"
    ".geometric.png": _co3d,  # CO3D, datasets_preprocess/preprocess_co3d.py of naver/dust3r, depth_masks too
    ".pfm": _pfm,  # BlendedMVS, datasets_preprocess/preprocess_blendedMVS.py of naver/dust3r
    ".exr": _exr,  # MVS-Synth, Habitat
}
