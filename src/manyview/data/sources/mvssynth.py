"""MVS-Synth: `NNNN/{images,depths,poses}/FFFF.{png,exr,json}`, rendered by a game.

Layout: data_processing/wai_processing/scripts/conversion/mvs_synth.py of github.com/facebookresearch/map-anything
(`extrinsic` is 4x4 world to camera; the world is left-handed, so its y axis is turned over here; f_x f_y c_x c_y;
depth along the axis with infinity for sky). Lengths stay the file's own: that source divides by 10 for metres,
judged by the length of cars. Pixel centres: not said, taken as +0.5. Depth needs a reader of OpenEXR files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import full, inverse, unmirrored
from manyview.data.sources.rows import Camera, Row


@SOURCES.add("mvssynth")
@reader("NNNN folder with images and poses")
def scenes(src: Source) -> Scenes:
    """The folder of numbered sequences, or one sequence."""
    for poses in src.folders("poses", "*/poses", "*/*/poses"):
        scene = poses.parent
        rows = []
        for image in images_of(scene / "images"):
            camera = src.read(poses / f"{image.stem}.json", _camera)
            rows.append(Row(image=image, camera=camera, depth=scene / "depths" / f"{image.stem}.exr"))
        yield src.name(scene), rows


def _camera(path: Path) -> Camera:
    content = json.loads(path.read_text())
    fx, fy, cx, cy = (float(content[key]) for key in ("f_x", "f_y", "c_x", "c_y"))
    world2cam = full(np.array(content["extrinsic"], np.float64))
    return Camera((fx, fy, cx, cy), unmirrored(inverse(world2cam)))
