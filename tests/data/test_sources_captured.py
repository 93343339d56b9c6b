"""Captured data sets in their official layouts: MegaDepth, BlendedMVS, ARKitScenes, ScanNet(++), CO3D, Map-free."""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from manyview.data.depths import read_depth
from manyview.data.loading import load_views
from manyview.data.overlap import groups_of
from manyview.data.sources import scan
from official_layouts import (
    CAM2WORLD,
    GL,
    LENS,
    SIZE,
    WORLD2CAM,
    check_cameras,
    colmap_text,
    map16,
    picture,
    quaternion,
    text,
)


def megadepth(root, count=30):
    dense = root / "phoenix/S6/zl548/MegaDepth_v1/0015/dense0"
    for i in range(count):
        picture(dense / "imgs" / f"{i}_o.jpg")
    (dense / "depths").mkdir()
    (dense / "depths" / "0_o.h5").write_bytes(b"\x89HDF" + bytes(110 * 1024))
    (dense / "depths" / "1_o.h5").write_bytes(b"\x89HDF")  # an ordering, not depth
    return dense


def scene_info(path, count=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"MegaDepth_v1_SfM/0015/images/{i}_o.jpg" for i in range(count)]
    poses, lenses = ([values[i % 3] for i in range(count)] for values in (WORLD2CAM, [LENS] * 3))
    overlap = np.full((count, count), -1.0)
    linked = [i for i in range(count) if i != 3]
    for a, b in itertools.pairwise(linked):
        overlap[a, b] = overlap[b, a] = 0.5
    objects = np.empty((3, count), object)
    for i in range(count):
        missing = i == 3
        objects[:, i] = (None,) * 3 if missing else (names[i], poses[i].ravel(), lenses[i])
    np.savez(path, image_paths=objects[0], poses=objects[1], intrinsics=objects[2], overlap_matrix=overlap)


def test_megadepth_with_the_files_of_d2_net(tmp_path):
    megadepth(tmp_path / "m")
    scene_info(tmp_path / "m" / "scene_info" / "0015.0.npz")
    manifest, problems = scan(tmp_path / "m", format="megadepth")
    assert problems == []
    assert list(manifest.scenes()) == ["0015/0"]
    check_cameras([next(f for f in manifest.frames if f.frame == f"{i}_o.jpg") for i in (0, 1, 2)])
    known = {frame.frame: frame for frame in manifest.frames}
    assert known["3_o.jpg"].pose is None
    assert [known[f"{i}_o.jpg"].depth is not None for i in range(3)] == [True, False, False]
    groups = groups_of(manifest)
    assert len(groups) > 3
    for group in groups:  # each next image shares points with the one before
        order = [int(manifest[i].frame.split("_")[0]) for i in group]
        assert len(order) >= 24
        assert 3 not in order
        assert all(abs(a - b) == 1 or {a, b} == {2, 4} for a, b in itertools.pairwise(order))


def test_megadepth_with_the_colmap_model_alone_or_nothing(tmp_path):
    root = tmp_path / "m"
    megadepth(root, 5)
    manifest, _ = scan(root, format="megadepth")
    assert [frame.pose for frame in manifest.frames] == [None] * 5
    assert groups_of(manifest) == [[0, 1, 2, 3, 4]]
    names = [f"{i}_o.jpg" for i in range(3)]
    model = root / "MegaDepth_v1_SfM/0015/sparse/manhattan/0"
    colmap_text(model, names, camera="SIMPLE_RADIAL 64 48 50 32 24 0.1")
    manifest, problems = scan(root, format="megadepth")
    assert problems == []
    poses = {frame.frame: frame.pose for frame in manifest.frames}
    assert all(np.allclose(poses[name], CAM2WORLD[i]) for i, name in enumerate(names))
    assert {frame.fx for frame in manifest.frames} == {None}  # those of the distorted photographs


def test_megadepth_with_a_file_that_would_run_code(tmp_path):
    megadepth(tmp_path / "m", 3)
    bad = np.array([type("Path", (), {"__reduce__": lambda self: (print, ("run",))})()], object)
    np.savez(tmp_path / "m" / "0015.0.npz", image_paths=bad, poses=bad, intrinsics=bad, overlap_matrix=np.eye(1))
    manifest, problems = scan(tmp_path / "m", format="megadepth")
    assert ["not read" in problem.reason for problem in problems] == [True]
    assert len(manifest) == 3


