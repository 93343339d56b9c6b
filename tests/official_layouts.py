"""Three known cameras and points they see, for tests that write data sets in their official layouts.

Everything here is in this package's conventions; a test turns it into a layout's own by formulas of its own, so
that a reader is judged by where the points fall in its cameras, not by repeating its code.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

SIZE = (64, 48)  # width, height
LENS = np.array([[50.0, 0, 33.25], [0, 52.0, 22.75], [0, 0, 1]])  # pixel centres at +0.5
POINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
GL = np.diag([1.0, -1, -1, 1])


def _cameras() -> list[np.ndarray]:
    """cam2world of cameras 4 units away that look at the origin, each rolled differently."""
    found = []
    for turn in ((10, 20, 30), (-15, 5, -60), (15, -20, 100)):
        rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, rotation @ [0, 0, -4.0]
        found.append(pose)
    return found


CAM2WORLD = _cameras()
WORLD2CAM = [np.linalg.inv(pose) for pose in CAM2WORLD]


def pixels(pose: np.ndarray, lens: np.ndarray = LENS, points: np.ndarray = POINTS) -> np.ndarray:
    """(N, 2) pixels of world points."""
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    return (camera[:, :2] / camera[:, 2:]) * lens[[0, 1], [0, 1]] + lens[:2, 2]


def check_cameras(frames, *, lens: np.ndarray = LENS, unit: float = 1.0, tolerance: float = 1e-3) -> None:
    """Frames 0, 1, 2 see the points where the true cameras do. `unit`: the reader's lengths per ours."""
    assert len(frames) == 3
    for frame, pose in zip(frames, CAM2WORLD, strict=True):
        assert frame.intrinsics is not None
        assert frame.pose is not None
        seen = pixels(frame.pose, frame.intrinsics, POINTS * unit)
        assert np.abs(seen - pixels(pose, lens)).max() < tolerance
        assert np.allclose(frame.intrinsics, lens, atol=tolerance)


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """A small image that differs from file to file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.as_posix().encode())
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def map16(path: Path, value: int, size: tuple[int, int] = SIZE) -> Path:
    """A 16-bit PNG of one number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), value, np.uint16)).save(path)
    return path


def text(path: Path, *lines: object) -> Path:
    """Lines of words or numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [line if isinstance(line, str) else " ".join(str(word) for word in np.ravel(line)) for line in lines]
    path.write_text("\n".join(written) + "\n")
    return path


def quaternion(rotation: np.ndarray) -> list[float]:
    """Real part first."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return [w, x, y, z]


def colmap_text(folder: Path, names: list[str], seen: list[list[int]] | None = None, *, camera: str) -> None:
    """A text model of one camera (the words after its number) and images with these world2cam poses."""
    text(folder / "cameras.txt", "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", f"1 {camera}")
    lines = ["# Image list with two lines of data per image:"]
    for i, name in enumerate(names):
        pose = WORLD2CAM[i % 3]
        words = [*quaternion(pose[:3, :3]), *pose[:3, 3]]
        lines.append(f"{i + 1} {' '.join(map(str, words))} 1 {name}")
        lines.append(" ".join(f"1.5 2.5 {point}" for point in (seen[i] if seen else [])))
    text(folder / "images.txt", *lines)


def colmap_binary(
    folder: Path,
    names: list[str],
    seen: list[list[int]],
    *,
    model: int,
    numbers: list[float],
    world2cam: list[np.ndarray] = WORLD2CAM,
) -> None:
    """The same in binary."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = struct.pack("<QiiQQ", 1, 1, model, *SIZE) + struct.pack(f"<{len(numbers)}d", *numbers)
    (folder / "cameras.bin").write_bytes(cameras)
    data = struct.pack("<Q", len(names))
    for i, name in enumerate(names):
        pose = world2cam[i % len(world2cam)]
        data += struct.pack("<i7di", i + 1, *quaternion(pose[:3, :3]), *pose[:3, 3], 1) + name.encode() + b"\0"
        data += struct.pack("<Q", len(seen[i]))
        data += b"".join(struct.pack("<ddq", 1.5, 2.5, point) for point in seen[i])
    (folder / "images.bin").write_bytes(data)
