"""ARKitScenes (3dod and raw): `{Training,Validation}/VIDEO/[VIDEO_frames/]lowres_wide` and what goes with it.

Layout: DATA.md, raw/README.md and threedod/benchmark_scripts/utils/tenFpsDataLoader.py of
github.com/apple/ARKitScenes (VIDEO_TIME.png; .pincam: w h fx fy cx cy, named up to 1 ms apart; .traj: time,
axis-angle and translation of world to camera; a pose counts for images within 5 ms; depth in millimetres; that
code back-projects whole pixel numbers, so pixel centres count from 0). MuM cuts the videos every 75 frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import inverse, numbers, rigid
from manyview.data.sources.rows import Collector, Row, find_folders, images_of, need_scenes

CHUNK = 75
_NEAR = 0.005  # seconds
_SPLITS = {"Training": "train", "Validation": "val"}


@SOURCES.add("arkitscenes")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The download folder, a split, or one video."""
    data = Collector(src, options, "arkitscenes")
    folders = find_folders(data.root, lambda name: name == "lowres_wide")
    for folder in need_scenes(folders, src, "VIDEO/lowres_wide folder"):
        video = folder.parent
        poses = data.read(video / "lowres_wide.traj", _poses) or {}
        lenses = {path.stem: path for path in (video / "lowres_wide_intrinsics").glob("*.pincam")}
        times = np.array(sorted(poses))
        rows = []
        for image in images_of(folder):
            name, _, stamp = image.stem.rpartition("_")
            time = float(stamp)
            lens = next((lenses[key] for key in _close(name, time) if key in lenses), None)
            camera, size = (data.read(lens, _camera) if lens else None) or (None, None)
            nearest = times[np.abs(times - time).argmin()] if len(times) else np.inf
            rows.append(
                Row(
                    image=data.below(image),
                    name=stamp,
                    camera=camera,
                    camera_size=size,
                    cam2world=poses[nearest] if abs(nearest - time) < _NEAR else None,
                    depth=data.below(video / "lowres_depth" / image.name),
                    depth_scale=0.001,
                    split=next((s for part, s in _SPLITS.items() if part in folder.parts), ""),
                )
            )
        data.add(video.name.removesuffix("_frames"), rows)
    data.found.info["chunk"] = CHUNK
    return data.found


def _close(name: str, time: float) -> list[str]:
    return [f"{name}_{time + shift:.3f}" for shift in (0.0, -0.001, 0.001)]


def _camera(path: Path) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    width, height, fx, fy, cx, cy = numbers(path)[0]
    return (fx, fy, cx + 0.5, cy + 0.5), (width, height)


def _poses(path: Path) -> dict[float, np.ndarray]:
    """Time -> cam2world."""
    from scipy.spatial.transform import Rotation

    lines = numbers(path)
    turns = Rotation.from_rotvec([line[1:4] for line in lines]).as_matrix()
    return {line[0]: inverse(rigid(turn, line[4:7])) for line, turn in zip(lines, turns, strict=True)}
