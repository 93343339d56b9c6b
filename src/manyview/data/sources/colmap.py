"""COLMAP sparse models, text or binary, and photo collections that come with them.

Files and fields: colmap.github.io/format.html (cameras, images, as .txt or .bin). Pixel centres lie at +0.5 there as
here. Poses are world to camera, quaternion real part first.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from manyview.data.overlap import chains, point_chains, read_scene_info
from manyview.data.sources.base import SOURCES, ScanOptions, Scenes, Source, first_file, images_of, reader
from manyview.data.sources.poses import inverse, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Camera, Row, below
from manyview.errors import UserError

_BESIDE = ("images", "../images", "../../images", ".", "..", "../..")
_MODELS = (
    *(("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8)),
    *(("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4)),
    *(("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16)),
    *(("SIMPLE_DIVISION", 4), ("DIVISION", 5), ("SIMPLE_FISHEYE", 3), ("FISHEYE", 4), ("EUCM", 6)),
    ("EQUIRECTANGULAR", 2),
)
"""Name and number of parameters, in the order of their numbers in binary files (src/colmap/sensor/models.h, 4.0)."""
_NEAR_PINHOLE = tuple(name for name, _ in _MODELS if "FISHEYE" not in name and name not in ("FOV", "EQUIRECTANGULAR"))


@dataclass(frozen=True, kw_only=True)
class ColmapOptions(ScanOptions):
    """What of COLMAP's models is wanted."""

    model: str | None = None
    """The one model to read, by the name of its folder; default: all."""


@SOURCES.add("colmap")
@reader("sparse model (cameras and images as .bin or .txt)", options=ColmapOptions)
def colmap(src: Source[ColmapOptions]) -> Scenes:
    """COLMAP scenes: a sparse model (text or binary) and the images it names.

    Layout: colmap.github.io/format.html for the files; the usual folders are `images` beside `sparse/0` (or
    `sparse`, or the model's files beside the images), as COLMAP's automatic reconstruction and image undistorter
    write them. Fisheye cameras give poses but no intrinsics; other distortion is not corrected.
    SRC: a scene's folder, or a folder of scenes. Several models of the same images that share some: `--model` says
    which; by default an image is the largest model's that has it, and that is said. Each model is a scene.
    """
    src.dataset = src.root.name
    files = src.files_named(("images.bin", "images.txt").__contains__)
    chosen: list[tuple[Path, list[Row]]] = []
    for folder in dict.fromkeys(path.parent for path in files):
        if src.options.model not in (None, folder.name, below(src.root, folder)):
            continue
        if model := src.read(folder, read_model):
            places = [(folder / name).resolve() for name in _BESIDE]
            chosen.append((folder, rows_of(src, model, [p for p in places if p.is_relative_to(src.root)])))
    if files and not chosen and src.options.model:
        raise UserError(f"--model {src.options.model}: no such model below {src.root}; give its folder's name")
    for folder, rows in _each_image_once(src, chosen):
        yield _scene(src.root, folder), rows


def _each_image_once(src: Source, models: list[tuple[Path, list[Row]]]) -> list[tuple[Path, list[Row]]]:
    """Every image in the largest model that has it; of equally large ones in the first."""
    owner: dict[Path, Path] = {}
    for folder, rows in sorted(models, key=lambda model: -len(model[1])):
        for row in rows:
            owner.setdefault(row.image.resolve(), folder)
    kept = []
    for folder, rows in models:
        own = [row for row in rows if owner[row.image.resolve()] == folder]
        if len(own) < len(rows):
            larger = sorted({below(src.root, owner[row.image.resolve()]) for row in rows} - {below(src.root, folder)})
            src.note(
                f"{below(src.root, folder)}: {len(rows) - len(own)} of {len(rows)} images are taken from "
                f"{', '.join(larger)}, which is larger or first (--model {folder.name} takes this model alone)"
            )
        if own:
            kept.append((folder, own))
    return kept


def _scene(root: Path, model: Path) -> str:
    """The folder that holds sparse/0, or the model's own; its number too when there are several."""
    parts = list(model.relative_to(root).parts)
    number = parts.pop() if parts and parts[-1].isdigit() else "0"
    while parts and parts[-1] in ("sparse", "sparses", "colmap", "dense"):
        parts.pop()
    return "/".join(parts or [root.name]) + ("" if number == "0" else f"/{number}")


