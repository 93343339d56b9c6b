"""Rendered data sets in their official layouts: Hypersim, PointOdyssey, MVS-Synth, vKITTI 2, TartanAir, Unreal."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from manyview.data.depths import read_depth
from manyview.data.loading import load_views
from manyview.data.sources import scan
from official_layouts import (
    CAM2WORLD,
    GL,
    LENS,
    POINTS,
    SIZE,
    WORLD2CAM,
    check_cameras,
    map16,
    picture,
    pixels,
    quaternion,
    text,
)

MIRROR = np.diag([1.0, -1, 1, 1])
FLAT = np.array([[55.42562584, 0, 32.0], [0, 55.42562584, 24.0], [0, 0, 1]])  # 60 degrees across 64 pixels


def hypersim(root, *, lens=FLAT, tilt=0.0, metres=0.0254):
    h5py = pytest.importorskip("h5py", reason="Hypersim's cameras and depth are HDF5 files")
    scene = root / "ai_001_002"
    detail = scene / "_detail" / "cam_00"
    detail.mkdir(parents=True)
    gl = np.stack([pose @ GL for pose in CAM2WORLD])
    for name, values in (("orientations", gl[:, :3, :3]), ("positions", gl[:, :3, 3] / metres)):
        with h5py.File(detail / f"camera_keyframe_{name}.hdf5", "w") as file:
            file["dataset"] = values
    lines = ["parameter_name,parameter_value", f"meters_per_asset_unit,{metres}"]
    text(scene / "_detail" / "metadata_scene.csv", *lines)
    proj = np.zeros((4, 4))
    proj[0, 0], proj[1, 1] = lens[0, 0] * 2 / SIZE[0], lens[1, 1] * 2 / SIZE[1]
    proj[0, 2], proj[1, 2] = 1 - lens[0, 2] * 2 / SIZE[0], lens[1, 2] * 2 / SIZE[1] - 1
    proj[2, 2:], proj[3, 2], proj[0, 1] = (-1.002, -2.002), -1, tilt
    row = {"scene_name": scene.name, "settings_output_img_width": 64.0, "settings_output_img_height": 48.0}
    row |= {f"M_proj_{i}{j}": proj[i, j] for i in range(4) for j in range(4)}
    with (root / "metadata_camera_parameters.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    depth = scene / "images" / "scene_cam_00_geometry_hdf5"
    depth.mkdir(parents=True)
    for i in range(3):
        picture(scene / "images" / "scene_cam_00_final_preview" / f"frame.{i:04d}.tonemap.jpg")
        picture(scene / "images" / "scene_cam_00_final_preview" / f"frame.{i:04d}.diffuse_reflectance.jpg")
        x, y = np.meshgrid(np.arange(64) + 0.5 - 32, np.arange(48) + 0.5 - 24)
        ray = np.sqrt(x**2 + y**2 + FLAT[0, 0] ** 2) / FLAT[0, 0]
        with h5py.File(depth / f"frame.{i:04d}.depth_meters.hdf5", "w") as file:
            file["dataset"] = (2.5 * ray).astype(np.float16)  # a wall 2.5 m away, as distances
    return scene


def test_hypersim(tmp_path):
    scene = hypersim(tmp_path / "h")
    for src in (tmp_path / "h", scene):
        manifest, problems = scan(src, format="hypersim")
        assert problems == []
        check_cameras(manifest.frames, lens=FLAT)
    assert list(manifest.scenes()) == ["ai_001_002/cam_00"]
    depth = read_depth(manifest.path(manifest[0].depth), manifest[0].depth_scale)
    assert np.abs(depth - 2.5).max() < 0.005  # a plane again, in metres


def test_hypersim_with_a_shifted_a_tilted_and_an_unknown_lens(tmp_path):
    shifted = FLAT + np.array([[0, 0, 3.0], [0, 0, -2.0], [0, 0, 0]])
    hypersim(tmp_path / "a", lens=shifted)
    manifest, _ = scan(tmp_path / "a", format="hypersim")
    check_cameras(manifest.frames, lens=shifted)
    assert manifest[0].depth is None  # its distances would become depth by the wrong camera
    hypersim(tmp_path / "b", tilt=0.1)
    manifest, problems = scan(tmp_path / "b", format="hypersim")
    assert [(f.fx, f.depth, f.pose is None) for f in manifest.frames] == [(None, None, False)] * 3
    (tmp_path / "b" / "metadata_camera_parameters.csv").unlink()
    manifest, problems = scan(tmp_path / "b", format="hypersim")
    assert [p.path for p in problems] == ["metadata_camera_parameters.csv"]
    assert len(manifest) == 3


def odyssey(scene, *, kind):
    lens = np.repeat(LENS[None], 3, 0)
    points, shown = POINTS.copy(), np.stack([pixels(pose) for pose in CAM2WORLD])
    world2cam = np.stack(WORLD2CAM)
    if kind == "opengl":
        world2cam = GL @ world2cam
    if kind == "turned":  # as utils/reprojection.py: the tracks' coordinates are turned once more
        world2cam = GL @ world2cam
        points = points @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # inverse turn
    if kind == "nonsense":
        shown += 40
    scene.mkdir(parents=True)
    np.savez(
        scene / ("anno.npz" if kind == "opencv" else "annotations.npz"),
        trajs_2d=shown.astype(np.float32),
        trajs_3d=np.repeat(points[None], 3, 0).astype(np.float32),
        visibs=np.ones(shown.shape[:2], bool),
        intrinsics=lens.astype(np.float32),
        extrinsics=world2cam.astype(np.float32),
    )
    for i in range(3):
        picture(scene / "rgbs" / f"rgb_{i:05d}.jpg")
        map16(scene / "depths" / f"depth_{i:05d}.png", 131)


@pytest.mark.parametrize("kind", ["opencv", "opengl", "turned"])
def test_pointodyssey_axes_are_those_of_its_tracks(tmp_path, kind):
    odyssey(tmp_path / "p" / "train" / "cab", kind=kind)
    manifest, problems = scan(tmp_path / "p", format="pointodyssey")
    assert problems == []
    check_cameras(manifest.frames)
    assert (manifest[0].scene, manifest[0].frame, manifest[0].split) == ("train/cab", "00000", "train")
    assert load_views(manifest, [0], (28, 28)).depth.mean() == pytest.approx(131 / 65535 * 1000)


def test_pointodyssey_whose_tracks_contradict_its_cameras(tmp_path):
    odyssey(tmp_path / "cab", kind="nonsense")
    manifest, problems = scan(tmp_path / "cab", format="pointodyssey")
    assert [frame.pose for frame in manifest.frames] == [None] * 3
    assert ["axes unknown" in problem.reason for problem in problems] == [True]


def test_mvssynth_worlds_are_left_handed(tmp_path):
    root = tmp_path / "s" / "0007"
    for i, world2cam in enumerate(WORLD2CAM):
        picture(root / "images" / f"{i:04d}.png")
        camera = {"f_x": LENS[0, 0], "f_y": LENS[1, 1], "c_x": LENS[0, 2], "c_y": LENS[1, 2]}
        text(root / "poses" / f"{i:04d}.json", json.dumps({**camera, "extrinsic": (world2cam @ MIRROR).tolist()}))
    (root / "depths").mkdir()
    (root / "depths" / "0000.exr").write_bytes(b"v/1\x01")
    manifest, problems = scan(tmp_path / "s", format="mvssynth")
    check_cameras(manifest.frames)
    assert [frame.depth for frame in manifest.frames] == ["0007/depths/0000.exr", None, None]
    assert [p.path for p in problems] == ["0007/depths/0001.exr", "0007/depths/0002.exr"]


@pytest.mark.parametrize("split", [False, True])
def test_vkitti2_in_one_tree_or_one_per_archive(tmp_path, split):
    root = tmp_path / "v"
    rgb, depth, texts = (root / (f"vkitti_2.0.3_{part}" if split else "") for part in ("rgb", "depth", "textgt"))
    poses, lenses = ["frame cameraID r1,1 ..."], ["frame cameraID K[0,0] ..."]
    for i in range(3):
        for camera in (0, 1):
            picture(rgb / f"Scene01/clone/frames/rgb/Camera_{camera}/rgb_{i:05d}.jpg")
            map16(depth / f"Scene01/clone/frames/depth/Camera_{camera}/depth_{i:05d}.png", 1234)
            poses.append(" ".join(map(str, [i, camera, *WORLD2CAM[(i + camera) % 3].ravel()])))
            lens = [LENS[0, 0], LENS[1, 1], LENS[0, 2] - 0.5, LENS[1, 2] - 0.5]  # whole numbers are centres there
            lenses.append(" ".join(map(str, [i, camera, *lens])))
    text(texts / "Scene01/clone/extrinsic.txt", *poses)
    text(texts / "Scene01/clone/intrinsic.txt", *lenses)
    manifest, problems = scan(root, format="vkitti2")
    assert problems == []
    assert list(manifest.scenes()) == ["Scene01/clone/Camera_0", "Scene01/clone/Camera_1"]
    check_cameras(manifest.frames[:3])
    check_cameras([manifest.frames[i] for i in (5, 3, 4)])
    assert load_views(manifest, [0], (28, 28)).depth.mean() == pytest.approx(12.34, abs=1e-4)


def test_tartanair_poses_look_forward_right_down(tmp_path):
    scene = tmp_path / "t" / "abandonedfactory" / "Easy" / "P000"
    forward = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # columns: where forward, right, down point in OpenCV
    lines = []
    for i, pose in enumerate(CAM2WORLD):
        w, x, y, z = quaternion(pose[:3, :3] @ forward)
        lines.append([*pose[:3, 3], x, y, z, w])
        picture(scene / "image_left" / f"{i:06d}_left.png")
        (scene / "depth_left").mkdir(exist_ok=True)
        np.save(scene / "depth_left" / f"{i:06d}_left_depth.npy", np.full((48, 64), 7.5, np.float32))
    text(scene / "pose_left.txt", *lines)
    manifest, problems = scan(tmp_path / "t", format="tartanair")
    assert problems == []
    assert list(manifest.scenes()) == ["abandonedfactory/Easy/P000/left"]
    check_cameras(manifest.frames, lens=np.array([[32.0, 0, 32], [0, 32.0, 24], [0, 0, 1]]))
    assert load_views(manifest, [0], (28, 28)).depth.mean() == 7.5


def test_unreal4k_both_cameras_of_a_scene(tmp_path):
    scene = tmp_path / "u" / "00003"
    for camera in "01":
        for i, world2cam in enumerate(WORLD2CAM):
            picture(scene / f"Image{camera}" / f"{i:05d}.png")
            text(scene / f"Extrinsics{camera}" / f"{i:05d}.txt", LENS, (world2cam @ MIRROR)[:3])
    text(scene / "Extrinsics1" / "00002.txt", "1 2 3")
    manifest, problems = scan(tmp_path / "u", format="unreal4k")
    check_cameras([frame for frame in manifest.frames if frame.frame.endswith("_0")])
    assert [p.path for p in problems] == ["00003/Extrinsics1/00002.txt"]
    assert sum(frame.pose is not None for frame in manifest.frames) == 5
