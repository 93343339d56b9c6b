"""Pictures whose every pixel has a class: the published numbers, and the classes that are evaluated."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.manifest import LABEL_MAP, NO_CLASS
from manyview.data.sources.base import SOURCES, ScanOptions, Scenes, Source, first_file, images_of, reader
from manyview.data.sources.poses import full, matrix_of
from manyview.data.sources.rows import Camera, Row
from manyview.errors import UserError
from manyview.images.fit import same_picture
from manyview.images.reading import ImageProblem, probe_image

CITYSCAPES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
"""Stored id -> name, in the order of the 19 classes."""
NYU40 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box"),
    *("whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure"),
    *("other furniture", "other objects"),
)
"""NYU's 40 classes, the first of them number 1 (Gupta et al. 2013, and scannetv2-labels.combined.tsv)."""
BENCHMARK = (*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39)
"""The numbers among them that ScanNet's benchmark has."""


@SOURCES.add("ade20k")
@reader("images/training or images/validation folder with images")
def ade20k(src: Source) -> Scenes:
    """ADE20K for scene parsing: `ADEChallengeData2016/{images,annotations}/{training,validation}`, 150 classes.

    Layout: README of github.com/CSAILVision/sceneparsing: ADE_train_00000001.jpg and .png, annotations from 0 to 150
    where 0 is other objects and not evaluated; objectInfo150.txt has the names. Here class i becomes i - 1, 0 is
    ignored. Each image is a scene of its own. That objectInfo150.txt lies in the archive's top folder is unverified:
    without it the classes have numbers for names.
    SRC: the folder ADEChallengeData2016, or the one it lies in.
    """
    root = src.root if (src.root / "images").is_dir() else src.root / "ADEChallengeData2016"
    rows = [
        Row(image=image, labels=root / "annotations" / split / f"{image.stem}.png", split=split)
        for split in ("training", "validation")
        for image in images_of(root / "images" / split)
    ]
    if rows:
        yield None, rows
    file = root / "objectInfo150.txt"
    names = src.read(file, _ade20k_names) if file.is_file() else None
    names = names or [f"class {number}" for number in range(1, 151)]
    src.info |= {"classes": names, LABEL_MAP: [NO_CLASS, *range(150)]}


def _ade20k_names(path: Path) -> list[str]:
    """The first name of every class, in the order of its number."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    if len(names) != 150:
        raise ValueError(f"{len(names)} classes, not 150")
    return names


VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In the order of the stored numbers; 255 is the border of things."""


@SOURCES.add("voc")
@reader("ImageSets/Segmentation folder beside JPEGImages and SegmentationClass")
def voc(src: Source) -> Scenes:
    """Pascal VOC 2012's segmentation: `[VOCdevkit/]VOC2012/{JPEGImages,SegmentationClass}`, 21 classes.

    Layout: the development kit's documentation (host.robots.ox.ac.uk/pascal/VOC/voc2012): palette PNGs whose indices
    are the classes, 0 the background, 255 not looked at; `ImageSets/Segmentation/{train,val}.txt` name the pictures.
    Each is a scene of its own. Photos are from Flickr, under Flickr's terms of use.
    SRC: the folder VOC2012, VOCdevkit, or the one it lies in.
    """
    for folder in [src.root, *src.folders("VOC2*", "VOCdevkit/VOC2*")]:
        lists = folder / "ImageSets" / "Segmentation"
        if not lists.is_dir():
            continue
        rows = []
        for split in ("train", "val"):
            names = src.read(lists / f"{split}.txt", lambda path: path.read_text(encoding="utf-8").split()) or ()
            for name in names:
                labels = folder / "SegmentationClass" / f"{name}.png"
                rows.append(Row(image=folder / "JPEGImages" / f"{name}.jpg", labels=labels, split=split))
        if rows:
            yield None, rows
    src.info |= {"classes": list(VOC), LABEL_MAP: list(range(21))}


@SOURCES.add("cityscapes")
@reader("leftImg8bit/SPLIT/CITY folder")
def cityscapes(src: Source) -> Scenes:
    """Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, 19 classes.

    Layout: README of github.com/mcordts/cityscapesScripts (dataset structure), class numbers from
    cityscapesscripts/helpers/labels.py there: the stored ids, of which those that are evaluated become 0 to 18 and all
    others are ignored. A city is a scene. The test split's annotations are not public: its files have no class in them
    and are not read. Coarse annotations, disparity and cameras are not read either.
    SRC: the folder with leftImg8bit and gtFine.
    """
    for city in src.folders("leftImg8bit/*/*"):
        split, rows = city.parent.name, []
        for image in images_of(city):
            name = image.stem.removesuffix("_leftImg8bit")
            labels = src.root / "gtFine" / split / city.name / f"{name}_gtFine_labelIds.png"
            rows.append(Row(image=image, name=name, labels=None if split == "test" else labels, split=split))
        yield city.name, rows
    src.info |= _classes(CITYSCAPES, range(34))


def _classes(names: dict[int, str], stored: Sequence[int]) -> dict[str, Any]:
    """What the manifest says: the names in order, and the class of the numbers that are stored for 0, 1, …."""
    order = {number: place for place, number in enumerate(names)}
    return {"classes": list(names.values()), LABEL_MAP: [order.get(number, NO_CLASS) for number in stored]}


@dataclass(frozen=True, kw_only=True)
class ScannetOptions(ScanOptions):
    """What of ScanNet is wanted."""

    classes: int = 20
    """How many classes labels get: the benchmark's 20, or all 40 of NYU."""


