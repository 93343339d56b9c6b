"""Depth files of foreign layouts: HDF5, PFM, OpenEXR, float numbers hidden in 8 or 16-bit PNGs.

Everything comes out as `manyview.images.reading.read_plain_depth` gives it: (H, W) float32 along the optical axis, 0 =
none. Which encoding a file has is told by its name, as the data sets name them; each line of ENCODINGS says
where that is from. h5py (and OpenEXR, where OpenCV was built without it) are optional and imported here only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.images.reading import ImageProblem, read_plain_depth


def read_depth(path: str | Path, scale: float) -> np.ndarray:
    """(H, W) float32 depth along the optical axis, 0 = none: stored values * `scale`. Raises ImageProblem."""
    path = Path(path)
    reader = next((reader for ending, reader in ENCODINGS.items() if path.name.lower().endswith(ending)), None)
    if reader is None:
        return read_plain_depth(path, scale)
    if not path.is_file():
        raise ImageProblem(path, "no such file")
    try:
        values = np.asarray(reader(path), np.float32)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageProblem(path, f"cannot be read as a depth map: {error}") from error
    if values.ndim != 2:
        raise ImageProblem(path, f"a depth map has one channel, this file has shape {values.shape}")
    values = values * np.float32(scale)
    values[~(np.isfinite(values) & (values > 0))] = 0
    return values


def open_hdf5(path: Path) -> Any:
    """An open h5py file. Raises UserError without h5py."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} is an HDF5 file, which needs the optional package h5py; pip install h5py") from None
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


def _half_float_png(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image).astype(np.uint16).view(np.float16)


def _sevenscenes(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        values = np.asarray(image).astype(np.float32)
    return np.where(values == 65535, 0, values)


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
        raise UserError(f"{path} is an OpenEXR file, which this OpenCV cannot read; pip install OpenEXR") from None
    with OpenEXR.File(str(path)) as file:
        channels = file.channels()
        return np.asarray(next(iter(channels.values())).pixels)


ENCODINGS: dict[str, Callable[[Path], np.ndarray]] = {
    ".depth_meters.hdf5": _hypersim,  # README of apple/ml-hypersim: distances, dataset named "dataset"
    ".h5": _megadepth,  # megadepth_utils of mihaidusmanu/d2-net, naver/dust3r: dataset named "depth"
    ".geometric.png": _half_float_png,  # CO3D, datasets_preprocess/preprocess_co3d.py of naver/dust3r
    ".depth.png": _sevenscenes,  # 7-Scenes: 65535 for none
    ".depth.proj.png": _sevenscenes,
    ".pfm": _pfm,  # BlendedMVS, datasets_preprocess/preprocess_blendedMVS.py of naver/dust3r
    ".exr": _exr,  # MVS-Synth, Habitat
}
