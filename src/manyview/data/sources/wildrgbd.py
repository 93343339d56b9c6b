"""WildRGB-D: `CATEGORY/scenes/scene_ID/{rgb,depth,masks}/FRAME.png`, `metadata`, `cam_poses.txt`.

Layout: README of github.com/wildrgbd/wildrgbd (folders, depth / 1000 = metres, OpenCV cam2world per line after
the frame's number; it writes `scenes_ID`). That `metadata` is JSON with w, h and K stored column by column:
datasets_preprocess/preprocess_wildrgbd.py of github.com/naver/dust3r. Pixel centres: not said, taken as +0.5.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import full, numbers
from manyview.data.sources.rows import Collector, Row, camera_from_matrix, images_of, need_scenes


@SOURCES.add("wildrgbd")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The data set's folder, a category's, or one scene's."""
    data = Collector(src, options, "wildrgbd")
    scenes = [
        path.parent
        for pattern in ("rgb", "*/rgb", "*/*/rgb", "*/*/*/rgb")
        for path in src.resolve().glob(pattern)
    ]
    for scene in sorted(need_scenes(scenes, src, "CATEGORY/scenes/SCENE/rgb folder")):
        camera, size = data.read(scene / "metadata", _camera) or (None, None)
        poses = data.read(scene / "cam_poses.txt", _poses) or {}
        rows = [
            Row(
                image=data.below(image),
                camera=camera,
                camera_size=size,
                cam2world=poses.get(int(image.stem)) if image.stem.isdigit() else None,
                depth=data.below(scene / "depth" / f"{image.stem}.png"),
                depth_scale=0.001,
            )
            for image in images_of(scene / "rgb")
        ]
        data.add(
            "/".join(part for part in data.below(scene).split("/") if part not in (".", "scenes"))
            or scene.name,
            rows,
        )
    return data.found


def _camera(path: Path) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    content = json.loads(path.read_text())
    matrix = np.array(content["K"], np.float64).reshape(3, 3).T
    return camera_from_matrix(matrix, centre=0.5), (content["w"], content["h"])


def _poses(path: Path) -> dict[int, np.ndarray]:
    return {int(line[0]): full(np.array(line[1:])) for line in numbers(path)}
