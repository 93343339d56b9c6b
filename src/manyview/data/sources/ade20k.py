"""ADE20K for scene parsing: `ADEChallengeData2016/{images,annotations}/{training,validation}`, 150 classes.

Layout: README of github.com/CSAILVision/sceneparsing: ADE_train_00000001.jpg and .png, annotations from 0 to 150 where
0 is other objects and not evaluated; objectInfo150.txt has the names. Here class i becomes i - 1, 0 is ignored. Each
image is a scene of its own. That objectInfo150.txt lies in the archive's top folder is unverified: without it the
classes have numbers for names.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.manifest import LABEL_MAP, NO_CLASS
from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.rows import Row

CLASSES = 150


@SOURCES.add("ade20k")
@reader("images/training or images/validation folder with images")
def scenes(src: Source) -> Scenes:
    """The folder ADEChallengeData2016, or the one it lies in."""
    root = src.root if (src.root / "images").is_dir() else src.root / "ADEChallengeData2016"
    rows = [
        Row(image=image, labels=root / "annotations" / split / f"{image.stem}.png", split=split)
        for split in ("training", "validation")
        for image in images_of(root / "images" / split)
    ]
    if rows:
        yield None, rows
    file = root / "objectInfo150.txt"
    names = src.read(file, _names) if file.is_file() else None
    src.info |= {
        "classes": names or [f"class {number}" for number in range(1, CLASSES + 1)],
        LABEL_MAP: [NO_CLASS, *range(CLASSES)],
    }


def _names(path: Path) -> list[str]:
    """The first name of every class, in the order of its number."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    if len(names) != CLASSES:
        raise ValueError(f"{len(names)} classes, not {CLASSES}")
    return names
