"""3D Street View (Zamir et al. 2016): `DATASET_IMAGE_VIEW_TARGET.jpg` with a text file of the same name.

Layout: README of github.com/amir32002/3D_Street_View ("Dataset Structure"; each tar is one region of the map, all ids
but the region's count within it). Every region is a scene and its images in order of their names are cut into
sequences of 24, as MuM does. Poses are geographic (latitude, longitude, heading, pitch) and are not read.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.rows import Row
from manyview.images.reading import SUFFIXES


@SOURCES.add("3dstreetview")
@reader("DATASET_IMAGE_VIEW_TARGET.jpg images", chunk=24)
def scenes(src: Source) -> Scenes:
    """A folder that holds the unpacked tar files, in folders or not."""
    regions: dict[str, list[Row]] = {}
    for path in src.files_named(lambda name: name.lower().endswith(SUFFIXES)):
        if len(ids(path)) == 4:
            regions.setdefault(ids(path)[0], []).append(Row(image=path))
    for region in sorted(regions):
        yield region, regions[region]


def ids(path: Path) -> list[str]:
    """Region, image, view and target of a file's name; another number of parts: not such a file."""
    parts = path.stem.split("_")
    return parts if all(part.isdigit() for part in parts) else []
