"""Scenes that were rendered: exact cameras and depth, each data set with axes, units and skies of its own."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from manyview.data.depths import open_hdf5
from manyview.data.sources.base import SOURCES, Scenes, Source, first_file, images_of, reader
from manyview.data.sources.poses import (
    OPENGL,
    full,
    inverse,
    number_in,
    numbers,
    rigid,
    rotation_from_quaternion,
    unmirrored,
)
from manyview.data.sources.rows import Camera, Row

CAMERAS = "metadata_camera_parameters.csv"
_STANDARD = (3**0.5, 0.0, 0.0)  # M_proj 00, 02, 12 of the 60 degree camera most scenes share
_NED = rigid(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.zeros(3))  # forward right down <- OpenCV
_TURN = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_PIXELS = 2.0  # median distance of the tracks that is still agreement
_PARTS = ("", "vkitti_2.0.3_rgb", "vkitti_2.0.3_depth", "vkitti_2.0.3_textgt")


@SOURCES.add("hypersim")
@reader("ai_VVV_NNN/images/scene_cam_CC_final_preview folder", metric=True)
def hypersim(src: Source) -> Scenes:
    """Hypersim: `ai_VVV_NNN/{_detail,images}`, preview pictures, HDF5 depth and camera trajectories.

    Layout: README of github.com/apple/ml-hypersim (folders; camera positions in asset units and orientations whose
    columns are right, up, backwards; `meters_per_asset_unit` of `_detail/metadata_scene.csv`; depth_meters is the
    distance to the optical centre). Intrinsics: contrib/mikeroberts3000 there: `M_proj_*` of
    metadata_camera_parameters.csv, a file of that repository to be put beside the scenes. Scenes with tilt-shift
    lenses that no pinhole describes get no intrinsics, and no depth, since it could not be turned into depth along
    the axis. Cameras and depth need the optional package h5py. Pictures: the tone-mapped `scene_cam_CC_final_preview`.
    SRC: the folder of scenes, or one scene. Every camera trajectory is a scene.
    """
    previews = "images/scene_cam_*_final_preview"
    folders = src.folders(previews, f"ai_*/{previews}", f"*/ai_*/{previews}")
    lenses = src.read(src.beside(CAMERAS) or src.root / CAMERAS, _hypersim_lenses) if folders else None
    for folder in folders:
        scene, number = folder.parent.parent, folder.name.split("_")[2]
        camera, standard = (lenses or {}).get(scene.name, (Camera(), False))
        metres = src.read(scene / "_detail" / "metadata_scene.csv", _hypersim_metres)
        poses = src.read(scene / "_detail" / f"cam_{number}", partial(_hypersim_poses, metres=metres)) or {}
        maps = folder.parent / f"scene_cam_{number}_geometry_hdf5"
        rows: dict[str, Row] = {}
        for image in images_of(folder):  # previews of the reflectance and others lie there too
            frame = image.name.split(".")[1]
            if image.name.endswith(".tonemap.jpg") or (image.name.endswith(".color.jpg") and frame not in rows):
                depth = maps / f"frame.{frame}.depth_meters.hdf5" if standard else None
                placed = replace(camera, cam2world=poses.get(number_in(frame)))
                rows[frame] = Row(image=image, name=frame, camera=placed, depth=depth)
        yield f"{scene.name}/cam_{number}", rows.values()


def _hypersim_lenses(path: Path) -> dict[str, tuple[Camera, bool]]:
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
                lens = proj[[0, 1, 0, 1], [0, 1, 2, 2]] * [1, 1, -1, 1] + [0, 0, 1, 1]
                lens *= [width / 2, height / 2, width / 2, height / 2]
            standard = lens is not None and np.allclose(proj[[0, 0, 1], [0, 2, 2]], _STANDARD, atol=1e-4)
            cameras[line["scene_name"]] = (Camera.of(lens, size=(width, height)), standard)
    return cameras


def _hypersim_metres(path: Path) -> float:
    with path.open(newline="") as file:
        values = {row["parameter_name"]: row["parameter_value"] for row in csv.DictReader(file)}
    return float(values["meters_per_asset_unit"])


def _hypersim_poses(folder: Path, metres: float | None) -> dict[int, np.ndarray]:
    """Frame -> cam2world in metres; none when the scale is not known."""
    if metres is None:
        return {}
    arrays = []
    for name in ("orientations", "positions"):
        with open_hdf5(folder / f"camera_keyframe_{name}.hdf5") as file:
            arrays.append(np.asarray(file["dataset"], np.float64))
    return {i: rigid(turn, place * metres) @ OPENGL for i, (turn, place) in enumerate(zip(*arrays, strict=True))}


@SOURCES.add("mvssynth")
@reader("NNNN folder with images and poses")
def mvssynth(src: Source) -> Scenes:
    """MVS-Synth: `NNNN/{images,depths,poses}/FFFF.{png,exr,json}`, rendered by a game.

    Layout: data_processing/wai_processing/scripts/conversion/mvs_synth.py of github.com/facebookresearch/map-anything
    (`extrinsic` is 4x4 world to camera; the world is left-handed, so its y axis is turned over here; f_x f_y c_x c_y;
    depth along the axis with infinity for sky). Lengths stay the file's own: that source divides by 10 for metres,
    judged by the length of cars. Pixel centres: not said, taken as +0.5. Depth needs a reader of OpenEXR files.
    SRC: the folder of numbered sequences, or one sequence.
    """
    for poses in src.folders("poses", "*/poses", "*/*/poses"):
        scene = poses.parent
        rows = []
        for image in images_of(scene / "images"):
            camera = src.read(poses / f"{image.stem}.json", _mvssynth_camera)
            rows.append(Row(image=image, camera=camera, depth=scene / "depths" / f"{image.stem}.exr"))
        yield src.name(scene), rows


def _mvssynth_camera(path: Path) -> Camera:
    content = json.loads(path.read_text())
    pose = unmirrored(inverse(full(content["extrinsic"])))
    return Camera.of([content[key] for key in ("f_x", "f_y", "c_x", "c_y")], cam2world=pose)


@SOURCES.add("pointodyssey")
@reader("SCENE/rgbs folder")
def pointodyssey(src: Source) -> Scenes:
    """PointOdyssey: `[train|val|test|sample/]SCENE/{rgbs,depths}` and an annotation file of cameras and tracks.

    Layout: utils/reprojection.py of github.com/y-zheng18/point_odyssey (rgbs/rgb_FFFFF.jpg, depths/depth_FFFFF.png
    with 65535 = 1000 m, `annotations.npz` with intrinsics, extrinsics, trajs_2d, trajs_3d). Later releases name the
    file `anno.npz`. That script projects with OpenGL axes, a mirrored picture and turned track coordinates, which
    other loaders do not; so nothing is taken on trust: the axes are those under which the file's own 3D tracks fall
    on its 2D tracks, and without such axes no camera is read.
    SRC: the folder with train, val, test, one of these, or one scene.
    """
    for folder in src.folders("rgbs", "*/rgbs", "*/*/rgbs"):
        scene = folder.parent
        file = first_file(scene / name for name in ("anno.npz", "annotations.npz"))
        cameras = src.read(file, _pointodyssey_cameras) or {}
        split = scene.parent.name if scene.parent.name in ("train", "val", "test") else ""
        rows = []
        for image in images_of(folder):
            frame = image.stem.rsplit("_", 1)[-1]
            camera = cameras.get(int(frame)) if frame.isdigit() else None
            depth = scene / "depths" / f"depth_{frame}.png"
            rows.append(Row(image=image, name=frame, camera=camera, depth=depth, depth_scale=1000 / 65535, split=split))
        yield src.name(scene), rows


def _pointodyssey_cameras(path: Path) -> dict[int, Camera]:
    """Frame -> camera. Raises ValueError when the tracks agree with no known axes."""
    with np.load(path, allow_pickle=False) as file:
        lenses, extrinsics = file["intrinsics"].astype(np.float64), file["extrinsics"].astype(np.float64)
        middle = len(extrinsics) // 2
        points, pixels = file["trajs_3d"][middle], file["trajs_2d"][middle]
        valid = file["visibs"][middle].astype(bool) if "visibs" in file else np.ones(len(points), bool)
    valid &= np.isfinite(points).all(-1) & np.isfinite(pixels).all(-1)
    axes = _axes(points[valid], pixels[valid], lenses[middle], full(extrinsics[middle]))
    pairs = enumerate(zip(lenses, extrinsics, strict=True))
    return {frame: Camera.of(lens, world2cam=axes @ full(world2cam)) for frame, (lens, world2cam) in pairs}


def _axes(points: np.ndarray, pixels: np.ndarray, lens: np.ndarray, world2cam: np.ndarray) -> np.ndarray:
    """(4, 4): from the stored camera axes to OpenCV's, chosen by where the 3D tracks fall."""
    points = np.concatenate([points, np.ones((len(points), 1))], -1)
    errors: list[tuple[float, int]] = []
    choices = (np.eye(4), OPENGL)
    for number, axes in enumerate(choices):
        for turn in (np.eye(4), _TURN):
            camera = points @ (axes @ world2cam @ turn).T
            with np.errstate(divide="ignore", invalid="ignore"):
                projected = (camera[:, :3] @ lens.T)[:, :2] / camera[:, 2:3]
            distances = np.linalg.norm(projected - pixels, axis=-1)
            middle = float(np.median(distances)) if len(points) else np.nan
            errors.append((np.inf if np.isnan(middle) else middle, number))
    least, best = min(errors)
    if not least < _PIXELS:
        raise ValueError(f"its 3D tracks fall {least:.1f} pixels from its 2D tracks, axes unknown")
    return choices[best]


