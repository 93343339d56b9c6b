"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, 19 classes.

Layout: README of github.com/mcordts/cityscapesScripts (dataset structure), class numbers from
cityscapesscripts/helpers/labels.py there: the stored ids, of which those that are evaluated become 0 to 18 and all
others are ignored. A city is a scene. The test split's annotations are not public: its files have no class in them and
are not read. Coarse annotations, disparity and cameras are not read either.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.manifest import LABEL_MAP, NO_CLASS
from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, Row, folders_of, images_of, need_scenes

CLASSES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
"""Stored id -> name, in the order of the 19 classes."""
_IDS = 34
_IMAGE, _LABELS = "_leftImg8bit", "_gtFine_labelIds.png"


@SOURCES.add("cityscapes")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder with leftImg8bit and gtFine."""
    data = Collector(src, options, "cityscapes")
    cities = folders_of(data.root / "leftImg8bit", "*/*")
    for city in need_scenes(cities, src, "leftImg8bit/SPLIT/CITY folder"):
        split = city.parent.name
        annotated = data.root / "gtFine" / split / city.name
        rows = []
        for image in images_of(city):
            name = image.stem.removesuffix(_IMAGE)
            labels = None if split == "test" else data.below(annotated / f"{name}{_LABELS}")
            rows.append(Row(image=data.below(image), name=name, labels=labels, split=split))
        data.add(city.name, rows)
    order = list(CLASSES)
    data.found.info |= {
        "classes": list(CLASSES.values()),
        LABEL_MAP: [order.index(number) if number in CLASSES else NO_CLASS for number in range(_IDS)],
    }
    return data.found