@SOURCES.add("scannet")
@reader("SCENE folder with color and pose", options=ScannetOptions, metric=True)
def scannet(src: Source[ScannetOptions]) -> Scenes:
    """ScanNet as its SensReader exports it: `SCENE/{color,depth,pose,intrinsic}`.

    Layout: the exporter in data_processing/wai_processing/scripts/conversion/scannetv2.py of
    github.com/facebookresearch/map-anything, which follows ScanNet's own (color/N.jpg, depth/N.png in millimetres,
    pose/N.txt cam2world with OpenCV axes, intrinsic/intrinsic_color.txt). Poses of lost frames are -inf: these frames
    have none. Full-size colour (1296x968) and depth (640x480) do not show quite the same picture; depth is only read
    where colour was exported at depth's aspect. Colour intrinsics count for 1296x968. Pixel centres: taken as +0.5.
    Labels: `SCENE/label-filt/N.png` (what SCENE_2d-label-filt.zip unpacks to), 16-bit ScanNet numbers (index.md of
    github.com/ScanNet/scannet.github.io), which scannetv2-labels.combined.tsv, put beside the scenes, turns into the
    40 classes of NYU (BenchmarkScripts/util.py of github.com/ScanNet/ScanNet: columns id and nyu40id). The
    benchmark's 20 of these (BenchmarkScripts/2d_evaluation there) are the default, `--classes 40` takes all; the
    others are ignored. Instances: `SCENE/instance-filt/N.png` (SCENE_2d-instance-filt.zip), 8 bit, numbered through a
    scene, 0 is none. Splits: scannetv2_{train,val,test}.txt of that repository, if put beside the scenes too. LoFTR's
    `scannet_test_1500` has one `intrinsics.npz` (assets of github.com/zju3dv/LoFTR), for 640x480, in place of
    `intrinsic` folders.
    SRC: the folder of scenes (scans, or what a frames archive unpacks to), or one scene.
    """
    folders = [path.parent for path in src.folders("color", "*/color", "*/*/color")]
    folders = [folder for folder in folders if (folder / "pose").is_dir()]
    labels = _scannet_labels(src, folders) if folders else {}
    lists = {split: src.beside(f"scannetv2_{split}.txt") for split in ("train", "val", "test")}
    splits = {scene: split for split, file in lists.items() if file for scene in file.read_text("utf-8").split()}
    for scene in folders:
        file = first_file([scene / "intrinsic" / "intrinsic_color.txt", scene / "intrinsics_color.txt"])
        lens, size = _scannet_lens(src, scene.name, file)
        images = images_of(scene / "color")
        aligned = _aligned(scene, images)
        if not aligned:
            src.note(
                f"{scene.name}: depth is left out, its aspect is not colour's; export colour at depth's size (640x480)"
            )
        rows = []
        for image in images:
            pose = src.read(scene / "pose" / f"{image.stem}.txt", lambda path: full(matrix_of(path)))
            name = f"{image.stem}.png"
            rows.append(
                Row(
                    image=image,
                    camera=Camera.of(lens, cam2world=pose, size=size),
                    depth=scene / "depth" / name if aligned else None,
                    depth_scale=0.001,
                    labels=scene / "label-filt" / name if labels else None,
                    instances=scene / "instance-filt" / name,
                    split=splits.get(scene.name, ""),
                )
            )
        yield scene.name, rows
    src.info |= labels


def _scannet_lens(src: Source[ScannetOptions], scene: str, file: Path) -> tuple[np.ndarray | None, tuple[int, int]]:
    """Intrinsics of a scene and the size they are for: its own file, else LoFTR's intrinsics.npz beside the scenes."""
    every = src.beside("intrinsics.npz")
    if every is None or file.is_file():
        return src.read(file, matrix_of), (1296, 968)
    with np.load(every, allow_pickle=False) as stored:
        return (np.asarray(stored[scene], np.float64) if scene in stored else None), (640, 480)


def _scannet_labels(src: Source[ScannetOptions], folders: Sequence[Path]) -> dict[str, Any]:
    """Names and numbers of the classes for the manifest; nothing without labels, or without their table."""
    count, name = src.options.classes or 20, "scannetv2-labels.combined.tsv"
    if count not in (20, 40):
        raise UserError(f"--classes {count}: ScanNet is evaluated on 20 classes or 40")
    if not any((scene / "label-filt").is_dir() for scene in folders):
        return {}
    file = src.beside(name)
    if file is None:
        src.problem(name, "no such file beside the scenes; labels are left out")
    number_of = src.read(file, _scannet_numbers) if file else None
    if not number_of:
        return {}
    names = {number: NYU40[number - 1] for number in (BENCHMARK if count < 40 else range(1, 41))}
    return _classes(names, [number_of.get(number, 0) for number in range(max(number_of) + 1)])


def _scannet_numbers(path: Path) -> dict[int, int]:
    """ScanNet's number -> NYU's."""
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["id"]): int(row["nyu40id"]) for row in csv.DictReader(file, delimiter="\t")}


def _aligned(scene: Path, images: list[Path]) -> bool:
    """Whether the first frame's depth can show the same picture as its colour image."""
    for image in images:
        try:
            (width, height), (w, h) = probe_image(image), probe_image(scene / "depth" / f"{image.stem}.png")
        except ImageProblem:
            continue
        return same_picture((h, w), (height, width))
    return True
