"""UnrealStereo4K: `NNNNN/{Image0,Image1,Disp0,Disp1,Extrinsics0,Extrinsics1}/FFFFF`.

Layout: data_processing/wai_processing/scripts/conversion/unrealstereo4k.py of github.com/facebookresearch/map-anything
(`ExtrinsicsC/F.txt`: a line of 9 numbers, the intrinsics, and a line of 12, world to camera; the world is left-handed,
so its y axis is turned over here). Disparities are not turned into depth. Pixel centres: taken as +0.5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import full, inverse, numbers, unmirrored
from manyview.data.sources.rows import Collector, Row, camera_from_matrix, images_of, need_scenes


@SOURCES.add("unreal4k")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of scenes, or one scene; both cameras are in it."""
    data = Collector(src, options, "unreal4k")
    found = sorted({path.parent for pattern in ("Image0", "*/Image0") for path in data.root.glob(pattern)})
    for scene in need_scenes(found, src, "NNNNN/Image0 folder"):
        rows = []
        for camera in "01":
            for image in images_of(scene / f"Image{camera}"):
                file = scene / f"Extrinsics{camera}" / f"{image.stem}.txt"
                lens, pose = data.read(file, _camera) or (None, None)
                name = f"{image.stem}_{camera}"
                rows.append(Row(image=data.below(image), name=name, camera=lens, cam2world=pose))
        data.add(data.root.name if scene == data.root else data.below(scene), rows)
    return data.found


def _camera(path: Path) -> tuple[tuple[float, float, float, float], np.ndarray]:
    lens, pose = numbers(path)
    matrix = np.array(lens).reshape(3, 3)
    return camera_from_matrix(matrix, centre=0.5), unmirrored(inverse(full(np.array(pose))))
