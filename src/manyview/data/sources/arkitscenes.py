"""ARKitScenes (3dod and raw): `{Training,Validation}/VIDEO/[VIDEO_frames/]lowres_wide` and what goes with it.

Layout: DATA.md, raw/README.md and threedod/benchmark_scripts/utils/tenFpsDataLoader.py of
github.com/apple/ARKitScenes (VIDEO_TIME.png; .pincam: w h fx fy cx cy, named up to 1 ms apart; .traj: time,
axis-angle and translation of world to camera; a pose counts for images within 5 ms; depth in millimetres; that
code back-projects whole pixel numbers, so pixel centres count from 0). MuM cuts the videos every 75 frames.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import inverse, numbers, rigid
from manyview.data.sources.rows import Camera, Row

_NEAR = 0.005  # seconds
_SPLITS = {"Training": "train", "Validation": "val"}


@SOURCES.add("arkitscenes")
@reader("VIDEO/lowres_wide folder", chunk=75, metric=True)
def scenes(src: Source) -> Scenes:
    """The download folder, a split, or one video."""
    for folder in src.folders_named("lowres_wide".__eq__):
        video = folder.parent
        poses = src.read(video / "lowres_wide.traj", _poses) or {}
        times = np.array(sorted(poses))
        lenses = {path.stem: path for path in (video / "lowres_wide_intrinsics").glob("*.pincam")}
        split = next((name for part, name in _SPLITS.items() if part in folder.parts), "")
        rows = []
        for image in images_of(folder):
            name, _, stamp = image.stem.rpartition("_")
            time = float(stamp)
            file = next((lenses[key] for key in _close(name, time) if key in lenses), None)
            camera = (src.read(file, _camera) if file else None) or Camera()
            nearest = times[np.abs(times - time).argmin()] if len(times) else np.inf
            pose = poses[nearest] if abs(nearest - time) < _NEAR else None
            camera = replace(camera, cam2world=pose)
            depth = video / "lowres_depth" / image.name
            rows.append(Row(image=image, name=stamp, camera=camera, depth=depth, depth_scale=0.001, split=split))
        yield video.name.removesuffix("_frames"), rows


def _close(name: str, time: float) -> list[str]:
    return [f"{name}_{time + shift:.3f}" for shift in (0.0, -0.001, 0.001)]


def _camera(path: Path) -> Camera:
    width, height, fx, fy, cx, cy = numbers(path)[0]
    return Camera((fx, fy, cx + 0.5, cy + 0.5), size=(width, height))


def _poses(path: Path) -> dict[float, np.ndarray]:
    """Time -> cam2world."""
    from scipy.spatial.transform import Rotation

    lines = numbers(path)
    turns = Rotation.from_rotvec([line[1:4] for line in lines]).as_matrix()
    return {line[0]: inverse(rigid(turn, line[4:7])) for line, turn in zip(lines, turns, strict=True)}