def test_blendedmvs(tmp_path):
    scene = tmp_path / "b" / "5a3ca9cb270f0e3f14d0eddb"
    rows = np.arange(48, dtype="<f4")[:, None] + np.ones(64, "<f4")
    for i, world2cam in enumerate(WORLD2CAM):
        picture(scene / "blended_images" / f"{i:08d}.jpg")
        picture(scene / "blended_images" / f"{i:08d}_masked.jpg")
        text(scene / "cams" / f"{i:08d}_cam.txt", "extrinsic", *world2cam, "", "intrinsic", *LENS, "", "0.1 0.01 128 5")
        pfm = scene / "rendered_depth_maps" / f"{i:08d}.pfm"
        pfm.parent.mkdir(exist_ok=True)
        pfm.write_bytes(b"Pf\n64 48\n-1.000000\n" + rows[::-1].tobytes())
    text(scene / "cams" / "pair.txt", "3")
    manifest, problems = scan(tmp_path / "b", format="blendedmvs")
    assert problems == []
    check_cameras(manifest.frames)
    assert np.array_equal(read_depth(manifest.path(manifest[0].depth), manifest[0].depth_scale), rows)
    text(scene / "cams" / "00000001_cam.txt", "P 1 2 3")
    manifest, problems = scan(tmp_path / "b", format="blendedmvs")
    assert [frame.pose is not None for frame in manifest.frames] == [True, False, True]
    assert [p.path for p in problems] == ["5a3ca9cb270f0e3f14d0eddb/cams/00000001_cam.txt"]


def test_arkitscenes_times_need_not_agree_to_the_millisecond(tmp_path):
    video = tmp_path / "a" / "Training" / "47333462" / "47333462_frames"
    lines = []
    for i, world2cam in enumerate(WORLD2CAM):
        time = 6845.7 + i / 10
        picture(video / "lowres_wide" / f"47333462_{time:.3f}.png")
        map16(video / "lowres_depth" / f"47333462_{time:.3f}.png", 2345)
        camera = [64, 48, LENS[0, 0], LENS[1, 1], LENS[0, 2] - 0.5, LENS[1, 2] - 0.5]
        text(video / "lowres_wide_intrinsics" / f"47333462_{time + (i - 1) / 1000:.3f}.pincam", camera)
        turn = Rotation.from_matrix(world2cam[:3, :3]).as_rotvec()
        lines.append([time + 0.0004, *turn, *world2cam[:3, 3]])
    picture(video / "lowres_wide" / "47333462_6900.000.png")
    text(video / "lowres_wide.traj", *lines)
    manifest, problems = scan(tmp_path / "a", format="arkitscenes")
    assert [p.path.rsplit("/", 1)[1] for p in problems] == ["47333462_6900.000.png"]  # its depth is not there
    check_cameras(manifest.frames[:3])
    assert (manifest[3].pose, manifest[3].fx, manifest[0].split) == (None, None, "train")
    assert load_views(manifest, [0], (28, 28)).depth.mean() == pytest.approx(2.345, abs=1e-5)
    assert manifest.info["chunk"] == 75


def transforms(names, model, tests=()):
    entry = lambda i, name: {"file_path": name, "transform_matrix": (CAM2WORLD[i % 3] @ GL).tolist()}
    camera = {"w": 64, "h": 48, "fl_x": LENS[0, 0], "fl_y": LENS[1, 1], "cx": LENS[0, 2], "cy": LENS[1, 2]}
    frames = {"frames": [entry(i, n) for i, n in enumerate(names)], "test_frames": [entry(0, n) for n in tests]}
    return json.dumps({**camera, "camera_model": model, **frames})


def test_scannetpp_fisheye_and_undistorted(tmp_path):
    names = [f"DSC0000{i}.JPG" for i in range(3)]
    for scene in ("8b5caf3398", "fb05e13ad1"):
        dslr = tmp_path / "data" / scene / "dslr"
        for name in (*names, "DSC00009.JPG"):
            picture(dslr / "resized_images" / name)
        text(dslr / "nerfstudio" / "transforms.json", transforms(names, "OPENCV_FISHEYE", ["DSC00009.JPG"]))
    for name in names:
        picture(dslr / "resized_undistorted_images" / name)
    text(dslr / "nerfstudio" / "transforms_undistorted.json", transforms(names, "PINHOLE"))
    manifest, problems = scan(tmp_path, format="scannetpp")
    assert problems == []
    fisheye, flat = (manifest.select(scenes=[scene]).frames for scene in ("8b5caf3398", "fb05e13ad1"))
    check_cameras(flat)
    assert all("resized_undistorted_images" in frame.image for frame in flat)
    assert [frame.fx for frame in fisheye] == [None] * 4
    assert [frame.split for frame in fisheye] == ["", "", "", "test"]
    assert np.allclose(fisheye[1].pose, CAM2WORLD[1])


