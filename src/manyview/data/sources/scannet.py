"""ScanNet as its SensReader exports it: `SCENE/{color,depth,pose,intrinsic}`.

Layout: the exporter in data_processing/wai_processing/scripts/conversion/scannetv2.py of
github.com/facebookresearch/map-anything, which follows ScanNet's own (color/N.jpg, depth/N.png in millimetres,
pose/N.txt cam2world with OpenCV axes, intrinsic/intrinsic_color.txt). Poses of lost frames are -inf: these frames
have none. Full-size colour (1296x968) and depth (640x480) do not show quite the same picture; depth is only read
where colour was exported at depth's aspect. Colour intrinsics count for 1296x968. Pixel centres: taken as +0.5.

Labels: `SCENE/label-filt/N.png` (what SCENE_2d-label-filt.zip unpacks to), 16-bit ScanNet numbers (index.md of
github.com/ScanNet/scannet.github.io), which scannetv2-labels.combined.tsv, put beside the scenes, turns into the 40
classes of NYU (BenchmarkScripts/util.py of github.com/ScanNet/ScanNet: columns id and nyu40id). The benchmark's 20 of
these (BenchmarkScripts/2d_evaluation there) are the default, `--classes 40` takes all; the others are ignored.
Splits: scannetv2_{train,val,test}.txt of that repository, if put beside the scenes too.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.data.manifest import LABEL_MAP, NO_CLASS
from manyview.data.sources.base import SOURCES, ScanOptions, Scenes, Source, first_file, images_of, reader
from manyview.data.sources.poses import full, matrix_of
from manyview.data.sources.rows import Camera, Row, lens_of
from manyview.errors import UserError
from manyview.images.fit import same_picture
from manyview.images.reading import ImageProblem, probe_image

_FULL = (1296, 968)
_TABLE = "scannetv2-labels.combined.tsv"
_CLASSES = {
    **{1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door"},
    **{9: "window", 10: "bookshelf", 11: "picture", 12: "counter", 14: "desk", 16: "curtain"},
    **{24: "refrigerator", 28: "shower curtain", 33: "toilet", 34: "sink", 36: "bathtub"},
    **{39: "other furniture"},
}
"""The benchmark's classes by their number among NYU's 40."""


@dataclass(frozen=True, kw_only=True)
class ScannetOptions(ScanOptions):
    """What of ScanNet is wanted."""

    classes: int = 20
    """How many classes labels get: the benchmark's 20, or all 40 of NYU."""


@SOURCES.add("scannet")
@reader("SCENE folder with color and pose", options=ScannetOptions, metric=True)
def scenes(src: Source[ScannetOptions]) -> Scenes:
    """The folder of scenes (scans, or what a frames archive unpacks to), or one scene."""
    folders = [path.parent for path in src.folders("color", "*/color", "*/*/color")]
    folders = [folder for folder in folders if (folder / "pose").is_dir()]
    labels = _labels(src, folders) if folders else {}
    splits = _splits(src)
    for scene in folders:
        file = first_file([scene / "intrinsic" / "intrinsic_color.txt", scene / "intrinsics_color.txt"])
        matrix = src.read(file, matrix_of)
        lens = None if matrix is None else lens_of(matrix)
        images = images_of(scene / "color")
        aligned = _aligned(scene, images)
        rows = []
        for image in images:
            pose = src.read(scene / "pose" / f"{image.stem}.txt", lambda path: full(matrix_of(path)))
            name = f"{image.stem}.png"
            rows.append(
                Row(
                    image=image,
                    camera=Camera(lens, pose, _FULL),
                    depth=scene / "depth" / name if aligned else None,
                    depth_scale=0.001,
                    labels=scene / "label-filt" / name if labels else None,
                    split=splits.get(scene.name, ""),
                )
            )
        yield scene.name, rows
    src.info |= labels


def _labels(src: Source[ScannetOptions], folders: Sequence[Path]) -> dict[str, Any]:
    """Names and numbers of the classes for the manifest; nothing without labels, or without their table."""
    count = src.options.classes or len(_CLASSES)
    if count not in (len(_CLASSES), 40):
        raise UserError(f"--classes {count}: ScanNet is evaluated on 20 classes or 40")
    if not any((scene / "label-filt").is_dir() for scene in folders):
        return {}
    file = src.beside(_TABLE)
    if file is None:
        src.problem(_TABLE, "no such file beside the scenes; labels are left out")
    number_of = src.read(file, _numbers) if file else None
    if not number_of:
        return {}
    names = _CLASSES if count < 40 else {number: _CLASSES.get(number, f"class {number}") for number in range(1, 41)}
    order = {number: place for place, number in enumerate(names)}
    table = [order.get(number_of.get(number, 0), NO_CLASS) for number in range(max(number_of) + 1)]
    return {"classes": list(names.values()), LABEL_MAP: table}


def _numbers(path: Path) -> dict[int, int]:
    """ScanNet's number -> NYU's."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {int(row["id"]): int(row["nyu40id"]) for row in rows}


def _splits(src: Source) -> dict[str, str]:
    """Scene -> train, val or test, by the lists that are there."""
    files = {split: src.beside(f"scannetv2_{split}.txt") for split in ("train", "val", "test")}
    return {scene: split for split, file in files.items() if file for scene in file.read_text(encoding="utf-8").split()}


def _aligned(scene: Path, images: list[Path]) -> bool:
    """Whether the first frame's depth can show the same picture as its colour image."""
    for image in images:
        depth = scene / "depth" / f"{image.stem}.png"
        try:
            (width, height), (w, h) = probe_image(image), probe_image(depth)
        except ImageProblem:
            continue
        return same_picture((h, w), (height, width))
    return True