@SOURCES.add("tartanair")
@reader("PNNN/image_left folder", metric=True)
def tartanair(src: Source) -> Scenes:
    """TartanAir: `ENVIRONMENT/{Easy,Hard}/PNNN/{image,depth}_{left,right}` and pose_left.txt, pose_right.txt.

    Layout: README.md and data_type.md of github.com/castacks/tartanair_tools (640x480, fx = fy = 320, cx = 320,
    cy = 240; depth as .npy in metres; one line tx ty tz qx qy qz qw per image, camera to world, both with axes
    forward, right, down). The sky is about 10000 m away. Poses are given here with OpenCV's camera axes in the same
    world. Left and right cameras are scenes of their own.
    SRC: the folder of environments, one of them, or one trajectory.
    """
    for folder in src.folders_named(("image_left", "image_right").__contains__):
        side, scene = folder.name.removeprefix("image_"), folder.parent
        poses = src.read(scene / f"pose_{side}.txt", _tartanair_poses) or []
        rows = []
        for image in images_of(folder):
            index = number_in(image.stem.split("_")[0])
            pose = poses[index] if 0 <= index < len(poses) else None
            camera = Camera((320.0, 320.0, 320.0, 240.0), pose, (640.0, 480.0))
            rows.append(Row(image=image, camera=camera, depth=scene / f"depth_{side}" / f"{image.stem}_depth.npy"))
        yield f"{src.name(scene)}/{side}", rows


