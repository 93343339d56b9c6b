"""WildRGB-D: `CATEGORY/scenes/scene_ID/{rgb,depth,masks}/FRAME.png`, `metadata`, `cam_poses.txt`.

Layout: README of github.com/wildrgbd/wildrgbd (folders, depth / 1000 = metres, OpenCV cam2world per line after
the frame's number; it writes `scenes_ID`). That `metadata` is JSON with w, h and K stored column by column:
datasets_preprocess/preprocess_wildrgbd.py of github.com/naver/dust3r. Pixel centres: not said, taken as +0.5.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import full, numbers
from manyview.data.sources.rows import Camera, Row, lens_of


@SOURCES.add("wildrgbd")
@reader("CATEGORY/scenes/SCENE/rgb folder", metric=True)
def scenes(src: Source) -> Scenes:
    """The data set's folder, a category's, or one scene's."""
    for folder in src.folders("rgb", "*/rgb", "*/*/rgb", "*/*/*/rgb"):
        scene = folder.parent
        camera = src.read(scene / "metadata", _camera) or Camera()
        poses = src.read(scene / "cam_poses.txt", _poses) or {}
        rows = []
        for image in images_of(folder):
            pose = poses.get(int(image.stem)) if image.stem.isdigit() else None
            placed = replace(camera, cam2world=pose)
            depth = scene / "depth" / f"{image.stem}.png"
            rows.append(Row(image=image, camera=placed, depth=depth, depth_scale=0.001))
        yield "/".join(part for part in src.name(scene).split("/") if part != "scenes"), rows


def _camera(path: Path) -> Camera:
    content = json.loads(path.read_text())
    matrix = np.array(content["K"], np.float64).reshape(3, 3).T
    return Camera(lens_of(matrix), size=(content["w"], content["h"]))


def _poses(path: Path) -> dict[int, np.ndarray]:
    return {int(line[0]): full(np.array(line[1:])) for line in numbers(path)}
