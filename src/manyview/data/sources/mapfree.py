"""Niantic Map-free: `{train,val,test}/sNNNNN/{seq0,seq1}/frame_NNNNN.jpg`, poses.txt, intrinsics.txt.

Layout: README of github.com/nianticlabs/map-free-reloc ("Organization"): per line the frame's path, then fx fy cx
cy width height, or qw qx qy qz tx ty tz of world to camera in metres; lines of zeros are poses kept secret.
Pixel centres: not said, taken as +0.5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import inverse, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Collector, Row, folders_of, images_of, need_scenes


@SOURCES.add("mapfree")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder with train, val and test, one of these, or one scene; both sequences are one scene."""
    data = Collector(src, options, "mapfree")
    folders = [path for path in [data.root, *folders_of(data.root, "**/s*")] if (path / "seq0").is_dir()]
    for scene in need_scenes(folders, src, "sNNNNN folder with seq0"):
        lenses = data.read(scene / "intrinsics.txt", _table) or {}
        poses = data.read(scene / "poses.txt", _table) or {}
        rows = []
        for part in folders_of(scene, "seq*"):
            for image in images_of(part):
                key = f"{part.name}/{image.name}"
                lens = lenses.get(key)
                rows.append(
                    Row(
                        image=data.below(image),
                        name=f"{part.name}/{image.stem}",
                        camera=None if lens is None else (lens[0], lens[1], lens[2], lens[3]),
                        camera_size=None if lens is None else (lens[4], lens[5]),
                        cam2world=_pose(poses.get(key)),
                        split=scene.parent.name if scene.parent.name in ("train", "val", "test") else "",
                    )
                )
        data.add(scene.name, rows)
    return data.found


def _table(path: Path) -> dict[str, list[float]]:
    lines = (line.split() for line in path.read_text().splitlines() if not line.startswith("#"))
    return {words[0]: [float(word) for word in words[1:]] for words in lines if words}


def _pose(values: list[float] | None) -> np.ndarray | None:
    if not values or not any(values[:4]):
        return None
    return inverse(rigid(rotation_from_quaternion(values[:4]), values[4:7]))
