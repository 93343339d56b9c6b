"""3D Street View (Zamir et al. 2016): `DATASET_IMAGE_VIEW_TARGET.jpg` with a text file of the same name.

Layout: README of github.com/amir32002/3D_Street_View ("Dataset Structure"; each tar is one region of the map,
all ids but the region's count within it). Every region is a scene and its images in order of their names are
cut into sequences of 24, as MuM does. Poses are geographic (latitude, longitude, heading, pitch) and are not
read.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, Row, find_files, need_scenes
from manyview.images.reading import SUFFIXES

CHUNK = 24


@SOURCES.add("3dstreetview")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """A folder that holds the unpacked tar files, in folders or not."""
    data = Collector(src, options, "3dstreetview")
    regions: dict[str, list[Path]] = defaultdict(list)
    for path in find_files(data.root, lambda name: name.lower().endswith(SUFFIXES)):
        if len(ids(path)) == 4:
            regions[ids(path)[0]].append(path)
    need_scenes(list(regions), src, "DATASET_IMAGE_VIEW_TARGET.jpg images")
    for region in sorted(regions):
        data.add(region, [Row(image=data.below(path)) for path in regions[region]])
    data.found.info["chunk"] = CHUNK
    return data.found


def ids(path: Path) -> list[str]:
    """Region, image, view and target of a file's name; another number of parts: not such a file."""
    parts = path.stem.split("_")
    return parts if all(part.isdigit() for part in parts) else []
