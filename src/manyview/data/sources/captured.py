"""Scenes that were filmed: phones, RGB-D sensors and turntables, with the cameras their makers measured."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.poses import full, inverse, numbers, rigid, rotation_from_quaternion, table
from manyview.data.sources.rows import Camera, Row

_ANNOTATIONS = "frame_annotations.jgz"
_SPLITS = {"Training": "train", "Validation": "val"}
_NEAR = 0.005  # seconds between an image and the pose that counts for it


@SOURCES.add("arkitscenes")
@reader("VIDEO/lowres_wide folder", chunk=75, metric=True)
def arkitscenes(src: Source) -> Scenes:
    """ARKitScenes (3dod and raw): `{Training,Validation}/VIDEO/[VIDEO_frames/]lowres_wide` and what goes with it.

    Layout: DATA.md, raw/README.md and threedod/benchmark_scripts/utils/tenFpsDataLoader.py of
    github.com/apple/ARKitScenes (VIDEO_TIME.png; .pincam: w h fx fy cx cy, named up to 1 ms apart; .traj: time,
    axis-angle and translation of world to camera; a pose counts for images within 5 ms; depth in millimetres; that
    code back-projects whole pixel numbers, so pixel centres count from 0). MuM cuts the videos every 75 frames.
    SRC: the download folder, a split, or one video.
    """
    for folder in src.folders_named("lowres_wide".__eq__):
        video = folder.parent
        poses = src.read(video / "lowres_wide.traj", _arkit_poses) or {}
        times = np.array(sorted(poses))
        lenses = {path.stem: path for path in (video / "lowres_wide_intrinsics").glob("*.pincam")}
        split = next((name for part, name in _SPLITS.items() if part in folder.parts), "")
        rows = []
        for image in images_of(folder):
            name, _, stamp = image.stem.rpartition("_")
            if not re.fullmatch(r"\d+(\.\d+)?", stamp):
                src.problem(image, "its name does not say VIDEO_TIME")
                continue
            close = [f"{name}_{float(stamp) + shift:.3f}" for shift in (0.0, -0.001, 0.001)]
            file = next((lenses[key] for key in close if key in lenses), None)
            camera = (src.read(file, _pincam) if file else None) or Camera()
            nearest = times[np.abs(times - float(stamp)).argmin()] if len(times) else np.inf
            camera = replace(camera, cam2world=poses[nearest] if abs(nearest - float(stamp)) < _NEAR else None)
            depth = video / "lowres_depth" / image.name
            rows.append(Row(image=image, name=stamp, camera=camera, depth=depth, depth_scale=0.001, split=split))
        yield video.name.removesuffix("_frames"), rows


def _pincam(path: Path) -> Camera:
    size, lens = np.split(np.array(numbers(path)[0]), [2])
    return Camera.of(lens, centre=0, size=size)


def _arkit_poses(path: Path) -> dict[float, np.ndarray]:
    """Time -> cam2world."""
    from scipy.spatial.transform import Rotation

    lines = numbers(path)
    turns = Rotation.from_rotvec([line[1:4] for line in lines]).as_matrix()
    return {line[0]: inverse(rigid(turn, line[4:7])) for line, turn in zip(lines, turns, strict=True)}


@SOURCES.add("blendedmvs")
@reader("PID/blended_images folder")
def blendedmvs(src: Source) -> Scenes:
    """BlendedMVS, + and ++: `PID/{blended_images,cams,rendered_depth_maps}` in MVSNet's form.

    Layout: README of github.com/YoYo000/BlendedMVS ("Dataset Structure"; `_masked` images are copies and left out);
    camera files as datasets_preprocess/preprocess_blendedMVS.py of github.com/naver/dust3r reads them: the word
    extrinsic, 4x4 world to camera, the word intrinsic, 3x3. Scale is arbitrary. Pixel centres: not said, taken as
    +0.5. MuM cuts scenes in order every 100 frames (paper) or not at all (released code, and here).
    SRC: the folder of scenes, or one scene.
    """
    for folder in src.folders_named("blended_images".__eq__):
        scene = folder.parent
        rows = []
        for image in images_of(folder):
            if not image.stem.endswith("_masked"):
                camera = src.read(scene / "cams" / f"{image.stem}_cam.txt", mvsnet_camera)
                depth = scene / "rendered_depth_maps" / f"{image.stem}.pfm"
                rows.append(Row(image=image, camera=camera, depth=depth))
        yield scene.name, rows


def mvsnet_camera(path: Path) -> Camera:
    """A camera file of MVSNet."""
    words = path.read_text().split()
    if words[0] != "extrinsic" or words[17] != "intrinsic":
        raise ValueError("it is no MVSNet camera file (extrinsic, 16 numbers, intrinsic, 9 numbers)")
    return Camera.of(np.array(words[18:27], np.float64).reshape(3, 3), world2cam=words[1:17])


@SOURCES.add("co3d")
@reader(f"CATEGORY/{_ANNOTATIONS} with sequences beside it")
def co3d(src: Source) -> Scenes:
    """CO3D version 2 (and 1): `CATEGORY/frame_annotations.jgz` and the images, depths and cameras it names.

    Layout: datasets_preprocess/preprocess_co3d.py of github.com/naver/dust3r (gzipped JSON; `viewpoint` with
    PyTorch3D's R and T, rows times matrix, x left and y up, and focal length and principal point in units of half the
    shorter side from the centre; depth PNGs hold half floats to be multiplied by `scale_adjustment`).
    `intrinsics_format` ndc_norm_image_bounds, as version 1 writes it, counts in half the width and half the height
    instead: unverified. Whole videos are sequences, as MuM has them. Scale is arbitrary.
    SRC: the folder of categories, or one category.
    """
    for file in sorted([*src.root.glob(_ANNOTATIONS), *src.root.glob(f"*/{_ANNOTATIONS}")]):
        sequences: dict[str, list[Row]] = {}
        for entry in src.read(file, lambda path: json.loads(gzip.decompress(path.read_bytes()))) or ():
            row = src.read(file, partial(_co3d_row, entry))
            if row and row.image.parent.is_dir():  # else a sequence that was not downloaded
                sequences.setdefault(str(entry["sequence_name"]), []).append(row)
        for name, rows in sequences.items():
            yield f"{file.parent.name}/{name}", rows


def _co3d_row(entry: dict[str, Any], file: Path) -> Row:
    """PyTorch3D's row vectors, x left, y up, X_camera = X_world R + T, become OpenCV's cam2world."""
    image = file.parent / entry["image"]["path"].partition("/")[2]  # paths begin with the category
    (height, width), view, depth = entry["image"]["size"], entry.get("viewpoint"), entry.get("depth") or {}
    camera = None
    if view:
        isotropic = view.get("intrinsics_format", "ndc_isotropic") == "ndc_isotropic"
        x, y = (min(width, height) / 2,) * 2 if isotropic else (width / 2, height / 2)
        (fx, fy), (px, py) = view["focal_length"], view["principal_point"]
        flip = np.diag([-1.0, -1.0, 1.0])
        rotation, translation = (np.asarray(view[key], np.float64) for key in "RT")
        world2cam = rigid(flip @ rotation.T, flip @ translation)
        lens = (fx * x, fy * y, width / 2 - px * x, height / 2 - py * y)
        camera = Camera.of(lens, world2cam=world2cam, size=(width, height))
    return Row(
        image=image,
        camera=camera,
        depth=image.parent.parent / "depths" / Path(depth["path"]).name if depth.get("path") else None,
        depth_scale=float(depth.get("scale_adjustment") or 1.0),
    )


@SOURCES.add("mapfree")
@reader("sNNNNN folder with seq0", metric=True)
def mapfree(src: Source) -> Scenes:
    """Niantic Map-free: `{train,val,test}/sNNNNN/{seq0,seq1}/frame_NNNNN.jpg`, poses.txt, intrinsics.txt.

    Layout: README of github.com/nianticlabs/map-free-reloc ("Organization"): per line the frame's path, then fx fy cx
    cy width height, or qw qx qy qz tx ty tz of world to camera in metres; lines of zeros are poses kept secret.
    Pixel centres: not said, taken as +0.5.
    SRC: the folder with train, val and test, one of these, or one scene; both sequences are one scene.
    """
    for scene in [path for path in [src.root, *src.folders("**/s*")] if (path / "seq0").is_dir()]:
        lenses = src.read(scene / "intrinsics.txt", partial(table, count=6)) or {}
        poses = src.read(scene / "poses.txt", partial(table, count=7)) or {}
        split = scene.parent.name if scene.parent.name in ("train", "val", "test") else ""
        rows = []
        for image in [image for part in sorted(scene.glob("seq*")) for image in images_of(part)]:
            part = image.parent.name
            lens, pose = lenses.get(f"{part}/{image.name}"), poses.get(f"{part}/{image.name}")
            world2cam = rigid(rotation_from_quaternion(pose[:4]), pose[4:7]) if pose and any(pose[:4]) else None
            camera = Camera.of(lens and lens[:4], world2cam=world2cam, size=lens and lens[4:6])
            rows.append(Row(image=image, name=f"{part}/{image.stem}", camera=camera, split=split))
        yield scene.name, rows


@SOURCES.add("re10k")
@reader("CLIP.txt with a CLIP folder of frames")
def re10k(src: Source) -> Scenes:
    """RealEstate10K: one text file of cameras per clip, and the frames that were cut out of its video.

    `[train|test/]CLIP.txt`: first line the video's address, then per frame its time in microseconds, fx fy cx cy as
    fractions of the width and height, two zeros, and the 3x4 world-to-camera matrix row by row with OpenCV axes.
    Layout of a line: `convert_poses` in src/dataset/dataset_re10k.py of github.com/dcharatan/pixelsplat, and the
    format section of google.github.io/realestate10k (not read: only quoted by such code). The data set gives no
    images; where frames lie is everybody's own choice. Read here: `[frames/][train|test/]CLIP/TIME.jpg|png`.
    SRC: a folder with the clips' text files and their folders of frames, side by side or in a folder of each.
    """
    lists = {path.stem: path for path in src.files_named(lambda name: name.endswith(".txt"))}
    for folder in src.folders_named(lists.__contains__):
        images, file = images_of(folder), lists[folder.name]
        if images:
            cameras = src.read(file, _re10k_cameras) or {}
            split = src.split(file, "train", "test", "validation")
            yield folder.name, [Row(image=path, camera=cameras.get(_time(path.stem)), split=split) for path in images]


def _re10k_cameras(path: Path) -> dict[str, Camera]:
    """Time in microseconds -> camera."""
    cameras = {}
    for number, words in enumerate(line.split() for line in path.read_text().splitlines()):
        if len(words) == 19:
            cameras[_time(words[0])] = Camera.of(words[1:5], world2cam=words[7:], size=(1, 1))
        elif words and number:  # the first line is an address
            raise ValueError(f"a line has {len(words)} words, not 19")
    return cameras


def _time(text: str) -> str:
    """As written, without leading zeros."""
    return text.lstrip("0") or "0"


@SOURCES.add("wildrgbd")
@reader("CATEGORY/scenes/SCENE/rgb folder", metric=True)
def wildrgbd(src: Source) -> Scenes:
    """WildRGB-D: `CATEGORY/scenes/scene_ID/{rgb,depth,masks}/FRAME.png`, `metadata`, `cam_poses.txt`.

    Layout: README of github.com/wildrgbd/wildrgbd (folders, depth / 1000 = metres, OpenCV cam2world per line after
    the frame's number; it writes `scenes_ID`). That `metadata` is JSON with w, h and K stored column by column:
    datasets_preprocess/preprocess_wildrgbd.py of github.com/naver/dust3r. Pixel centres: not said, taken as +0.5.
    SRC: the data set's folder, a category's, or one scene's.
    """
    for folder in src.folders("rgb", "*/rgb", "*/*/rgb", "*/*/*/rgb"):
        scene = folder.parent
        camera = src.read(scene / "metadata", _wildrgbd_camera) or Camera()
        poses = src.read(scene / "cam_poses.txt", lambda path: {int(n): full(pose) for n, *pose in numbers(path)}) or {}
        rows = []
        for image in images_of(folder):
            placed = replace(camera, cam2world=poses.get(int(image.stem)) if image.stem.isdigit() else None)
            depth = scene / "depth" / f"{image.stem}.png"
            rows.append(Row(image=image, camera=placed, depth=depth, depth_scale=0.001))
        yield "/".join(part for part in src.name(scene).split("/") if part != "scenes"), rows


def _wildrgbd_camera(path: Path) -> Camera:
    content = json.loads(path.read_text())
    return Camera.of(np.array(content["K"], np.float64).reshape(3, 3).T, size=(content["w"], content["h"]))
