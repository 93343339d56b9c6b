"""BlendedMVS, + and ++: `PID/{blended_images,cams,rendered_depth_maps}` in MVSNet's form.

Layout: README of github.com/YoYo000/BlendedMVS ("Dataset Structure"; `_masked` images are copies and left out);
camera files as datasets_preprocess/preprocess_blendedMVS.py of github.com/naver/dust3r reads them: the word
extrinsic, 4x4 world to camera, the word intrinsic, 3x3. Scale is arbitrary. Pixel centres: not said, taken as
+0.5. MuM cuts scenes in order every 100 frames (paper) or not at all (released code, and here).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import inverse
from manyview.data.sources.rows import Camera, Row, lens_of


@SOURCES.add("blendedmvs")
@reader("PID/blended_images folder")
def scenes(src: Source) -> Scenes:
    """The folder of scenes, or one scene."""
    for folder in src.folders_named("blended_images".__eq__):
        scene = folder.parent
        rows = []
        for image in images_of(folder):
            if not image.stem.endswith("_masked"):
                camera = src.read(scene / "cams" / f"{image.stem}_cam.txt", _camera)
                depth = scene / "rendered_depth_maps" / f"{image.stem}.pfm"
                rows.append(Row(image=image, camera=camera, depth=depth))
        yield scene.name, rows


def _camera(path: Path) -> Camera:
    words = path.read_text().split()
    if words[0] != "extrinsic" or words[17] != "intrinsic":
        raise ValueError("it is no MVSNet camera file (extrinsic, 16 numbers, intrinsic, 9 numbers)")
    world2cam = np.array(words[1:17], np.float64).reshape(4, 4)
    return Camera(lens_of(np.array(words[18:27], np.float64).reshape(3, 3)), inverse(world2cam))
