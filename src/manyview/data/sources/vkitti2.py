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

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import full, inverse, numbers
from manyview.data.sources.rows import Camera, Row

_PARTS = ("", "vkitti_2.0.3_rgb", "vkitti_2.0.3_depth", "vkitti_2.0.3_textgt")


@SOURCES.add("vkitti2")
@reader("SceneNN/VARIATION/frames/rgb/Camera_C folder", metric=True)
def scenes(src: Source) -> Scenes:
    """The folder the tar files were unpacked into."""
    for folder in src.folders(*(f"{part}/Scene*/*/frames/rgb/Camera_*".lstrip("/") for part in _PARTS)):
        *_, world, variation, _, _, camera = folder.parts
        columns = partial(_columns, camera=int(camera.rsplit("_", 1)[1]))
        texts = _find(src.root, f"{world}/{variation}/extrinsic.txt").parent
        poses = src.read(texts / "extrinsic.txt", columns) or {}
        lenses = src.read(texts / "intrinsic.txt", columns) or {}
        rows = []
        for image in images_of(folder):
            frame = int(image.stem.rsplit("_", 1)[1])
            rows.append(
                Row(
                    image=image,
                    name=f"{frame:05d}",
                    camera=_camera(lenses.get(frame), poses.get(frame)),
                    depth=_find(src.root, f"{world}/{variation}/frames/depth/{camera}/depth_{frame:05d}.png"),
                    depth_scale=0.01,
                )
            )
        yield f"{world}/{variation}/{camera}", rows


def _find(root: Path, relative: str) -> Path:
    """The file in whichever of the unpacked folders has it, or where it would be."""
    paths = [root / part / relative for part in _PARTS]
    return next((path for path in paths if path.exists()), paths[0])


def _columns(path: Path, camera: int) -> dict[int, np.ndarray]:
    """Frame -> the numbers after frame and camera, of one camera."""
    return {int(line[0]): np.array(line[2:]) for line in numbers(path, skip=1) if int(line[1]) == camera}


def _camera(lens: np.ndarray | None, world2cam: np.ndarray | None) -> Camera:
    pose = None if world2cam is None else inverse(full(world2cam))
    if lens is None:
        return Camera(None, pose)
    fx, fy, cx, cy = lens.tolist()
    return Camera((fx, fy, cx + 0.5, cy + 0.5), pose)
