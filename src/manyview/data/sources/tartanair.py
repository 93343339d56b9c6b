"""TartanAir: `ENVIRONMENT/{Easy,Hard}/PNNN/{image,depth}_{left,right}` and pose_left.txt, pose_right.txt.

Layout: README.md and data_type.md of github.com/castacks/tartanair_tools (640x480, fx = fy = 320, cx = 320,
cy = 240; depth as .npy in metres; one line tx ty tz qx qy qz qw per image, camera to world, both with axes
forward, right, down). The sky is about 10000 m away. Poses are given here with OpenCV's camera axes in the same
world. Left and right cameras are scenes of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import numbers, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Camera, Row

_LENS, _SIZE = (320.0, 320.0, 320.0, 240.0), (640.0, 480.0)
_NED = rigid(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.zeros(3))  # forward right down <- OpenCV


@SOURCES.add("tartanair")
@reader("PNNN/image_left folder", metric=True)
def scenes(src: Source) -> Scenes:
    """The folder of environments, one of them, or one trajectory."""
    for folder in src.folders_named(("image_left", "image_right").__contains__):
        side, scene = folder.name.removeprefix("image_"), folder.parent
        poses = src.read(scene / f"pose_{side}.txt", _poses) or []
        rows = []
        for image in images_of(folder):
            index = int(image.stem.split("_")[0])
            camera = Camera(_LENS, poses[index] if index < len(poses) else None, _SIZE)
            depth = scene / f"depth_{side}" / f"{image.stem}_depth.npy"
            rows.append(Row(image=image, camera=camera, depth=depth))
        yield f"{src.name(scene)}/{side}", rows


def _poses(path: Path) -> list[np.ndarray]:
    return [
        rigid(rotation_from_quaternion([qw, qx, qy, qz]), [x, y, z]) @ _NED for x, y, z, qx, qy, qz, qw in numbers(path)
    ]
