"""ScanNet++ (DSLR): `[data/]SCENE/dslr/{resized_undistorted_images,resized_images}` and `nerfstudio`.

Layout: data_processing/wai_processing/scripts/conversion/scannetppv2.py of github.com/facebookresearch/map-anything
(`dslr/nerfstudio/transforms.json`, OpenGL poses, `frames` and `test_frames`, images in `resized_images`), README of
github.com/scannetpp/scannetpp (undistortion writes images and a transforms.json of its own, here expected as
`transforms_undistorted.json`; rendered depth `dslr/render_depth` in millimetres). Undistorted images are taken
when they are there; the fisheye ones give poses but no intrinsics, and no depth, which is rendered for a pinhole or
for them as its user configured. `test_frames` get the split test. MuM cuts scenes every 100 frames.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, need_scenes
from manyview.data.sources.transforms_json import rows_of

CHUNK = 100
_KINDS = (
    ("resized_undistorted_images", "transforms_undistorted.json"),
    ("resized_images", "transforms.json"),
)


@SOURCES.add("scannetpp")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The release's folder, its `data`, or one scene."""
    data = Collector(src, options, "scannetpp")
    patterns = ("dslr", "*/dslr", "data/*/dslr")
    folders = [path for pattern in patterns for path in sorted(data.root.glob(pattern)) if path.is_dir()]
    for dslr in need_scenes(folders, src, "SCENE/dslr folder"):
        images, file = next((kind for kind in _KINDS if (dslr / kind[0]).is_dir()), _KINDS[-1])
        rows = rows_of(data, dslr / "nerfstudio" / file, images=[dslr / images])
        data.add(dslr.parent.name, rows)
    data.found.info["chunk"] = CHUNK
    return data.found
