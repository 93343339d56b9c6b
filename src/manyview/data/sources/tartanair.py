"""TartanAir: `ENVIRONMENT/{Easy,Hard}/PNNN/{image,depth}_{left,right}` and pose_left.txt, pose_right.txt.

Layout: README.md and data_type.md of github.com/castacks/tartanair_tools (640x480, fx = fy = 320, cx = 320,
cy = 240; depth as .npy in metres; one line tx ty tz qx qy qz qw per image, camera to world, both with axes
forward, right, down). The sky is about 10000 m away. Poses are given here with OpenCV's camera axes in the same
world. Left and right cameras are scenes of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import numbers, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Collector, Row, find_folders, images_of, need_scenes

_CAMERA, _SIZE = (320.0, 320.0, 320.0, 240.0), (640.0, 480.0)
_NED = rigid(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.zeros(3))  # forward right down <- OpenCV


@SOURCES.add("tartanair")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of environments, one of them, or one trajectory."""
    data = Collector(src, options, "tartanair")
    folders = find_folders(data.root, lambda name: name in ("image_left", "image_right"))
    for folder in need_scenes(folders, src, "PNNN/image_left folder"):
        side, scene = folder.name.removeprefix("image_"), folder.parent
        poses = data.read(scene / f"pose_{side}.txt", _poses) or []
        rows = []
        for image in images_of(folder):
            index = int(image.stem.split("_")[0])
            depth = scene / f"depth_{side}" / f"{image.stem}_depth.npy"
            rows.append(
                Row(
                    image=data.below(image),
                    camera=_CAMERA,
                    camera_size=_SIZE,
                    cam2world=poses[index] if index < len(poses) else None,
                    depth=data.below(depth),
                )
            )
        name = data.root.name if scene == data.root else data.below(scene)
        data.add(f"{name}/{side}", rows)
    return data.found


def _poses(path: Path) -> list[np.ndarray]:
    found = []
    for x, y, z, qx, qy, qz, qw in numbers(path):
        found.append(rigid(rotation_from_quaternion([qw, qx, qy, qz]), [x, y, z]) @ _NED)
    return found
