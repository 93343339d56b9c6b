"""Reading a COLMAP sparse model, text or binary: cameras, poses and which 3D points each image sees.

Files and fields: colmap.github.io/format.html (cameras, images, points3D, as .txt or .bin). Pixel centres lie
at +0.5 there as here. Poses are world to camera, quaternion real part first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from manyview.data.sources.poses import inverse, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Camera

T = TypeVar("T")
Lens = tuple[Camera, bool]
"""A camera without a pose, and whether it has distortion, which is left aside."""
Entry = tuple[str, int, tuple[float, ...], np.ndarray]
"""An image's name, its camera's number, quaternion and translation, the points it sees (-1 for none)."""
_MODELS = (
    *(("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8)),
    *(("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4)),
    *(("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12)),
)
"""Name and number of parameters, in the order of their numbers in binary files."""
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


@dataclass(frozen=True)
class Photo:
    name: str
    camera: Camera
    points: np.ndarray  # (P,) int64, the 3D points it sees, sorted, each once


@dataclass(frozen=True)
class Model:
    photos: list[Photo]
    distorted: bool
    """Whether its images are not those of a pure pinhole."""


def is_model(folder: Path) -> bool:
    return any((folder / f"images.{kind}").is_file() for kind in ("bin", "txt"))


def read_model(folder: Path) -> Model:
    """The images of a model's folder. Raises FileNotFoundError, or ValueError for damaged files."""
    if (folder / "images.bin").is_file():
        cameras = _binary(folder / "cameras.bin", _cameras)
        entries = _binary(folder / "images.bin", _photos)
    else:
        cameras, entries = _text_cameras(folder / "cameras.txt"), _text_photos(folder / "images.txt")
    photos = []
    for name, number, pose, points in entries:
        camera, _ = cameras.get(number, (Camera(), False))
        world2cam = rigid(rotation_from_quaternion(pose[:4]), pose[4:7])
        seen = np.unique(points.astype(np.int64))
        photos.append(Photo(name, replace(camera, cam2world=inverse(world2cam)), seen[seen >= 0]))
    return Model(photos, any(distorted for _, distorted in cameras.values()))


def _lens(model: str, width: int, height: int, parameters: tuple[float, ...]) -> Lens:
    """Fisheye models have no pinhole near them, and no lens here."""
    (fx, fy), rest = (parameters[:2], parameters[2:])
    if model in _ONE_FOCAL:
        fy, rest = fx, parameters[1:]
    fisheye = "FISHEYE" in model or model == "FOV"
    lens = None if fisheye else (fx, fy, rest[0], rest[1])
    return Camera(lens, size=(width, height)), any(rest[2:])


def _binary(path: Path, reader: Callable[[BinaryIO], T]) -> T:
    with path.open("rb") as file:
        try:
            return reader(file)
        except struct.error:
            raise ValueError(f"{path} ends in the middle") from None


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _cameras(file: BinaryIO) -> dict[int, Lens]:
    cameras = {}
    for _ in range(_unpack(file, "Q")[0]):
        number, model, width, height = _unpack(file, "iiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"unknown camera model {model}")
        name, count = _MODELS[model]
        cameras[number] = _lens(name, width, height, _unpack(file, f"{count}d"))
    return cameras


def _photos(file: BinaryIO) -> list[Entry]:
    entries = []
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
        entries.append((name.decode(), camera, tuple(pose), points))
    return entries


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def _text_cameras(path: Path) -> dict[int, Lens]:
    cameras = {}
    for words in (line.split() for line in _lines(path) if line.strip()):
        numbers = tuple(float(word) for word in words[4:])
        cameras[int(words[0])] = _lens(words[1], int(words[2]), int(words[3]), numbers)
    return cameras


def _text_photos(path: Path) -> list[Entry]:
    """Two lines per image; the second, its points, may be empty."""
    lines = _lines(path)
    while lines and not lines[0].strip():
        lines.pop(0)
    entries = []
    for first, second in zip(lines[::2], [*lines[1::2], ""], strict=False):
        if not first.strip():
            break
        _, *pose, camera, name = first.split(maxsplit=9)
        points = np.array(second.split()[2::3], np.int64)
        entries.append((name.strip(), int(camera), tuple(float(word) for word in pose), points))
    return entries
