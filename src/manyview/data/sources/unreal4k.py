"""UnrealStereo4K: `NNNNN/{Image0,Image1,Disp0,Disp1,Extrinsics0,Extrinsics1}/FFFFF`.

Layout: data_processing/wai_processing/scripts/conversion/unrealstereo4k.py of github.com/facebookresearch/map-anything
(`ExtrinsicsC/F.txt`: a line of 9 numbers, the intrinsics, and a line of 12, world to camera; the world is left-handed,
so its y axis is turned over here). Disparities are not turned into depth. Pixel centres: taken as +0.5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import full, inverse, numbers, unmirrored
from manyview.data.sources.rows import Camera, Row, lens_of


@SOURCES.add("unreal4k")
@reader("NNNNN/Image0 folder")
def scenes(src: Source) -> Scenes:
    """The folder of scenes, or one scene; both cameras are in it."""
    for folder in src.folders("Image0", "*/Image0"):
        scene = folder.parent
        rows = []
        for number in "01":
            for image in images_of(scene / f"Image{number}"):
                camera = src.read(scene / f"Extrinsics{number}" / f"{image.stem}.txt", _camera)
                rows.append(Row(image=image, name=f"{image.stem}_{number}", camera=camera))
        yield src.name(scene), rows


def _camera(path: Path) -> Camera:
    lens, pose = numbers(path)
    return Camera(lens_of(np.array(lens).reshape(3, 3)), unmirrored(inverse(full(np.array(pose)))))
