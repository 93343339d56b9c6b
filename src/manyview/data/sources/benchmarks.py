"""Data sets that reconstruction is judged on: 7-Scenes, DTU, ETH3D, TUM RGB-D, and renders of Habitat's scans."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, first_file, images_of, reader
from manyview.data.sources.captured import mvsnet_camera
from manyview.data.sources.colmap import read_model, rows_of
from manyview.data.sources.poses import full, matrix_of, number_in, rigid, rotation_from_quaternion
from manyview.data.sources.rows import Camera, Row

_SEVEN = Camera.of((585, 585, 320, 240), size=(640, 480))
_TUM = {  # freiburgN: fx fy cx cy
    "1": (517.3, 516.5, 318.6, 255.3),
    "2": (520.9, 521.0, 325.1, 249.7),
    "3": (535.4, 539.2, 320.1, 247.6),
}
_TUM_OTHERS = (525.0, 525.0, 319.5, 239.5)
_TUM_APART = 0.02  # seconds between a picture and the depth map or pose that counts for it
_DTU_LIGHT = 3  # of seven: the diffuse one, as tests of MVSNet take it
_DTU_TRAINED = (160, 128)  # width and height that the cameras of the training release are for


@SOURCES.add("7scenes")
@reader("SCENE/seq-NN folder with frame-NNNNNN.color.png", metric=True)
def seven_scenes(src: Source) -> Scenes:
    """7-Scenes: `SCENE/seq-NN/frame-NNNNNN.{color.png,depth.png,pose.txt}`, `SCENE/{Train,Test}Split.txt`.

    Layout: the data set's page (microsoft.com, RGB-D Dataset 7-Scenes) as loaders quote it: poses are camera to world,
    depth is in millimetres with 65535 for none, focal length 585, principal point (320, 240); the two cameras are not
    calibrated to each other, so depth is off by some pixels; `depth.proj.png`, where somebody has registered it, is
    taken instead. Each sequence is a scene; the split files ("sequence1" a line) give the splits. The field judges the
    test sequences with every 20th (or 200th) frame: --stride 20, then `data info` shows the split.
    SRC: the folder of scenes, one scene, or one sequence.
    """
    for folder in [*([src.root] if src.root.name.startswith("seq-") else []), *src.folders("seq-*", "*/seq-*")]:
        split, number = "", number_in(folder.name.removeprefix("seq-"))
        for name in ("Train", "Test"):
            listed = folder.parent / f"{name}Split.txt"
            if listed.is_file() and number in [int(n) for n in re.findall(r"\d+", listed.read_text())]:
                split = name.lower()
        rows = []
        for image in sorted(folder.glob("frame-*.color.png")):
            stem = folder / image.name.removesuffix(".color.png")
            pose = src.read(stem.with_suffix(".pose.txt"), lambda path: full(matrix_of(path)))
            camera = replace(_SEVEN, cam2world=pose)
            depth = first_file(stem.with_suffix(end) for end in (".depth.proj.png", ".depth.png"))
            rows.append(Row(image=image, name=stem.name, camera=camera, depth=depth, depth_scale=0.001, split=split))
        yield (src.name(folder) if folder != src.root else folder.name), rows


@SOURCES.add("dtu")
@reader("Rectified/scanN folder, or scanN with images and cams")
def dtu(src: Source) -> Scenes:
    """DTU's MVS scans as MVSNet published them, for training and for tests; lengths are millimetres.

    Training: `Rectified/scanN[_train]/rect_VVV_L_r5000.png` (views from 1), `Cameras/train/NNNNNNNN_cam.txt` (from 0),
    for images a quarter as large and shared by all scans, `Depths[_raw]/scanN[_train]/depth_map_NNNN.pfm`. One of the
    seven lights is read, the diffuse one. Tests: `scanN/images/NNNNNNNN.jpg`, `scanN/cams/NNNNNNNN_cam.txt`, and
    `scanN/depths/NNNNNNNN.npy` or `.pfm` where somebody has put depth there. Camera files as in BlendedMVS.
    Layout: README of github.com/YoYo000/MVSNet and loaders of it; the tests' depths as Spann3R has them, unverified.
    SRC: the folder with Rectified, the folder of scans, or one scan.
    """
    for folder in src.folders("Rectified/scan*"):
        rows, at = [], src.root
        for image in images_of(folder):
            found = re.fullmatch(rf"rect_(\d+)_{_DTU_LIGHT}_r\d+", image.stem)
            if found:
                view = int(found[1]) - 1
                camera = src.read(at / "Cameras" / "train" / f"{view:08d}_cam.txt", mvsnet_camera) or Camera()
                places = [at / kind / folder.name / f"depth_map_{view:04d}.pfm" for kind in ("Depths", "Depths_raw")]
                rows.append(Row(image=image, camera=replace(camera, size=_DTU_TRAINED), depth=first_file(places)))
        yield folder.name, rows
    for folder in [*([src.root] if (src.root / "cams").is_dir() else []), *src.folders("scan*")]:
        if (folder / "cams").is_dir():
            rows = []
            for image in images_of(folder / "images"):
                known = src.read(folder / "cams" / f"{image.stem}_cam.txt", mvsnet_camera)
                depth = first_file(folder / "depths" / f"{image.stem}{end}" for end in (".npy", ".pfm"))
                rows.append(Row(image=image, camera=known, depth=depth))
            yield src.name(folder), rows


@SOURCES.add("eth3d")
@reader("SCENE/dslr_calibration_undistorted or SCENE/rig_calibration_undistorted folder", metric=True)
def eth3d(src: Source) -> Scenes:
    """ETH3D's multi-view scenes, undistorted: `SCENE/{dslr,rig}_calibration_undistorted` and `SCENE/images`.

    Layout: eth3d.net/documentation (a COLMAP text model whose images' names are paths below `images`). Its true depth
    is given for the distorted images of a fisheye model alone, so it is not read.
    SRC: the folder of scenes, or one scene.
    """
    for folder in src.folders_named(("dslr_calibration_undistorted", "rig_calibration_undistorted").__contains__):
        if model := src.read(folder, read_model):
            kind = "" if folder.name.startswith("dslr") else "/rig"
            yield src.name(folder.parent) + kind, rows_of(src, model, [folder.parent / "images"])


@SOURCES.add("tum")
@reader("rgbd_dataset_freiburgN_NAME folder with rgb.txt", metric=True)
def tum(src: Source) -> Scenes:
    """TUM RGB-D: `SEQUENCE/{rgb,depth}/TIME.png`, listed in rgb.txt and depth.txt; poses in groundtruth.txt.

    Layout: the benchmark's page on file formats (cvg.cit.tum.de): per line a time and a file, or a time, tx ty tz and
    qx qy qz qw of camera to world; depth / 5000 = metres, registered to the colour image; intrinsics of the three
    Kinects, pixel centres at whole numbers. A depth map or pose within 0.02 s counts. freiburg1 and 2 are distorted.
    SRC: the folder of sequences, or one sequence.
    """
    src.distorted()
    for listed in src.files_named("rgb.txt".__eq__):
        folder = listed.parent
        pictures, depths, poses = (src.read(folder / name, _timed) or {} for name in _TUM_FILES)
        kinect = re.search(r"freiburg([123])", folder.name)
        lens = _TUM[kinect[1]] if kinect else _TUM_OTHERS
        rows = []
        for time, (file, *_) in pictures.items():
            pose, depth = _nearest(poses, time), _nearest(depths, time)
            camera = Camera.of(lens, centre=0, size=(640, 480))
            if pose is not None:
                known = src.read(folder / "groundtruth.txt", partial(_tum_pose, pose))
                camera = replace(camera, cam2world=known)
            map_file = None if depth is None else folder / depth[0]
            rows.append(Row(image=folder / file, camera=camera, depth=map_file, depth_scale=1 / 5000))
        yield src.name(folder), rows


def _tum_pose(words: list[str], _: Path) -> np.ndarray:
    *place, x, y, z, w = (float(word) for word in words)
    return rigid(rotation_from_quaternion((w, x, y, z)), place)


_TUM_FILES = ("rgb.txt", "depth.txt", "groundtruth.txt")


def _timed(path: Path) -> dict[float, list[str]]:
    """Time -> the words after it, in order of time."""
    lines = (line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#"))
    timed = dict(sorted((float(time), words) for time, *words in lines))
    if not all(timed.values()):
        raise ValueError("a line has a time and nothing else")
    return timed


def _nearest(timed: dict[float, list[str]], time: float) -> list[str] | None:
    times = np.array([*timed])
    at = times[np.abs(times - time).argmin()] if len(times) else np.inf
    return timed[float(at)] if abs(at - time) <= _TUM_APART else None


@SOURCES.add("habitat")
@reader("KEY_N.jpeg with KEY_N_camera_params.json", metric=True)
def habitat(src: Source) -> Scenes:
    """Renders of HM3D, Gibson, ScanNet … by Habitat as DUSt3R's script makes them: few views of one place each.

    `[DATASET/]SCENE/KEY_N.jpeg`, `KEY_N_depth.exr` (metres along the axis), `KEY_N_camera_params.json`
    (camera_intrinsics with pixel centres at whole numbers, R_cam2world, t_cam2world; NaN where rendering failed).
    Layout: datasets_preprocess/habitat and dust3r/datasets/habitat.py of github.com/naver/dust3r. Each KEY is a scene.
    SRC: the folder of scenes, or one scene.
    """
    places: dict[tuple[Path, str], list[Row]] = {}
    for file in src.files_named(lambda name: name.endswith("_camera_params.json")):
        stem = file.name.removesuffix("_camera_params.json")
        image = file.with_name(f"{stem}.jpeg")
        row = Row(
            image=image, camera=src.read(file, _habitat_camera), depth=file.with_name(f"{stem}_depth.exr"), name=stem
        )
        places.setdefault((file.parent, stem.rpartition("_")[0]), []).append(row)
    for (folder, key), rows in places.items():
        yield f"{src.name(folder)}/{key}", rows


def _habitat_camera(path: Path) -> Camera:
    said = json.loads(path.read_text())
    pose = rigid(np.array(said["R_cam2world"], np.float64).reshape(3, 3), np.ravel(said["t_cam2world"]))
    return Camera.of(np.array(said["camera_intrinsics"]), centre=0, cam2world=pose, size=said.get("size"))