@pytest.mark.parametrize("version", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_co3d(tmp_path, version):
    entries, flip = [], np.diag([-1.0, -1, 1])
    half = np.array([24.0, 24.0] if version == "ndc_isotropic" else [32.0, 24.0])
    for i, world2cam in enumerate(WORLD2CAM):
        name = f"apple/110_13051/images/frame{i + 1:06d}.jpg"
        depth = f"apple/110_13051/depths/frame{i + 1:06d}.jpg.geometric.png"
        picture(tmp_path / "c" / name)
        stored = np.full((48, 64), 3.25, np.float16).view(np.uint16)
        (tmp_path / "c" / depth).parent.mkdir(exist_ok=True)
        Image.fromarray(stored).save(tmp_path / "c" / depth)
        view = {
            "R": (flip @ world2cam[:3, :3]).T.tolist(),
            "T": (flip @ world2cam[:3, 3]).tolist(),
            "focal_length": (LENS[[0, 1], [0, 1]] / half).tolist(),
            "principal_point": ((np.array([32.0, 24.0]) - LENS[:2, 2]) / half).tolist(),
            "intrinsics_format": version,
        }
        image, depth = {"path": name, "size": [48, 64]}, {"path": depth, "scale_adjustment": 2.0}
        entries.append({"sequence_name": "110_13051", "image": image, "depth": depth, "viewpoint": view})
    entries.append(
        {**entries[0], "sequence_name": "gone", "image": {"path": "apple/gone/images/a.jpg", "size": [1, 1]}}
    )
    with gzip.open(tmp_path / "c" / "apple" / "frame_annotations.jgz", "wt") as file:
        json.dump(entries, file)
    for src in (tmp_path / "c", tmp_path / "c" / "apple"):
        manifest, problems = scan(src, format="co3d")
        assert problems == []
        assert list(manifest.scenes()) == ["apple/110_13051"]
        check_cameras(manifest.frames)
    assert np.unique(read_depth(manifest.path(manifest[0].depth), manifest[0].depth_scale)).tolist() == [6.5]


def scannet(scene, size, depth=(640, 480), full=(1296, 968)):
    lens = LENS.copy()
    lens[0] *= full[0] / size[0]
    lens[1] *= full[1] / size[1]
    matrix = np.eye(4)
    matrix[:3, :3] = lens
    text(scene / "intrinsic" / "intrinsic_color.txt", *matrix)
    for i, pose in enumerate(CAM2WORLD):
        picture(scene / "color" / f"{i}.jpg", size)
        map16(scene / "depth" / f"{i}.png", 1500, depth)
        text(scene / "pose" / f"{i}.txt", *pose)


def test_scannet(tmp_path):
    scannet(tmp_path / "scans" / "scene0000_00", (64, 48))
    scene = tmp_path / "scans" / "scene0000_01"
    scannet(scene, (1296, 968))
    text(scene / "intrinsic" / "intrinsic_color.txt", "1170 0 648 0", "0 1170 484 0", "0 0 1 0", "0 0 0 1")
    text(scene / "pose" / "1.txt", *np.full((4, 4), -np.inf))
    text(scene / "pose" / "2.txt", "1 2 3")
    manifest, problems = scan(tmp_path, format="scannet")
    aligned, large = manifest.frames[:3], manifest.frames[3:]
    check_cameras(aligned)
    assert load_views(manifest, [0], (28, 28)).depth.mean() == pytest.approx(1.5, abs=1e-5)
    assert [frame.depth for frame in large] == [None] * 3  # 1296x968 and 640x480 are not the same picture
    assert [frame.pose is not None for frame in large] == [True, False, False]
    assert [p.path for p in problems] == ["scans/scene0000_01/pose/2.txt"]


def test_mapfree(tmp_path):
    scene = tmp_path / "train" / "s00012"
    lenses, poses = [], []
    for i, world2cam in enumerate(WORLD2CAM):
        name = f"seq{i % 2}/frame_{i:05d}.jpg"
        picture(scene / name)
        lenses.append(f"{name} {LENS[0, 0]} {LENS[1, 1]} {LENS[0, 2]} {LENS[1, 2]} {SIZE[0]} {SIZE[1]}")
        poses.append(" ".join(map(str, [name, *quaternion(world2cam[:3, :3]), *world2cam[:3, 3]])))
    text(scene / "intrinsics.txt", *lenses)
    text(scene / "poses.txt", "# qw qx", *poses)
    picture(scene / "seq1" / "frame_00009.jpg")
    text(scene / "poses_device.txt", "seq1/frame_00009.jpg 1 0 0 0 0 0 0")
    hidden = tmp_path / "test" / "s00600"
    picture(hidden / "seq0" / "frame_00000.jpg")
    text(hidden / "intrinsics.txt", f"seq0/frame_00000.jpg 50 50 32 24 {SIZE[0]} {SIZE[1]}")
    text(hidden / "poses.txt", "seq0/frame_00000.jpg 0 0 0 0 0 0 0")
    manifest, problems = scan(tmp_path, format="mapfree")
    assert problems == []
    known = {(f.scene, f.frame): f for f in manifest.frames}
    check_cameras([known["s00012", f"seq{i % 2}/frame_{i:05d}"] for i in range(3)])
    assert known["s00012", "seq1/frame_00009"].pose is None
    assert (known["s00600", "seq0/frame_00000"].pose, known["s00600", "seq0/frame_00000"].split) == (None, "test")
