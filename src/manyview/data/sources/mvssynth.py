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

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import full, inverse, unmirrored
from manyview.data.sources.rows import Collector, Row, images_of, need_scenes


@SOURCES.add("mvssynth")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of numbered sequences, or one sequence."""
    data = Collector(src, options, "mvssynth")
    folders = [
        path.parent
        for pattern in ("images", "*/images", "*/*/images")
        for path in sorted(data.root.glob(pattern))
        if (path.parent / "poses").is_dir()
    ]
    for scene in need_scenes(folders, src, "NNNN folder with images and poses"):
        rows = []
        for image in images_of(scene / "images"):
            camera, pose = data.read(scene / "poses" / f"{image.stem}.json", _camera) or (None, None)
            depth = data.below(scene / "depths" / f"{image.stem}.exr")
            rows.append(Row(image=data.below(image), camera=camera, cam2world=pose, depth=depth))
        data.add(data.root.name if scene == data.root else data.below(scene), rows)
    return data.found


def _camera(path: Path) -> tuple[tuple[float, float, float, float], np.ndarray]:
    content = json.loads(path.read_text())
    fx, fy, cx, cy = (float(content[key]) for key in ("f_x", "f_y", "c_x", "c_y"))
    return (fx, fy, cx, cy), unmirrored(inverse(full(np.array(content["extrinsic"], np.float64))))
