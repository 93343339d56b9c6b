"""DL3DV-10K: `SUBSET/SCENE/[nerfstudio/]transforms.json` with `images`, or smaller `images_2`, `_4`, `_8`.

Layout: data_processing/wai_processing/scripts/conversion/dl3dv.py of github.com/facebookresearch/map-anything
(subsets 1K to 11K, OpenGL poses, distorted images of an OPENCV camera); the `nerfstudio` folder between is that
of the benchmark release. The smallest images that are there are taken, as MuM does (images_8). Distortion is not
corrected: intrinsics are those of the pinhole part.
"""

from __future__ import annotations

from dataclasses import replace

from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.transforms_json import rows_of

_FOLDERS = ("images_8", "images_4", "images_2", "images")


@SOURCES.add("dl3dv")
@reader("SCENE/transforms.json")
def scenes(src: Source) -> Scenes:
    """The folder of subsets, a subset, or a scene."""
    src.info["distortion"] = "not corrected"
    for file in src.files_named("transforms.json".__eq__):
        folder = next((name for name in _FOLDERS if (file.parent / name).is_dir()), "images")
        scene = file.parent.parent if file.parent.name == "nerfstudio" else file.parent
        rows = [
            replace(row, image=row.image.parent.with_name(folder) / row.image.name)
            for row in rows_of(src, file, images=[file.parent])
        ]
        yield src.name(scene), rows
