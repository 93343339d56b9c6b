"""BlendedMVS, + and ++: `PID/{blended_images,cams,rendered_depth_maps}` in MVSNet's form.

Layout: README of github.com/YoYo000/BlendedMVS ("Dataset Structure"; `_masked` images are copies and left out);
camera files as datasets_preprocess/preprocess_blendedMVS.py of github.com/naver/dust3r reads them: the word
extrinsic, 4x4 world to camera, the word intrinsic, 3x3. Scale is arbitrary. Pixel centres: not said, taken as
+0.5. MuM cuts scenes in order every 100 frames (paper) or not at all (released code, and here).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import inverse
from manyview.data.sources.rows import (
    Collector,
    Row,
    camera_from_matrix,
    find_folders,
    images_of,
    need_scenes,
)


@SOURCES.add("blendedmvs")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of scenes, or one scene."""
    data = Collector(src, options, "blendedmvs")
    folders = find_folders(data.root, lambda name: name == "blended_images")
    for folder in need_scenes(folders, src, "PID/blended_images folder"):
        scene = folder.parent
        rows = []
        for image in images_of(folder):
            if image.stem.endswith("_masked"):
                continue
            camera, pose = data.read(scene / "cams" / f"{image.stem}_cam.txt", _camera) or (None, None)
            depth = data.below(scene / "rendered_depth_maps" / f"{image.stem}.pfm")
            rows.append(Row(image=data.below(image), camera=camera, cam2world=pose, depth=depth))
        data.add(scene.name, rows)
    return data.found


def _camera(path: Path) -> tuple[tuple[float, float, float, float], np.ndarray]:
    words = path.read_text().split()
    if words[0] != "extrinsic" or words[17] != "intrinsic":
        raise ValueError("it is no MVSNet camera file (extrinsic, 16 numbers, intrinsic, 9 numbers)")
    world2cam = np.array(words[1:17], np.float64).reshape(4, 4)
    lens = np.array(words[18:27], np.float64).reshape(3, 3)
    return camera_from_matrix(lens, centre=0.5), inverse(world2cam)
