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
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from manyview.data.depths import open_hdf5
from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import opencv_from_opengl, rigid
from manyview.data.sources.rows import Camera, Row

CAMERAS = "metadata_camera_parameters.csv"
_STANDARD = (3**0.5, 0.0, 0.0)  # M_proj 00, 02, 12 of the 60 degree camera most scenes share


@SOURCES.add("hypersim")
@reader("ai_VVV_NNN/images/scene_cam_CC_final_preview folder", metric=True)
def scenes(src: Source) -> Scenes:
    """The folder of scenes, or one scene. Every camera trajectory is a scene."""
    previews = "images/scene_cam_*_final_preview"
    folders = src.folders(previews, f"ai_*/{previews}", f"*/ai_*/{previews}")
    lenses = src.read(src.beside(CAMERAS) or src.root / CAMERAS, _lenses) if folders else None
    for folder in folders:
        scene, number = folder.parent.parent, folder.name.split("_")[2]
        camera, standard = (lenses or {}).get(scene.name, (Camera(), False))
        detail = scene / "_detail"
        metres = src.read(detail / "metadata_scene.csv", _metres)
        poses = src.read(detail / f"cam_{number}", partial(_poses, metres=metres)) or {}
        maps = folder.parent / f"scene_cam_{number}_geometry_hdf5"
        rows = []
        for image in images_of(folder):
            if not image.name.endswith((".tonemap.jpg", ".color.jpg")):
                continue  # the same folder holds previews of the reflectance and others
            frame = image.name.split(".")[1]
            depth = maps / f"frame.{frame}.depth_meters.hdf5" if standard else None
            placed = replace(camera, cam2world=poses.get(int(frame)))
            rows.append(Row(image=image, name=frame, camera=placed, depth=depth))
        yield f"{scene.name}/cam_{number}", _best(rows)


def _best(rows: list[Row]) -> list[Row]:
    """One picture per frame: the tone-mapped one where there are two."""
    frames: dict[str | None, Row] = {}
    for row in rows:
        if row.name not in frames or ".tonemap." in row.image.name:
            frames[row.name] = row
    return list(frames.values())


def _lenses(path: Path) -> dict[str, tuple[Camera, bool]]:
    """Scene -> its camera, without a lens where no pinhole describes it, and whether it is the standard one."""
    cameras = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            width, height = (float(line[f"settings_output_img_{side}"]) for side in ("width", "height"))
            proj = np.array([[float(line[f"M_proj_{i}{j}"]) for j in range(4)] for i in range(4)])
            plain = proj.copy()
            plain[[0, 1], [0, 1]] = plain[:2, 2] = plain[2] = 0
            plain[3, 2] += 1
            lens = None
            if np.abs(plain).max() < 1e-6:  # nothing but focal lengths, centre and depth range
                fx, fy = proj[0, 0] * width / 2, proj[1, 1] * height / 2
                lens = (fx, fy, (1 - proj[0, 2]) * width / 2, (1 + proj[1, 2]) * height / 2)
            standard = lens is not None and np.allclose(proj[[0, 0, 1], [0, 2, 2]], _STANDARD, atol=1e-4)
            cameras[line["scene_name"]] = (Camera(lens, size=(width, height)), standard)
    return cameras


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
