"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, 19 classes.

Layout: README of github.com/mcordts/cityscapesScripts (dataset structure), class numbers from
cityscapesscripts/helpers/labels.py there: the stored ids, of which those that are evaluated become 0 to 18 and all
others are ignored. A city is a scene. The test split's annotations are not public: its files have no class in them and
are not read. Coarse annotations, disparity and cameras are not read either.
"""

from __future__ import annotations

from manyview.data.manifest import LABEL_MAP, NO_CLASS
from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.rows import Row

CLASSES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
"""Stored id -> name, in the order of the 19 classes."""
_IDS = 34


@SOURCES.add("cityscapes")
@reader("leftImg8bit/SPLIT/CITY folder")
def scenes(src: Source) -> Scenes:
    """The folder with leftImg8bit and gtFine."""
    for city in src.folders("leftImg8bit/*/*"):
        split = city.parent.name
        annotated = src.root / "gtFine" / split / city.name
        rows = []
        for image in images_of(city):
            name = image.stem.removesuffix("_leftImg8bit")
            labels = None if split == "test" else annotated / f"{name}_gtFine_labelIds.png"
            rows.append(Row(image=image, name=name, labels=labels, split=split))
        yield city.name, rows
    order = list(CLASSES)
    src.info |= {
        "classes": list(CLASSES.values()),
        LABEL_MAP: [order.index(number) if number in CLASSES else NO_CLASS for number in range(_IDS)],
    }
