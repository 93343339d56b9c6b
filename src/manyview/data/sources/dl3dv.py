"""DL3DV-10K: `SUBSET/SCENE/[nerfstudio/]transforms.json` with `images`, or smaller `images_2`, `_4`, `_8`.

Layout: data_processing/wai_processing/scripts/conversion/dl3dv.py of github.com/facebookresearch/map-anything
(subsets 1K to 11K, OpenGL poses, distorted images of an OPENCV camera); the `nerfstudio` folder between is that
of the benchmark release. The smallest images that are there are taken, as MuM does (images_8). Distortion is not
corrected: intrinsics are those of the pinhole part.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, Row, find_files, need_scenes
from manyview.data.sources.transforms_json import rows_of

_FOLDERS = ("images_8", "images_4", "images_2", "images")


@SOURCES.add("dl3dv")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of subsets, a subset, or a scene."""
    data = Collector(src, options, "dl3dv")
    files = need_scenes(
        find_files(data.root, lambda name: name == "transforms.json"), src, "SCENE/transforms.json"
    )
    for file in files:
        folder = next((name for name in _FOLDERS if (file.parent / name).is_dir()), "images")
        scene = file.parent.parent if file.parent.name == "nerfstudio" else file.parent
        rows = rows_of(data, file, images=[file.parent])
        moved = [Row(**{**vars(row), "image": _in_folder(row.image, folder)}) for row in rows]
        data.add(data.root.name if scene == data.root else data.below(scene), moved)
    data.found.info["distortion"] = "not corrected"
    return data.found


def _in_folder(image: str, folder: str) -> str:
    """`.../images/frame.png` -> `.../images_8/frame.png`."""
    head, _, name = image.rpartition("/")
    above = head.rpartition("/")[0]
    return f"{above}/{folder}/{name}" if above else f"{folder}/{name}"
