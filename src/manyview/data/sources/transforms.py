"""Scenes in a `transforms.json`, as nerfstudio writes it.

Keys: docs.nerf.studio, "Data conventions" (camera_model, fl_x fl_y cx cy w h, k1 ..., per file or per frame;
file_path, depth_file_path; transform_matrix is camera to world with OpenGL axes: +x right, +y up, looking
along -z), `camera_angle_x` of the NeRF synthetic scenes, and what instant-ngp's nerf_loader.cu reads besides (`x_fov`
in degrees, `is_fisheye`, `ftheta_p0`, `latlong`, `equirectangular`, `depth_path` with `integer_depth_scale`). Depth:
PNG in millimetres or .npy in scene units, where the file does not say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import inf, pi, radians, tan
from pathlib import Path
from typing import Any

from manyview.data.sources.base import SOURCES, Scenes, Source, first_file, reader
from manyview.data.sources.poses import OPENGL, full
from manyview.data.sources.rows import Camera, Lens, Row
from manyview.images.reading import upright_size

_PINHOLES = ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL")
_NO_PINHOLES = ("is_fisheye", "latlong", "equirectangular", "ftheta_p0")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "distortion_params")
_LENS = ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov")
_DEPTHS = (("depth_file_path", "depth_unit_scale_factor"), ("depth_path", "integer_depth_scale"))
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
_SPLITS = {"transforms.json": "", **{f"transforms_{split}.json": split for split in ("train", "val", "test")}}
_SCANNETPP = (("resized_undistorted_images", "transforms_undistorted.json"), ("resized_images", "transforms.json"))


@SOURCES.add("nerfstudio")
@reader("transforms.json")
def nerfstudio(src: Source) -> Scenes:
    """`transforms.json` scenes as nerfstudio (and instant-ngp, and NeRF's synthetic scenes) write them.

    Layout: docs.nerf.studio, "Data conventions". Every folder with a transforms.json is a scene;
    `transforms_train.json`, `_val`, `_test` beside each other are one scene with splits.
    SRC: a transforms.json, a folder with one, or a folder of such folders.
    """
    src.dataset = src.root.name
    files = [src.path.resolve()] if src.path.is_file() else src.files_named(_SPLITS.__contains__)
    rows_by_folder: dict[Path, dict[Path, Row]] = {}
    for path in files:
        rows = rows_by_folder.setdefault(path.parent, {})
        for row in rows_of(src, path, path.parent):
            rows.setdefault(row.image, replace(row, split=row.split or _SPLITS.get(path.name, "")))
    for folder, rows in rows_by_folder.items():
        yield src.name(folder), rows.values()


@SOURCES.add("dl3dv")
@reader("SCENE/transforms.json")
def dl3dv(src: Source) -> Scenes:
    """DL3DV-10K: `SUBSET/SCENE/[nerfstudio/]transforms.json` with `images`, or smaller `images_2`, `_4`, `_8`.

    Layout: data_processing/wai_processing/scripts/conversion/dl3dv.py of github.com/facebookresearch/map-anything
    (subsets 1K to 11K, OpenGL poses, distorted images of an OPENCV camera); the `nerfstudio` folder between is that
    of the benchmark release. The smallest images that are there are taken, as MuM does (images_8). Distortion is not
    corrected: intrinsics are those of the pinhole part.
    SRC: the folder of subsets, a subset, or a scene.
    """
    src.distorted()
    for file in src.files_named("transforms.json".__eq__):
        sizes = (file.parent / name for name in ("images_8", "images_4", "images_2") if (file.parent / name).is_dir())
        folder = next(sizes, file.parent / "images")
        rows = [replace(row, image=folder / row.image.name) for row in rows_of(src, file, file.parent)]
        yield src.name(file.parent.parent if file.parent.name == "nerfstudio" else file.parent), rows


@SOURCES.add("scannetpp")
@reader("SCENE/dslr folder", chunk=100, metric=True)
def scannetpp(src: Source) -> Scenes:
    """ScanNet++ (DSLR): `[data/]SCENE/dslr/{resized_undistorted_images,resized_images}` and `nerfstudio`.

    Layout: data_processing/wai_processing/scripts/conversion/scannetppv2.py of
    github.com/facebookresearch/map-anything (`dslr/nerfstudio/transforms.json`, OpenGL poses, `frames` and
    `test_frames`, images in `resized_images`), README of github.com/scannetpp/scannetpp (undistortion writes images
    and a transforms.json of its own, here expected as `transforms_undistorted.json`; rendered depth
    `dslr/render_depth` in millimetres). Undistorted images are taken when they are there; the fisheye ones give poses
    but no intrinsics, and no depth, which is rendered for a pinhole or for them as its user configured. `test_frames`
    get the split test. MuM cuts scenes every 100 frames.
    SRC: the release's folder, its `data`, or one scene.
    """
    for dslr in src.folders("dslr", "*/dslr", "data/*/dslr"):
        images, file = next((kind for kind in _SCANNETPP if (dslr / kind[0]).is_dir()), _SCANNETPP[-1])
        yield dslr.parent.name, rows_of(src, dslr / "nerfstudio" / file, dslr / images)


def rows_of(src: Source, file: Path, images: Path) -> list[Row]:
    """A row per frame of a transforms.json; its images are looked for in the folder `images`.

    A name that is no file gets .png, .jpg or .jpeg. Frames whose image is not there keep its first name, so that the
    scan lists them as missing. A file that does not say the size of its images means them as they are; a lens of
    several images those of the first one's shape. Distortion is not corrected, and said. `depth_unit_scale_factor`
    (nerfstudio) and `integer_depth_scale` (instant-ngp) count for every depth file.
    """
    rows: list[Row] = []
    first = None
    for entry in src.read(file, _entries) or ():
        name = entry["file"].removeprefix("./")
        image = first_file(images / f"{name}{suffix}" for suffix in _SUFFIXES)
        if not Path(name).suffix and not image.is_file():
            image = images / f"{name}.png"
        camera = Camera()
        try:
            size = stated_size(entry)
            if size is None:
                size = first if entry["shared"] and first else upright_size(image)
                first = first or size
            lens = None if lens_kind(entry) else lens_of(entry, size)
            camera = Camera(lens, full(entry["transform_matrix"]) @ OPENGL, size)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            src.problem(file, f"the camera of {name} cannot be read, it has none now ({type(error).__name__}: {error})")
        depth = entry["depth"] and file.parent / entry["depth"]
        _tell(src, entry, depth)
        rows.append(
            Row(
                image=image,
                camera=camera,
                depth=depth,
                depth_scale=entry["scale"] or (1.0 if depth and depth.suffix == ".npy" else 0.001),
                split=entry["split"],
            )
        )
    return rows


def _tell(src: Source, entry: Mapping[str, Any], depth: Path | None) -> None:
    """What of a frame is not taken as it is, or was guessed."""
    if other := lens_kind(entry):
        src.note(f"no pinhole is near cameras of the model {other}: poses, no intrinsics")
    elif distorts(entry):
        src.distorted()
    if entry.get("mask_path"):
        src.note("masks (mask_path) are not read")
    if depth and depth.suffix == ".npy" and entry["scale"] is None:
        src.note("depth in .npy files is taken in the unit of the poses, for no depth_unit_scale_factor says another")


def _entries(path: Path) -> list[dict[str, Any]]:
    """All frames of a transforms.json. Raises ValueError, KeyError, TypeError for one that is none."""
    entries = whole_frames(json.loads(path.read_text()))
    for entry in entries:
        entry["file"] = str(entry["file_path"])
        depth, unit = next((keys for keys in _DEPTHS if entry.get(keys[0])), _DEPTHS[0])
        entry["depth"] = str(entry[depth]) if entry.get(depth) else None
        scale = entry.get(unit)
        entry["scale"] = None if scale is None else float(scale)
        if scale is not None and not 0 < entry["scale"] < inf:
            raise ValueError(f"{unit} is {scale!r}, not a positive number")
    return entries


def whole_frames(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The frames with what the file says of all of them, their `split`, and whether their lens is `shared` so.

    Raises KeyError or TypeError for a file that has none.
    """
    frames = [(frame, "") for frame in content["frames"]]
    frames += [(frame, "test") for frame in content.get("test_frames") or ()]
    own = (*_LENS, "w", "h")
    return [
        {**content, **frame, "split": split, "shared": not any(key in frame for key in own)} for frame, split in frames
    ]


def lens_kind(entry: Mapping[str, Any]) -> str | None:
    """What kind of lens a frame has that no pinhole is near, None for one that some pinhole is."""
    model = str(entry.get("camera_model") or _PINHOLES[0])
    return next((name for name in _NO_PINHOLES if entry.get(name)), None if model.upper() in _PINHOLES else model)


def distorts(entry: Mapping[str, Any]) -> bool:
    """Whether a frame's lens is no pure pinhole."""
    values = (entry.get(key) for key in _DISTORTION)
    return any(any(value) if isinstance(value, (list, tuple)) else value for value in values)


def stated_size(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """The (width, height) that a frame's numbers are for, where it says so. Raises ValueError, TypeError."""
    return (float(entry["w"]), float(entry["h"])) if "w" in entry and "h" in entry else None


def lens_of(entry: Mapping[str, Any], size: tuple[float, float] | None) -> Lens | None:
    """The pinhole in a picture of this (width, height); None where the file does not say it.

    Raises ValueError, TypeError or ArithmeticError for what is no number or no angle.
    """
    middle = size and (size[0] / 2, size[1] / 2)
    centre = (float(entry["cx"]), float(entry["cy"])) if "cx" in entry and "cy" in entry else middle
    if centre is None:
        return None
    if "fl_x" in entry or "fl_y" in entry:
        focal = float(entry["fl_x"] if "fl_x" in entry else entry["fl_y"])
        return focal, float(entry.get("fl_y", focal)), *centre
    if middle is None:
        return None
    across, down = (_focal(entry, axis, half) for axis, half in zip("xy", middle, strict=True))
    across, down = across or down, down or across
    return None if across is None or down is None else (across, down, *centre)


def _focal(entry: Mapping[str, Any], axis: str, half: float) -> float | None:
    """Of a field of view along an axis of half so many pixels; None where it is not said."""
    if f"camera_angle_{axis}" in entry:
        angle = float(entry[f"camera_angle_{axis}"])
    elif f"{axis}_fov" in entry:
        angle = radians(float(entry[f"{axis}_fov"]))
    else:
        return None
    if not 0 < angle < pi:
        raise ValueError(f"a field of view of {angle:g} radians is none; give 0 to 3.14")
    return half / tan(angle / 2)
