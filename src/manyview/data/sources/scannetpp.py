"""ScanNet++ (DSLR): `[data/]SCENE/dslr/{resized_undistorted_images,resized_images}` and `nerfstudio`.

Layout: data_processing/wai_processing/scripts/conversion/scannetppv2.py of github.com/facebookresearch/map-anything
(`dslr/nerfstudio/transforms.json`, OpenGL poses, `frames` and `test_frames`, images in `resized_images`), README of
github.com/scannetpp/scannetpp (undistortion writes images and a transforms.json of its own, here expected as
`transforms_undistorted.json`; rendered depth `dslr/render_depth` in millimetres). Undistorted images are taken
when they are there; the fisheye ones give poses but no intrinsics, and no depth, which is rendered for a pinhole or
for them as its user configured. `test_frames` get the split test. MuM cuts scenes every 100 frames.
"""

from __future__ import annotations

from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.transforms_json import rows_of

_KINDS = (("resized_undistorted_images", "transforms_undistorted.json"), ("resized_images", "transforms.json"))


@SOURCES.add("scannetpp")
@reader("SCENE/dslr folder", chunk=100, metric=True)
def scenes(src: Source) -> Scenes:
    """The release's folder, its `data`, or one scene."""
    for dslr in src.folders("dslr", "*/dslr", "data/*/dslr"):
        images, file = next((kind for kind in _KINDS if (dslr / kind[0]).is_dir()), _KINDS[-1])
        yield dslr.parent.name, rows_of(src, dslr / "nerfstudio" / file, images=[dslr / images])
