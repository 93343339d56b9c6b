"""Scenes in a `transforms.json`, as nerfstudio writes it.

Keys: docs.nerf.studio, "Data conventions" (camera_model, fl_x fl_y cx cy w h, k1 ..., per file or per frame;
file_path, depth_file_path; transform_matrix is camera to world with OpenGL axes: +x right, +y up, looking
along -z), and `camera_angle_x` of the NeRF synthetic scenes. Depth: PNG in millimetres or .npy in scene units.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, tan
from pathlib import Path
from typing import Any

from manyview.data.sources.base import SOURCES, Scenes, Source, first_file, reader
from manyview.data.sources.poses import OPENGL, full
from manyview.data.sources.rows import Camera, Lens, Row
from manyview.images.reading import upright_size

_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE", "EQUIRECTANGULAR", "FISHEYE624")
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
    scan lists them as missing. A file that does not say the size of its images means them as they are. Distortion is
    not corrected, and said. `depth_unit_scale_factor` (nerfstudio) counts for every depth file.
    """
    rows = []
    for entry in src.read(file, _entries) or ():
        name = entry["file"].removeprefix("./")
        image = first_file(images / f"{name}{suffix}" for suffix in ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG"))
        if not Path(name).suffix and not image.is_file():
            image = images / f"{name}.png"
        depth = file.parent / str(entry["depth_file_path"]) if entry.get("depth_file_path") else None
        if any(entry.get(name) for name in _DISTORTION):
            src.distorted()
        rows.append(
            Row(
                image=image,
                camera=_camera(entry, image),
                depth=depth,
                depth_scale=entry["scale"] or (1.0 if depth and depth.suffix == ".npy" else 0.001),
                split=entry["split"],
            )
        )
    return rows


_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def _entries(path: Path) -> list[dict[str, Any]]:
    """All frames of a transforms.json. Raises ValueError, KeyError, TypeError for one that is none."""
    content = json.loads(path.read_text())
    frames = [(entry, "") for entry in content["frames"]]
    frames += [(entry, "test") for entry in content.get("test_frames") or ()]
    entries = [{**content, **entry, "file": str(entry["file_path"]), "split": split} for entry, split in frames]
    for entry in entries:
        _camera(entry, None)  # whose numbers are looked at before any image
        scale = entry.get("depth_unit_scale_factor")
        entry["scale"] = None if scale is None else float(scale)
        if scale is not None and not 0 < entry["scale"] < inf:
            raise ValueError(f"depth_unit_scale_factor is {scale!r}, not a positive number")
    return entries


def _camera(entry: dict[str, Any], image: Path | None) -> Camera:
    size = (float(entry["w"]), float(entry["h"])) if "w" in entry and "h" in entry else None
    if size is None and image is not None and (stored := upright_size(image)):
        size = float(stored[0]), float(stored[1])
    return Camera(_lens(entry, size), full(entry["transform_matrix"]) @ OPENGL, size)


def _lens(entry: dict[str, Any], size: tuple[float, float] | None) -> Lens | None:
    """None for what is no pinhole, or not said."""
    centre = (size[0] / 2, size[1] / 2) if size else None
    if "cx" in entry and "cy" in entry:
        centre = float(entry["cx"]), float(entry["cy"])
    if centre is None or entry.get("camera_model") in _FISHEYE:
        return None
    if "fl_x" in entry:
        return float(entry["fl_x"]), float(entry.get("fl_y", entry["fl_x"])), *centre
    if "camera_angle_x" not in entry or size is None:
        return None
    focal = size[0] / 2 / tan(float(entry["camera_angle_x"]) / 2)
    down = size[1] / 2 / tan(float(entry["camera_angle_y"]) / 2) if "camera_angle_y" in entry else focal
    return focal, down, *centre