@SOURCES.add("megascenes")
@reader("reconstruct/AAA/BBB/sparses/N models")
def megascenes(src: Source) -> Scenes:
    """MegaScenes: `images/AAA/BBB/...` photographs and `reconstruct/AAA/BBB/sparses/N` COLMAP models.

    Layout: README of github.com/MegaScenes/dataset ("Dataset Layout"; pictures lie in
    `images/AAA/BBB/commons/CATEGORY/0/pictures`). How the models name their images is not said there: a name is
    looked for under the scene's images as a path and then by its file name alone. Every model is a scene. A photo
    collection has no order: frames are chained by the 3D points they share (CroCo's score, manyview.data.overlap);
    a scene without a chain of 24 stays whole.
    SRC: the folder that holds `images` and `reconstruct`; models of fewer than 12 images are left out.
    """
    for folder in src.folders("reconstruct/*/*/sparses/*"):
        there = any((folder / f"images.{kind}").is_file() for kind in ("bin", "txt"))
        model = src.read(folder, read_model) if there else None
        if model is None or len(model.photos) < 12:
            continue
        _, first, second, _, number = folder.relative_to(src.root).parts
        scene = f"{first}/{second}" + ("" if number == "0" else f"/{number}")
        images = src.root / "images" / first / second
        files = {path.name: path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
        photos = [
            photo
            if (images / photo.name).is_file()
            else replace(photo, name=files.get(Path(photo.name).name, photo.name))
            for photo in model.photos
        ]
        rows = rows_of(src, replace(model, photos=photos), [images])
        yield scene, rows
        poses = np.stack([np.asarray(photo.camera.cam2world) for photo in photos])
        groups = point_chains([photo.points for photo in photos], poses)
        src.group(scene, [[rows[i].image for i in group] for group in groups])


@SOURCES.add("megadepth")
@reader("NNNN/denseK/imgs folder")
def megadepth(src: Source) -> Scenes:
    """MegaDepth: `NNNN/denseK/{imgs,depths}`, with cameras and overlap from D2-Net's preprocessing.

    Layout: megadepth_utils/preprocess_scene.py of github.com/mihaidusmanu/d2-net (`phoenix/S6/zl548/MegaDepth_v1`
    holds the images and depths, `MegaDepth_v1_SfM/NNNN/sparse/manhattan/K` the COLMAP models of the original
    photographs; its output is one `NNNN.K.npz` per model) and datasets_preprocess/preprocess_megadepth.py of
    github.com/naver/dust3r. Depth files (.h5, needs the optional package h5py) under 100 kB hold an ordering, not
    depth, and are left out, as there. The .npz files are found in the folder itself or one folder down; with one, a
    scene gets poses, intrinsics and sequences (chains of positive overlap from random anchors), else poses from the
    COLMAP model if that is there, and is one group. Depth and poses of a scene share one unknown scale.
    SRC: the folder that holds MegaDepth_v1 (and maybe MegaDepth_v1_SfM and D2-Net's files), at any depth.
    """
    infos = {path.stem: path for pattern in ("*.npz", "*/*.npz") for path in src.root.glob(pattern)}
    for folder in src.folders_named("imgs".__eq__):
        dense = folder.parent
        if not dense.name.startswith("dense"):
            continue
        number, part = dense.parent.name, dense.name.removeprefix("dense")
        file, cameras, linked = infos.get(f"{number}.{part}"), {}, []
        sparse = None if file else next(src.root.glob(f"**/{number}/sparse/manhattan/{part}"), None)
        if file and (info := src.read(file, read_scene_info)):
            known = zip(info.names, info.world2cam, info.intrinsics, strict=True)
            cameras = {n: Camera.of(k, world2cam=p) for n, p, k in known if n and p is not None and k is not None}
            chosen = chains(info.overlap, length=64, minimum=24, count=100)
            linked = [[folder / str(info.names[i]) for i in chain] for chain in chosen]
        elif sparse and (model := src.read(sparse, read_model)):  # whose lenses are those of the distorted originals
            cameras = {Path(photo.name).name: replace(photo.camera, lens=None) for photo in model.photos}
        rows = []
        for image in images_of(folder):
            depth = dense / "depths" / f"{image.stem}.h5"
            measured = depth.is_file() and depth.stat().st_size >= 100 * 1024
            camera = cameras.get(image.name)
            rows.append(Row(image=image, name=image.name, camera=camera, depth=depth if measured else None))
        yield f"{number}/{part}", rows
        src.group(f"{number}/{part}", linked)


@dataclass(frozen=True)
class Photo:
    """An image of a model."""

    name: str
    camera: Camera
    points: np.ndarray  # (P,) int64, the 3D points it sees, sorted, each once


@dataclass(frozen=True)
class Model:
    """A sparse model."""

    photos: list[Photo]
    distorted: bool
    """Whether its images are not those of a pure pinhole."""
    notes: tuple[str, ...] = ()
    """What it says that could not be taken."""


def rows_of(src: Source, model: Model, images: list[Path]) -> list[Row]:
    """A row per image of the model; its file is looked for in each of the folders in turn."""
    if model.distorted:
        src.distorted()
    for line in model.notes:
        src.note(line)
    places = [folder for folder in images if folder.is_dir()] or images
    return [
        Row(image=first_file(folder / photo.name for folder in places), camera=photo.camera) for photo in model.photos
    ]


def read_model(folder: Path) -> Model:
    """The images of a model's folder. Raises FileNotFoundError, or ValueError for damaged files."""
    read = _read_binary if (folder / "images.bin").is_file() else _read_text
    lenses, entries, notes = read(folder)
    cameras = {number: _camera(*lens) for number, lens in lenses.items()}
    none = sorted({model for number, (model, *_) in lenses.items() if cameras[number].lens is None})
    if none:
        notes += [f"{folder.name}: no pinhole is near cameras of the model {', '.join(none)}: poses, no intrinsics"]
    if missing := sorted({number for _, number, *_ in entries} - set(cameras)):
        shown = ", ".join(map(str, missing[:5]))
        notes += [f"{folder.name}: cameras {shown} are not in its list of cameras: their images have no intrinsics"]
    photos = []
    for name, number, pose, points in entries:
        world2cam = rigid(rotation_from_quaternion(pose[:4]), pose[4:7])
        camera, seen = replace(cameras.get(number, Camera()), cam2world=inverse(world2cam)), np.unique(points)
        photos.append(Photo(name, camera, seen[seen >= 0]))
    distorted = any(_distorted(model, numbers) for model, _, numbers in lenses.values())
    return Model(photos, distorted, tuple(notes))


def _camera(model: str, size: tuple[float, float], numbers: tuple[float, ...]) -> Camera:
    """Models without a pinhole near them (fisheye, spherical, unknown ones) have no lens here."""
    if model not in _NEAR_PINHOLE or (model == "EUCM" and numbers[4]):
        return Camera.of(None, size=size)
    if len(numbers) != dict(_MODELS)[model]:
        raise ValueError(f"a {model} camera has {dict(_MODELS)[model]} parameters, not {len(numbers)}")
    return Camera.of((numbers[0], *numbers[:3]) if _one_focal(model) else numbers[:4], size=size)


def _distorted(model: str, numbers: tuple[float, ...]) -> bool:
    return model in _NEAR_PINHOLE and any(numbers[3 if _one_focal(model) else 4 :][: 1 if model == "EUCM" else None])


def _one_focal(model: str) -> bool:
    return model.startswith(("SIMPLE_", "RADIAL"))


Lenses = dict[int, tuple[str, tuple[float, float], tuple[float, ...]]]
"""Number of a camera -> its model, size and parameters."""
Read = tuple[Lenses, "Entries", list[str]]
"""What two files hold, and what is to be said of them."""
Entries = list[tuple[str, int, list[float], np.ndarray]]
"""An image's name, its camera's number, quaternion and translation, the points it sees (-1 for none)."""


def _read_binary(folder: Path) -> Read:
    lenses: Lenses = {}
    entries: Entries = []
    notes: list[str] = []
    with (folder / "cameras.bin").open("rb") as cameras, (folder / "images.bin").open("rb") as images:
        size_of_images = (folder / "images.bin").stat().st_size
        try:
            for _ in range(_unpack(cameras, "Q")[0]):
                number, model, *size = _unpack(cameras, "iiQQ")
                if not 0 <= model < len(_MODELS):  # how long its entry is cannot be known
                    notes.append(f"{folder.name}: camera model {model} is unknown: its cameras have no intrinsics")
                    break
                name, count = _MODELS[model]
                lenses[number] = (name, (size[0], size[1]), _unpack(cameras, f"{count}d"))
            for _ in range(_unpack(images, "Q")[0]):
                _, *pose, camera = _unpack(images, "i7di")
                letters = b"".join(iter(lambda: _unpack(images, "c")[0], b"\0"))
                count = _unpack(images, "Q")[0]
                points = images.read(24 * min(count, size_of_images))  # x, y, number of each
                if len(points) < 24 * count:
                    raise struct.error
                entries.append((os.fsdecode(letters), camera, pose, np.frombuffer(points, "<i8")[2::3]))
        except struct.error:
            raise ValueError(f"a file of {folder} ends in the middle") from None
    return lenses, entries, notes


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _read_text(folder: Path) -> Read:
    cameras, images = (
        re.sub(r"(?m)^#.*\n?", "", os.fsdecode((folder / f"{name}.txt").read_bytes())) for name in ("cameras", "images")
    )
    lenses: Lenses = {}
    for number, model, width, height, *numbers in map(str.split, filter(str.strip, cameras.splitlines())):
        lenses[int(number)] = (model, (int(width), int(height)), tuple(map(float, numbers)))
    entries: Entries = []
    lines = images.lstrip().splitlines()  # two for an image; the second, its points, may be empty
    for first, second in zip(lines[::2], [*lines[1::2], ""]):
        if not first.strip():
            break
        _, *pose, camera, name = first.split(maxsplit=9)
        points = np.array(second.split()[2::3], np.int64)
        entries.append((name.strip(), int(camera), [float(word) for word in pose], points))
    return lenses, entries, []
