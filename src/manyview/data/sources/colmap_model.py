"""Reading a COLMAP sparse model, text or binary: cameras, poses and which 3D points each image sees.

Files and fields: colmap.github.io/format.html (cameras, images, points3D, as .txt or .bin). Pixel centres lie
at +0.5 there as here. Poses are world to camera, quaternion real part first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from manyview.data.sources.poses import inverse, rigid, rotation_from_quaternion

_MODELS = {  # number in binary files: name, how many parameters
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


@dataclass(frozen=True)
class ColmapCamera:
    model: str
    size: tuple[int, int]  # width, height
    parameters: tuple[float, ...]

    @property
    def pinhole(self) -> tuple[float, float, float, float] | None:
        """fx, fy, cx, cy, distortion left aside; None for fisheye models, which have no pinhole near them."""
        if "FISHEYE" in self.model or self.model == "FOV":
            return None
        if self.model in _ONE_FOCAL:
            focal, cx, cy = self.parameters[:3]
            return focal, focal, cx, cy
        fx, fy, cx, cy = self.parameters[:4]
        return fx, fy, cx, cy

    @property
    def distorted(self) -> bool:
        return any(self.parameters[3 if self.model in _ONE_FOCAL else 4 :])


@dataclass(frozen=True)
class Photo:
    name: str
    camera: int
    cam2world: np.ndarray  # (4, 4)
    points: np.ndarray  # (P,) int64, the 3D points it sees, sorted, each once


@dataclass(frozen=True)
class Model:
    cameras: dict[int, ColmapCamera]
    photos: list[Photo]


def is_model(folder: Path) -> bool:
    return any((folder / f"images.{kind}").is_file() for kind in ("bin", "txt"))


def read_model(folder: Path) -> Model:
    """cameras and images of a model's folder. Raises FileNotFoundError, or ValueError for damaged files."""
    if (folder / "images.bin").is_file():
        return Model(_binary(folder / "cameras.bin", _cameras), _binary(folder / "images.bin", _photos))
    return Model(_text_cameras(folder / "cameras.txt"), _text_photos(folder / "images.txt"))


def _photo(name: str, camera: int, pose: tuple[float, ...], points: np.ndarray) -> Photo:
    world2cam = rigid(rotation_from_quaternion(pose[:4]), pose[4:7])
    seen = np.unique(points.astype(np.int64))
    return Photo(name, camera, inverse(world2cam), seen[seen >= 0])


def _binary(path: Path, reader):  # type: ignore[no-untyped-def]
    with path.open("rb") as file:
        try:
            return reader(file)
        except struct.error:
            raise ValueError(f"{path} ends in the middle") from None


def _unpack(file: BinaryIO, form: str) -> tuple:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _cameras(file: BinaryIO) -> dict[int, ColmapCamera]:
    cameras = {}
    for _ in range(_unpack(file, "Q")[0]):
        number, model, width, height = _unpack(file, "iiQQ")
        if model not in _MODELS:
            raise ValueError(f"unknown camera model {model}")
        name, count = _MODELS[model]
        cameras[number] = ColmapCamera(name, (width, height), _unpack(file, f"{count}d"))
    return cameras


def _photos(file: BinaryIO) -> list[Photo]:
    photos = []
    for _ in range(_unpack(file, "Q")[0]):
        _, *pose, camera = _unpack(file, "i7di")
        name = bytearray()
        while (letter := _unpack(file, "c")[0]) != b"\0":
            name += letter
        count = _unpack(file, "Q")[0]
        data = file.read(24 * count)
        if len(data) < 24 * count:
            raise ValueError(f"{file.name} ends in the middle")
        points = np.frombuffer(data, np.dtype([("xy", "<f8", 2), ("point", "<i8")]))["point"]
        photos.append(_photo(name.decode(), camera, tuple(pose), points))
    return photos


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def _text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for words in (line.split() for line in _lines(path) if line.strip()):
        parameters = tuple(float(word) for word in words[4:])
        cameras[int(words[0])] = ColmapCamera(words[1], (int(words[2]), int(words[3])), parameters)
    return cameras


def _text_photos(path: Path) -> list[Photo]:
    """Two lines per image; the second, its points, may be empty."""
    lines = _lines(path)
    while lines and not lines[0].strip():
        lines.pop(0)
    photos = []
    for first, second in zip(lines[::2], [*lines[1::2], ""], strict=False):
        if not first.strip():
            break
        _, *pose, camera, name = first.split(maxsplit=9)
        points = np.array(second.split()[2::3], np.int64)
        photos.append(_photo(name.strip(), int(camera), tuple(float(word) for word in pose), points))
    return photos