def _tartanair_poses(path: Path) -> list[np.ndarray]:
    return [rigid(rotation_from_quaternion([w, x, y, z]), place) @ _NED for *place, x, y, z, w in numbers(path)]


@SOURCES.add("unreal4k")
@reader("NNNNN/Image0 folder")
def unreal4k(src: Source) -> Scenes:
    """UnrealStereo4K: `NNNNN/{Image0,Image1,Disp0,Disp1,Extrinsics0,Extrinsics1}/FFFFF`.

    Layout: data_processing/wai_processing/scripts/conversion/unrealstereo4k.py of
    github.com/facebookresearch/map-anything (`ExtrinsicsC/F.txt`: a line of 9 numbers, the intrinsics, and a line of
    12, world to camera; the world is left-handed, so its y axis is turned over here). Disparities are not turned into
    depth. Pixel centres: taken as +0.5.
    SRC: the folder of scenes, or one scene; both cameras are in it.
    """
    for folder in src.folders("Image0", "*/Image0"):
        scene = folder.parent
        rows = []
        for number in "01":
            for image in images_of(scene / f"Image{number}"):
                camera = src.read(scene / f"Extrinsics{number}" / f"{image.stem}.txt", _unreal4k_camera)
                rows.append(Row(image=image, name=f"{image.stem}_{number}", camera=camera))
        yield src.name(scene), rows


