"""ScanNet as its SensReader exports it: `SCENE/{color,depth,pose,intrinsic}`.

Layout: the exporter in data_processing/wai_processing/scripts/conversion/scannetv2.py of
github.com/facebookresearch/map-anything, which follows ScanNet's own (color/N.jpg, depth/N.png in millimetres,
pose/N.txt cam2world with OpenCV axes, intrinsic/intrinsic_color.txt). Poses of lost frames are -inf: these frames
have none. Full-size colour (1296x968) and depth (640x480) do not show quite the same picture; depth is only read
where colour was exported at depth's aspect. Colour intrinsics count for 1296x968. Pixel centres: taken as +0.5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.fit import same_picture
from manyview.data.images import ImageProblem, probe_image
from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import full, matrix_of
from manyview.data.sources.rows import Collector, Row, camera_from_matrix, images_of, need_scenes

_FULL = (1296, 968)


@SOURCES.add("scannet")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of scenes (scans, or what a frames archive unpacks to), or one scene."""
    data = Collector(src, options, "scannet")
    folders = [
        path.parent
        for pattern in ("color", "*/color", "*/*/color")
        for path in sorted(data.root.glob(pattern))
        if (path.parent / "pose").is_dir()
    ]
    for scene in need_scenes(folders, src, "SCENE folder with color and pose"):
        file = scene / "intrinsic" / "intrinsic_color.txt"
        file = file if file.is_file() else scene / "intrinsics_color.txt"
        lens = data.read(file, matrix_of)
        images = images_of(scene / "color")
        depth = _aligned(scene, images)
        rows = [
            Row(
                image=data.below(image),
                camera=None if lens is None else camera_from_matrix(lens, centre=0.5),
                camera_size=_FULL,
                cam2world=data.read(scene / "pose" / f"{image.stem}.txt", _pose),
                depth=data.below(scene / "depth" / f"{image.stem}.png") if depth else None,
                depth_scale=0.001,
            )
            for image in images
        ]
        data.add(data.root.name if scene == data.root else scene.name, rows)
    return data.found


def _pose(path: Path) -> np.ndarray:
    return full(matrix_of(path))


def _aligned(scene: Path, images: list[Path]) -> bool:
    """Whether the first frame's depth can show the same picture as its colour image."""
    for image in images:
        depth = scene / "depth" / f"{image.stem}.png"
        try:
            (width, height), (w, h) = probe_image(image), probe_image(depth)
        except ImageProblem:
            continue
        return same_picture((h, w), (height, width))
    return True
