"""Hypersim: `ai_VVV_NNN/{_detail,images}`, preview pictures, HDF5 depth and camera trajectories.

Layout: README of github.com/apple/ml-hypersim (folders; camera positions in asset units and orientations whose
columns are right, up, backwards; `meters_per_asset_unit` of `_detail/metadata_scene.csv`; depth_meters is the
distance to the optical centre). Intrinsics: contrib/mikeroberts3000 there: `M_proj_*` of
metadata_camera_parameters.csv, a file of that repository to be put beside the scenes. Scenes with tilt-shift
lenses that no pinhole describes get no intrinsics, and no depth, since it could not be turned into depth along
the axis. Cameras and depth need the optional package h5py. Pictures: the tone-mapped `scene_cam_CC_final_preview`.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.depths import open_hdf5
from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import opencv_from_opengl, rigid
from manyview.data.sources.rows import Collector, Row, images_of, need_scenes

CAMERAS = "metadata_camera_parameters.csv"
_STANDARD = (3**0.5, 0.0, 0.0)  # M_proj 00, 02, 12 of the 60 degree camera most scenes share


@SOURCES.add("hypersim")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of scenes, or one scene. Every camera trajectory is a scene."""
    data = Collector(src, options, "hypersim")
    folders = [
        path
        for pattern in ("images", "ai_*/images", "*/ai_*/images")
        for path in sorted(data.root.glob(f"{pattern}/scene_cam_*_final_preview"))
    ]
    need_scenes(folders, src, "ai_VVV_NNN/images/scene_cam_CC_final_preview folder")
    lenses = data.read(_cameras_file(data.root), _lenses) or {}
    for folder in folders:
        scene, camera = folder.parent.parent, folder.name.split("_")[2]
        lens, size, standard = lenses.get(scene.name, (None, None, False))
        detail = scene / "_detail"
        metres = data.read(detail / "metadata_scene.csv", _metres)
        poses = data.read(detail / f"cam_{camera}", partial(_poses, metres=metres)) or {}
        maps = folder.parent / f"scene_cam_{camera}_geometry_hdf5"
        rows = []
        for image in images_of(folder):
            if not image.name.endswith((".tonemap.jpg", ".color.jpg")):
                continue  # the same folder holds previews of the reflectance and others
            frame = image.name.split(".")[1]
            rows.append(
                Row(
                    image=data.below(image),
                    name=frame,
                    camera=lens,
                    camera_size=size,
                    cam2world=poses.get(int(frame)),
                    depth=data.below(maps / f"frame.{frame}.depth_meters.hdf5") if standard else None,
                )
            )
        data.add(f"{scene.name}/cam_{camera}", _best(rows))
    return data.found


def _best(rows: list[Row]) -> list[Row]:
    """One picture per frame: the tone-mapped one where there are two."""
    frames: dict[str | None, Row] = {}
    for row in rows:
        if row.name not in frames or ".tonemap." in row.image:
            frames[row.name] = row
    return list(frames.values())


def _cameras_file(root: Path) -> Path:
    """Beside the scenes, or up to two folders above; outside the root only its numbers are read."""
    places = [root / CAMERAS, root.parent / CAMERAS, root.parent.parent / CAMERAS]
    return next((path for path in places if path.is_file()), places[0])


def _lenses(path: Path) -> dict[str, tuple[Any, tuple[float, float], bool]]:
    """Scene -> (fx, fy, cx, cy) or None, the image's (width, height), whether it is the standard camera."""
    lenses = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            width, height = (
                float(line["settings_output_img_width"]),
                float(line["settings_output_img_height"]),
            )
            proj = np.array([[float(line[f"M_proj_{i}{j}"]) for j in range(4)] for i in range(4)])
            plain = proj.copy()
            plain[[0, 1], [0, 1]] = plain[:2, 2] = plain[2] = 0
            plain[3, 2] += 1
            lens = None
            if np.abs(plain).max() < 1e-6:  # nothing but focal lengths, centre and depth range
                lens = (
                    proj[0, 0] * width / 2,
                    proj[1, 1] * height / 2,
                    (1 - proj[0, 2]) * width / 2,
                    (1 + proj[1, 2]) * height / 2,
                )
            standard = lens is not None and np.allclose(proj[[0, 0, 1], [0, 2, 2]], _STANDARD, atol=1e-4)
            lenses[line["scene_name"]] = (lens, (width, height), standard)
    return lenses


def _metres(path: Path) -> float:
    with path.open(newline="") as file:
        rows = {line["parameter_name"]: line["parameter_value"] for line in csv.DictReader(file)}
    return float(rows["meters_per_asset_unit"])


def _poses(folder: Path, metres: float | None) -> dict[int, np.ndarray]:
    """Frame -> cam2world in metres; none when the scale is not known."""
    if metres is None:
        return {}
    with open_hdf5(folder / "camera_keyframe_orientations.hdf5") as file:
        rotations = np.asarray(file["dataset"], np.float64)
    with open_hdf5(folder / "camera_keyframe_positions.hdf5") as file:
        positions = np.asarray(file["dataset"], np.float64) * metres
    pairs = enumerate(zip(rotations, positions, strict=True))
    return {i: opencv_from_opengl(rigid(rotation, position)) for i, (rotation, position) in pairs}
