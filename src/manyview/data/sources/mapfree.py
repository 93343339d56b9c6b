"""Niantic Map-free: `{train,val,test}/sNNNNN/{seq0,seq1}/frame_NNNNN.jpg`, poses.txt, intrinsics.txt.

Layout: README of github.com/nianticlabs/map-free-reloc ("Organization"): per line the frame's path, then fx fy cx
cy width height, or qw qx qy qz tx ty tz of world to camera in metres; lines of zeros are poses kept secret.
Pixel centres: not said, taken as +0.5.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import inverse, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Camera, Row


@SOURCES.add("mapfree")
@reader("sNNNNN folder with seq0", metric=True)
def scenes(src: Source) -> Scenes:
    """The folder with train, val and test, one of these, or one scene; both sequences are one scene."""
    for scene in [path for path in [src.root, *src.folders("**/s*")] if (path / "seq0").is_dir()]:
        lenses = src.read(scene / "intrinsics.txt", _table) or {}
        poses = src.read(scene / "poses.txt", _table) or {}
        split = scene.parent.name if scene.parent.name in ("train", "val", "test") else ""
        rows = []
        for image in [image for part in sorted(scene.glob("seq*")) for image in images_of(part)]:
            part = image.parent.name
            key = f"{part}/{image.name}"
            camera = _camera(lenses.get(key), poses.get(key))
            rows.append(Row(image=image, name=f"{part}/{image.stem}", camera=camera, split=split))
        yield scene.name, rows


def _table(path: Path) -> dict[str, list[float]]:
    lines = (line.split() for line in path.read_text().splitlines() if not line.startswith("#"))
    return {words[0]: [float(word) for word in words[1:]] for words in lines if words}


def _camera(lens: list[float] | None, pose: list[float] | None) -> Camera:
    cam2world = None
    if pose and any(pose[:4]):
        cam2world = inverse(rigid(rotation_from_quaternion(pose[:4]), pose[4:7]))
    if lens is None:
        return Camera(None, cam2world)
    fx, fy, cx, cy, width, height = lens[:6]
    return Camera((fx, fy, cx, cy), cam2world, (width, height))
