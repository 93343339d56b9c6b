"""Data sets that reconstruction is judged on, in their official layouts: 7-Scenes, DTU, ETH3D, TUM RGB-D, Habitat."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from manyview.data.depths import read_depth
from manyview.data.sources import scan
from manyview.errors import UserError
from official_layouts import (
    CAM2WORLD,
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


def depth_of(manifest, row: int) -> np.ndarray:
    return read_depth(manifest.path(manifest[row].depth), manifest[row].depth_scale)


def test_7scenes_splits_poses_and_its_own_word_for_no_depth(tmp_path):
    scene = tmp_path / "7scenes" / "chess"
    for sequence in ("seq-01", "seq-03"):
        for i, pose in enumerate(CAM2WORLD):
            frame = scene / sequence / f"frame-{i:06d}"
            picture(frame.with_suffix(".color.png"), (640, 480))
            text(frame.with_suffix(".pose.txt"), *pose)
            map16(frame.with_suffix(".depth.png"), 1500, (640, 480))
    holes = np.full((480, 640), 65535, np.uint16)
    holes[:10] = 2000
    Image.fromarray(holes).save(scene / "seq-03" / "frame-000000.depth.png")
    text(scene / "TrainSplit.txt", "sequence1")
    text(scene / "TestSplit.txt", "sequence3")
    manifest, problems = scan(tmp_path / "7scenes", format="7scenes")
    assert problems == []
    assert {frame.scene: frame.split for frame in manifest.frames} == {"chess/seq-01": "train", "chess/seq-03": "test"}
    for frame, pose in zip(manifest.frames[:3], CAM2WORLD, strict=True):
        assert np.allclose(frame.pose, pose)
        assert (frame.fx, frame.fy, frame.cx, frame.cy) == (585, 585, 320, 240)
    assert np.allclose(depth_of(manifest, 0), 1.5)
    assert np.allclose(depth_of(manifest, 3)[:10], 2)
    assert (depth_of(manifest, 3)[10:] == 0).all()
    (scene / "seq-01" / "frame-000001.pose.txt").unlink()
    map16(scene / "seq-01" / "frame-000001.depth.proj.png", 1000, (640, 480))
    manifest, problems = scan(scene / "seq-01", format="7scenes")
    assert [frame.pose is None for frame in manifest.frames] == [False, True, False]
    assert [problem.path for problem in problems] == ["frame-000001.pose.txt"]
    assert np.allclose(depth_of(manifest, 1), 1)


def cam_file(path, world2cam, lens):
    text(path, "extrinsic", *world2cam, "", "intrinsic", *lens, "", "425 2.5")


def pfm(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"Pf\n80 64\n-1.0\n" + np.full((64, 80), value, "<f4").tobytes())


def test_dtu_for_training_has_quarter_cameras_and_one_light(tmp_path):
    lens = np.diag([80 / SIZE[0], 64 / SIZE[1], 1]) @ LENS  # of five by four, as theirs
    for i, world2cam in enumerate(WORLD2CAM):
        for light in (2, 3):
            picture(tmp_path / "Rectified" / "scan9_train" / f"rect_{i + 1:03d}_{light}_r5000.png", (80, 64))
        cam_file(tmp_path / "Cameras" / "train" / f"{i:08d}_cam.txt", world2cam, np.diag([2, 2, 1]) @ lens)
        pfm(tmp_path / "Depths" / "scan9_train" / f"depth_map_{i:04d}.pfm", 600 + i)
    manifest, problems = scan(tmp_path, format="dtu")
    assert problems == []
    check_cameras(manifest.frames, lens=lens)
    assert {frame.scene for frame in manifest.frames} == {"scan9_train"}
    assert [float(depth_of(manifest, i)[0, 0]) for i in range(3)] == [600, 601, 602]


@pytest.mark.parametrize("one", [False, True])
def test_dtu_for_tests(tmp_path, one):
    scene = tmp_path / "scan1"
    for i, world2cam in enumerate(WORLD2CAM):
        picture(scene / "images" / f"{i:08d}.jpg")
        cam_file(scene / "cams" / f"{i:08d}_cam.txt", world2cam, LENS)
    (scene / "depths").mkdir()
    for i in range(3):
        np.save(scene / "depths" / f"{i:08d}.npy", np.full((48, 64), 700.0, np.float32))
    manifest, problems = scan(scene if one else tmp_path, format="dtu")
    assert problems == []
    check_cameras(manifest.frames)
    assert (depth_of(manifest, 2) == 700).all()


def test_eth3d_undistorted(tmp_path):
    scene = tmp_path / "courtyard"
    names = [f"dslr_images_undistorted/DSC_{i:04d}.JPG" for i in range(3)]
    for name in names:
        picture(scene / "images" / name)
    camera = f"PINHOLE {SIZE[0]} {SIZE[1]} {LENS[0, 0]} {LENS[1, 1]} {LENS[0, 2]} {LENS[1, 2]}"
    colmap_text(scene / "dslr_calibration_undistorted", names, camera=camera)
    manifest, problems = scan(tmp_path, format="eth3d")
    assert problems == []
    check_cameras(manifest.frames)
    assert {frame.scene for frame in manifest.frames} == {"courtyard"}


def test_tum_joins_by_time_within_a_fiftieth_of_a_second(tmp_path):
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    times = [10.0, 10.033, 10.066]
    for time in times:
        picture(folder / "rgb" / f"{time:.6f}.png", (640, 480))
        map16(folder / "depth" / f"{time + 0.01:.6f}.png", 5000, (640, 480))
    late = folder / "rgb" / "11.000000.png"
    picture(late, (640, 480))
    text(folder / "rgb.txt", "# colour images", *(f"{t} rgb/{t:.6f}.png" for t in times), "11.0 rgb/11.000000.png")
    text(folder / "depth.txt", "# depth maps", *(f"{t + 0.01} depth/{t + 0.01:.6f}.png" for t in times))
    lines = []
    for time, pose in zip(times, CAM2WORLD, strict=True):
        w, x, y, z = quaternion(pose[:3, :3])
        lines.append(" ".join(map(str, [time - 0.004, *pose[:3, 3], x, y, z, w])))
    text(folder / "groundtruth.txt", "# time tx ty tz qx qy qz qw", *lines)
    manifest, problems = scan(tmp_path, format="tum")
    assert problems == []
    for frame, pose in zip(manifest.frames[:3], CAM2WORLD, strict=True):
        assert np.allclose(frame.pose, pose, atol=1e-6)
    assert np.allclose(manifest[0].intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]], [520.9, 521.0, 325.6, 250.2])
    assert np.allclose(depth_of(manifest, 0), 1)
    assert (manifest[3].pose, manifest[3].depth) == (None, None)


def test_habitat_renders_and_a_view_that_failed(tmp_path):
    folder = tmp_path / "hm3d" / "00001-UVdNNRcVyV1"
    centred = LENS - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for i, pose in enumerate([*CAM2WORLD, np.full((4, 4), np.nan)]):
        stem = f"00000003_{i + 1}"
        picture(folder / f"{stem}.jpeg")
        said = {"camera_intrinsics": centred.tolist(), "size": SIZE}
        said |= {"R_cam2world": pose[:3, :3].tolist(), "t_cam2world": pose[:3, 3].tolist()}
        (folder / f"{stem}_camera_params.json").write_text(json.dumps(said))
    manifest, problems = scan(tmp_path, format="habitat")
    check_cameras(manifest.frames[:3])
    assert manifest[3].pose is None
    assert {frame.scene for frame in manifest.frames} == {"hm3d/00001-UVdNNRcVyV1/00000003"}
    assert {problem.path.rpartition("_")[2] for problem in problems} == {"depth.exr"}  # these have no depth


@pytest.mark.parametrize("format", ["7scenes", "dtu", "eth3d", "tum", "habitat"])
def test_a_folder_of_another_kind_is_refused_in_one_line(tmp_path, format):
    picture(tmp_path / "photos" / "a.jpg")
    with pytest.raises(UserError, match=r"has no .*; check the folder"):
        scan(tmp_path, format=format)