def _unreal4k_camera(path: Path) -> Camera:
    lens, pose = numbers(path)
    return Camera.of(np.reshape(lens, (3, 3)), cam2world=unmirrored(inverse(full(pose))))


@SOURCES.add("vkitti2")
@reader("SceneNN/VARIATION/frames/rgb/Camera_C folder", metric=True)
def vkitti2(src: Source) -> Scenes:
    """Virtual KITTI 2: `SceneNN/VARIATION/frames/{rgb,depth}/Camera_C/{rgb,depth}_FFFFF`, text files of cameras.

    Layout: training/data/datasets/vkitti.py of github.com/facebookresearch/vggt (`extrinsic.txt` and
    `intrinsic.txt` with one header line, columns frame, camera, then 16 numbers world to camera with OpenCV axes or
    fx fy cx cy; depth in centimetres). The tars unpack beside each other or into vkitti_2.0.3_{rgb,depth,textgt}
    folders; both are found. The stored principal point (620.5, 187 of 1242x375) counts pixel centres from 0. Sky is
    stored as 65535, 655.35 m. Each variation and camera is a scene; both cameras of one share a name but for it.
    SRC: the folder the tar files were unpacked into.
    """
    for folder in src.folders(*(f"{part}/Scene*/*/frames/rgb/Camera_*".lstrip("/") for part in _PARTS)):
        *_, world, variation, _, _, camera = folder.parts
        columns = partial(_vkitti2_columns, camera=int(camera.rsplit("_", 1)[1]))
        texts = first_file(src.root / part / world / variation / "extrinsic.txt" for part in _PARTS).parent
        lenses, poses = (src.read(texts / f"{name}.txt", columns) or {} for name in ("intrinsic", "extrinsic"))
        rows = []
        for image in images_of(folder):
            frame = number_in(image.stem.rpartition("_")[2])
            if frame < 0:
                src.problem(image, "its name does not say rgb_FRAME")
                continue
            depth = f"{world}/{variation}/frames/depth/{camera}/depth_{frame:05d}.png"
            rows.append(
                Row(
                    image=image,
                    name=f"{frame:05d}",
                    camera=src.read(texts, partial(_vkitti2_camera, lenses.get(frame), poses.get(frame))),
                    depth=first_file(src.root / part / depth for part in _PARTS),
                    depth_scale=0.01,
                )
            )
        yield f"{world}/{variation}/{camera}", rows


def _vkitti2_camera(lens: list[float] | None, world2cam: list[float] | None, _: Path) -> Camera:
    return Camera.of(lens, centre=0, world2cam=world2cam)


def _vkitti2_columns(path: Path, camera: int) -> dict[int, list[float]]:
    """Frame -> the numbers after frame and camera, of one camera."""
    return {int(frame): rest for frame, of, *rest in numbers(path, skip=1) if int(of) == camera}
