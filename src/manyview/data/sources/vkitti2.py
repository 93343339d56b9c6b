"""Virtual KITTI 2: `SceneNN/VARIATION/frames/{rgb,depth}/Camera_C/{rgb,depth}_FFFFF`, text files of cameras.

Layout: training/data/datasets/vkitti.py of github.com/facebookresearch/vggt (`extrinsic.txt` and
`intrinsic.txt` with one header line, columns frame, camera, then 16 numbers world to camera with OpenCV axes or
fx fy cx cy; depth in centimetres). The tars unpack beside each other or into vkitti_2.0.3_{rgb,depth,textgt}
folders; both are found. The stored principal point (620.5, 187 of 1242x375) counts pixel centres from 0. Sky is
stored as 65535, 655.35 m. Each variation and camera is a scene; both cameras of one share a name but for it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import full, inverse, numbers
from manyview.data.sources.rows import Collector, Row, images_of, need_scenes

_PARTS = ("", "vkitti_2.0.3_rgb", "vkitti_2.0.3_depth", "vkitti_2.0.3_textgt")


@SOURCES.add("vkitti2")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder the tar files were unpacked into."""
    data = Collector(src, options, "vkitti2")
    folders = [
        path for part in _PARTS for path in sorted((data.root / part).glob("Scene*/*/frames/rgb/Camera_*"))
    ]
    for folder in need_scenes(folders, src, "SceneNN/VARIATION/frames/rgb/Camera_C folder"):
        *_, world, variation, _, _, camera = folder.parts
        number = int(camera.rsplit("_", 1)[1])
        texts = _find(data.root, f"{world}/{variation}/extrinsic.txt").parent
        poses = data.read(texts / "extrinsic.txt", partial(_columns, camera=number)) or {}
        lenses = data.read(texts / "intrinsic.txt", partial(_columns, camera=number)) or {}
        rows = []
        for image in images_of(folder):
            frame = int(image.stem.rsplit("_", 1)[1])
            depth = _find(data.root, f"{world}/{variation}/frames/depth/{camera}/depth_{frame:05d}.png")
            rows.append(
                Row(
                    image=data.below(image),
                    name=f"{frame:05d}",
                    camera=_shifted(lenses.get(frame)),
                    cam2world=inverse(full(poses[frame])) if frame in poses else None,
                    depth=data.below(depth),
                    depth_scale=0.01,
                )
            )
        data.add(f"{world}/{variation}/{camera}", rows)
    return data.found


def _find(root: Path, relative: str) -> Path:
    """The file in whichever of the unpacked folders has it, or where it would be."""
    paths = [root / part / relative for part in _PARTS]
    return next((path for path in paths if path.exists()), paths[0])


def _columns(path: Path, camera: int) -> dict[int, np.ndarray]:
    """Frame -> the numbers after frame and camera, of one camera."""
    return {int(line[0]): np.array(line[2:]) for line in numbers(path, skip=1) if int(line[1]) == camera}


def _shifted(lens: np.ndarray | None) -> tuple[float, float, float, float] | None:
    if lens is None:
        return None
    fx, fy, cx, cy = lens.tolist()
    return fx, fy, cx + 0.5, cy + 0.5
