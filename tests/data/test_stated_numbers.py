"""What files say of their numbers, in the layouts people have: units, lenses, poses, and numbers that mean none."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from PIL import Image

from manyview.cli.main import main
from manyview.data import sources
from manyview.data.depths import nothing, read_depth
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.sources.base import ScanOptions
from manyview.data.sources.manyview import depth_unit
from manyview.errors import UserError
from official_layouts import map16, picture, text

IDENTITY = np.eye(4).tolist()


def scanned(src, format, **options):
    return sources.scan(src, format=format, options=ScanOptions(**options))


@pytest.mark.parametrize(
    ("kind", "number", "none"),
    [
        (np.float16, 65504, True),  # the largest half float, as OpenEXR files have it
        (np.float32, 65504, True),  # the same, read as a float
        (np.float32, 65535, True),  # a 16-bit map that was kept as a float
        (np.float32, 1e10, True),  # Blender
        (np.float64, np.finfo(np.float32).max, True),
        (np.float32, -9999, True),
        (np.int16, 32767, True),
        (np.int32, 2**31 - 1, True),
        (np.uint16, 32767, False),
        (np.uint8, 255, False),
        (np.float32, 655.35, False),
    ],
)
def test_numbers_that_mean_none_in_every_type(kind, number, none):
    assert nothing(np.array([[3, number]]).astype(kind), 1.0).tolist() == [[False, none]]


def transforms(folder, *frames, **top):
    folder.mkdir(parents=True, exist_ok=True)
    frames = [{"transform_matrix": IDENTITY, **frame} for frame in frames]
    (folder / "transforms.json").write_text(json.dumps({**top, "frames": frames}))
    return folder


def test_a_number_far_beyond_all_others_is_said_and_left_out_where_asked(tmp_path, capsys):
    picture(tmp_path / "a.png", (64, 48))
    depth = np.linspace(2, 30, 64 * 48, dtype=np.float32).reshape(48, 64)
    depth[:12] = 655.35
    np.save(tmp_path / "d.npy", depth)
    transforms(tmp_path, {"file_path": "a.png", "depth_file_path": "d.npy"}, fl_x=60)
    out = tmp_path / "m.parquet"
    words = ["data", "scan", str(tmp_path), "--format", "nerfstudio", "-o", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "25% of what it measures is 655.35, far beyond all else" in said
    advised = said.partition("scan again with ")[2].split()[:2]
    assert advised[0] == "--farthest"
    assert main([*words, *advised]) == 0
    assert "far beyond" not in capsys.readouterr().err
    assert load_views(Manifest.load(out), [0], (48, 64)).depth.max() == 30
    depth[:12] = 55  # a wall, not as far as twice the others
    np.save(tmp_path / "d.npy", depth)
    assert "far beyond" not in str(scanned(tmp_path, "nerfstudio")[0].info["notes"])
    for number in ("0", "-1", "nan", "inf"):
        assert main([*words, "--farthest", number]) == 2


def ours(folder, **content):
    picture(folder / "a.png", (64, 48))
    map16(folder / "d.png", 2000, (64, 48))
    np.save(folder / "d.npy", np.full((48, 64), 2.0, np.float32))
    frame = {"file": "a.png", "depth": content.pop("depth", "d.png")}
    (folder / "cameras.json").write_text(json.dumps({**content, "frames": [frame]}))
    return folder


@pytest.mark.parametrize(
    ("content", "scale"),
    [
        ({}, 0.001),
        ({"units": "metres", "depth_png": "uint16 millimetres"}, 0.001),
        ({"units": "m", "depth_png": "16-bit PNG, 0 = no value, cm"}, 0.01),
        ({"units": "millimetres"}, 1.0),
        ({"units": "centimeters (as scanned)", "depth_png": "millimeters along the optical axis (z)"}, 0.1),
        ({"units": "arbitrary", "depth_scale": 0.02}, 0.02),
        ({"depth": "d.npy"}, 1.0),
        ({"depth": "d.npy", "units": "arbitrary"}, 1.0),
    ],
)
def test_depth_comes_in_the_unit_of_the_poses(tmp_path, content, scale):
    manifest, _ = scanned(ours(tmp_path, **content), "manyview")
    assert manifest[0].depth_scale == pytest.approx(scale)
    in_metres = content.get("units", "metres") in ("m", "metres")
    assert ("farthest" in manifest.info) == in_metres


@pytest.mark.parametrize(
    "words",
    [
        *("half millimetres", "hundredths of a millimetre", "millimetres * 4", "millimetres along the ray"),
        *(
            "millimetres to the optical centre",
            "uint16, 32767 = no value, millimetres",
            "millimetres, metres",
            "disparity",
        ),
    ],
)
def test_words_of_which_a_part_is_not_understood_are_refused(tmp_path, words):
    assert depth_unit(words) is None
    with pytest.raises(UserError, match="depth_png says"):
        scanned(ours(tmp_path, depth_png=words), "manyview")


def test_millimetres_in_a_scene_of_unknown_unit_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"units says 'arbitrary .COLMAP.', so depth in millimetres has no length"):
        scanned(ours(tmp_path, units="arbitrary (COLMAP)"), "manyview")


LENSES = {
    "angle across": ({"camera_angle_x": 2 * np.arctan(0.5)}, (64, 64, 32, 24)),
    "angle down": ({"camera_angle_y": 2 * np.arctan(0.5)}, (48, 48, 32, 24)),
    "both angles": ({"camera_angle_x": 2 * np.arctan(0.5), "camera_angle_y": 2 * np.arctan(0.25)}, (64, 96, 32, 24)),
    "degrees": ({"x_fov": 90}, (32, 32, 32, 24)),
    "twice the size": ({"fl_x": 120, "cx": 60, "cy": 50, "w": 128, "h": 96}, (60, 60, 30, 25)),
    "focal length down": ({"fl_y": 70}, (70, 70, 32, 24)),
    "no lens at all": ({}, None),
}


@pytest.mark.parametrize("name", LENSES)
def test_lenses_of_transforms(tmp_path, name):
    said, lens = LENSES[name]
    picture(tmp_path / "a.png", (64, 48))
    frame = scanned(transforms(tmp_path, {"file_path": "a.png"}, **said), "nerfstudio")[0][0]
    assert frame.pose is not None
    numbers = (frame.fx, frame.fy, frame.cx, frame.cy)
    assert numbers == ((None,) * 4 if lens is None else pytest.approx(lens))


@pytest.mark.parametrize(
    "said", [{"is_fisheye": True}, {"camera_model": "EQUIRECTANGULAR"}, {"camera_model": "VR180_L"}, {"ftheta_p0": 0.1}]
)
def test_lenses_that_are_no_pinhole_give_poses_and_a_line(tmp_path, said):
    picture(tmp_path / "a.png", (64, 48))
    manifest, _ = scanned(transforms(tmp_path, {"file_path": "a.png"}, fl_x=60, **said), "nerfstudio")
    assert manifest[0].fx is None
    assert manifest[0].pose is not None
    assert "poses, no intrinsics" in str(manifest.info["notes"])


@pytest.mark.parametrize("said", [{"camera_angle_x": 0.9}, {"fl_x": 60, "cx": 32, "cy": 24}])
def test_one_lens_without_a_size_is_the_first_pictures(tmp_path, said):
    for name, size in (("a.png", (64, 48)), ("b.png", (48, 64)), ("c.png", (32, 24))):
        picture(tmp_path / name, size)
    names = ({"file_path": "a.png"}, {"file_path": "b.png"}, {"file_path": "c.png"})
    manifest, problems = scanned(transforms(tmp_path, *names, **said), "nerfstudio")
    first, turned, small = manifest.frames
    assert turned.fx is None
    assert small.fx == pytest.approx(first.fx / 2)
    assert ["another aspect" in problem.reason for problem in problems] == [True]


def test_a_frame_that_is_broken_leaves_the_others(tmp_path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png", (64, 48))
    frames = [{"file_path": f"{name}.png"} for name in "abcd"]
    frames[1]["transform_matrix"] = None
    frames[2]["transform_matrix"] = np.eye(4)[:3].tolist()
    frames[3]["fl_x"] = "wide"
    manifest, problems = scanned(transforms(tmp_path, *frames, fl_x=60), "nerfstudio")
    assert [frame.pose is not None for frame in manifest.frames] == [True, False, True, False]
    assert [problem.path for problem in problems] == ["transforms.json", "transforms.json"]


def test_depth_of_instant_ngp_and_of_arrays(tmp_path):
    picture(tmp_path / "a.png", (64, 48))
    map16(tmp_path / "d.png", 4000, (64, 48))
    np.save(tmp_path / "d.npy", np.full((48, 64), 4.0, np.float32))
    for frame, top, metres in (
        ({"depth_path": "d.png"}, {"integer_depth_scale": 0.0005}, 2.0),
        ({"depth_path": "d.png"}, {}, 4.0),
        ({"depth_file_path": "d.npy"}, {}, 4.0),
        ({"depth_file_path": "d.npy"}, {"depth_unit_scale_factor": 0.5}, 2.0),
        ({"depth_file_path": "d.png", "depth_unit_scale_factor": 0.002}, {"depth_unit_scale_factor": 0.5}, 8.0),
    ):
        manifest, _ = scanned(transforms(tmp_path, {"file_path": "a.png", **frame}, **top), "nerfstudio")
        assert read_depth(manifest.path(manifest[0].depth), manifest[0].depth_scale).max() == pytest.approx(metres)
        guessed = frame.get("depth_file_path") == "d.npy" and not top
        assert ("taken in the unit of the poses" in str(manifest.info.get("notes"))) == guessed


def colmap(folder, cameras, images):
    picture(folder / "images/0.jpg", (64, 48))
    picture(folder / "images/1.jpg", (64, 48))
    text(folder / "sparse/0/cameras.txt", *cameras)
    text(folder / "sparse/0/images.txt", *(line for image in images for line in (image, "")))
    return folder


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        ("SIMPLE_PINHOLE 64 48 1 32 24", "focal length of 1 px in a 64x48 picture"),
        ("PINHOLE 64 48 0.8 0.8 0.5 0.5", "focal length of 0.8 px"),
        ("PINHOLE 64 48 60 60 24 132", "principal point 24, 132 outside the 64x48 picture"),
        ("PINHOLE 64 48 -60 60 32 24", "focal lengths positive"),
        ("PINHOLE 48 64 60 60 24 32", "another aspect"),
        ("PINHOLE 0 0 60 60 24 32", "intrinsics are for 0x0 pixels"),
    ],
)
def test_lenses_that_cannot_be_their_pictures_are_listed_and_left_out(tmp_path, camera, reason):
    colmap(tmp_path, [f"1 {camera}"], ["1 1 0 0 0 0 0 0 1 0.jpg"])
    manifest, problems = scanned(tmp_path, "colmap")
    assert manifest[0].fx is None
    assert manifest[0].pose is not None
    assert reason in problems[0].reason


def test_images_whose_camera_is_not_listed_and_poses_that_are_none(tmp_path):
    lines = ["1 1 0 0 0 0 0 0 7 0.jpg", "2 0 0 0 0 0 0 0 1 1.jpg"]
    manifest, _ = scanned(colmap(tmp_path, ["1 PINHOLE 64 48 60 60 32 24"], lines), "colmap")
    assert [(frame.fx, frame.pose is not None) for frame in manifest.frames] == [(None, True), (60, False)]
    assert "cameras 7 are not in its list of cameras" in str(manifest.info["notes"])
    assert "1 frames have no pose" in str(manifest.info["notes"])


@pytest.mark.parametrize(
    ("line", "placed"),
    [
        ("1.0 0 0 0 0 0 0 1", True),
        ("1.0 0 0 0 0 0 0 2", True),
        ("1.0 nan nan nan nan nan nan nan", False),
        ("1.0 0 0 0 0 0 0 0", False),
        ("1.0 0 0 inf 0 0 0 1", False),
        ("1.0 0 0 0", False),
    ],
)
def test_poses_of_tum(tmp_path, line, placed):
    scene = tmp_path / "rgbd_dataset_freiburg1_desk"
    picture(scene / "rgb/1.0.png", (640, 480))
    map16(scene / "depth/1.0.png", 65535, (640, 480))
    text(scene / "rgb.txt", "# color images", "# timestamp filename", "1.0 rgb/1.0.png")
    text(scene / "depth.txt", "1.0 depth/1.0.png")
    text(scene / "groundtruth.txt", line)
    manifest, problems = scanned(tmp_path, "tum")
    assert (manifest[0].pose is not None) == placed
    assert placed or problems or "1 frames have no pose" in str(manifest.info["notes"])
    assert not read_depth(manifest.path(manifest[0].depth), manifest[0].depth_scale).any()


@pytest.mark.parametrize("pose", ["nan " * 16, "-1.#IND " * 16, "0 " * 16, "1 0 0 0 1 0 0 0 1", "", "1 2\n3"])
def test_poses_of_seven_scenes(tmp_path, pose):
    scene = tmp_path / "chess/seq-01"
    for i in (0, 1):
        picture(scene / f"frame-{i:06d}.color.png", (640, 480))
        text(scene / f"frame-{i:06d}.pose.txt", *np.eye(4))
    (scene / "frame-000001.pose.txt").write_text(pose)
    (tmp_path / "chess/seq-notes").mkdir()
    manifest, problems = scanned(tmp_path, "7scenes")
    assert [frame.pose is not None for frame in manifest.frames] == [True, False]
    assert problems or "1 frames have no pose" in str(manifest.info["notes"])


def test_kittis_own_file_of_calibration(tmp_path):
    day = tmp_path / "2011_09_26"
    for camera in ("image_02", "image_03"):
        picture(day / f"2011_09_26_drive_0002_sync/{camera}/data/0000000000.png", (64, 48))
    projection = "P_rect_02: 60 0 31.5 4 0 60 23.5 0 0 0 1 0"
    text(day / "calib_cam_to_cam.txt", "calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.95e-02", projection)
    manifest, problems = scanned(tmp_path, "kitti")
    assert not problems
    assert [(frame.fx, frame.cx) for frame in manifest.frames] == [(60, 32), (None, None)]


def test_files_of_other_names_among_the_pictures_of_a_layout(tmp_path):
    frames = tmp_path / "v/Scene01/clone/frames/rgb/Camera_0"
    picture(frames / "rgb_00000.jpg", (64, 48))
    picture(frames / "thumbs.jpg", (64, 48))
    manifest, problems = scanned(tmp_path / "v", "vkitti2")
    assert [frame.frame for frame in manifest.frames] == ["00000"]
    assert "its name does not say rgb_FRAME" in str(problems)
    picture(tmp_path / "t/P000/image_left/000000_left.png", (64, 48))
    picture(tmp_path / "t/P000/image_left/cover.png", (64, 48))
    text(tmp_path / "t/P000/pose_left.txt", "0 0 0 0 0 0 1")
    manifest, _ = scanned(tmp_path / "t", "tartanair")
    assert [frame.pose is not None for frame in manifest.frames] == [True, False]
    picture(tmp_path / "a/Training/4/lowres_wide/4_1.500.png", (64, 48))
    picture(tmp_path / "a/Training/4/lowres_wide/contact_sheet.png", (64, 48))
    manifest, problems = scanned(tmp_path / "a", "arkitscenes")
    assert len(manifest) == 1
    assert "contact_sheet" in str(problems)


def test_a_line_of_mapfree_that_is_cut_off(tmp_path):
    scene = tmp_path / "train/s00000"
    picture(scene / "seq0/frame_00000.jpg", (64, 48))
    text(scene / "intrinsics.txt", "seq0/frame_00000.jpg 60 60 32 24 64 48")
    text(scene / "poses.txt", "seq0/frame_00000.jpg 1 0 0 0 0 0")
    manifest, problems = scanned(tmp_path, "mapfree")
    assert manifest[0].fx == 60
    assert "has 6 numbers, not 7" in problems[0].reason


def test_an_entry_of_navi_that_is_broken(tmp_path):
    folder = tmp_path / "dog/multiview_01"
    camera = {"q": [1, 0, 0, 0], "t": [0, 0, 0], "focal_length": 60}
    entries = []
    for name in ("1", "2"):
        picture(folder / f"images/{name}.jpg", (64, 48))
        entries.append({"filename": f"{name}.jpg", "image_size": [48, 64], "camera": {**camera}})
    del entries[1]["camera"]["q"]
    (folder / "annotations.json").write_text(json.dumps(entries))
    manifest, problems = scanned(tmp_path, "navi")
    assert [frame.pose is not None for frame in manifest.frames] == [True, False]
    assert len(problems) == 1 or "annotations" in str(problems)


def test_depth_in_sixteen_bit_colours_is_refused(tmp_path):
    values = np.zeros((48, 64, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "d.png")
    with pytest.raises(UserError, match="one channel"):
        read_depth(tmp_path / "d.png", 1.0)


def test_a_binary_model_whose_camera_is_missing(tmp_path):
    picture(tmp_path / "images/0.jpg", (64, 48))
    (tmp_path / "sparse/0").mkdir(parents=True)
    (tmp_path / "sparse/0/cameras.bin").write_bytes(struct.pack("<Q", 0))
    pose = struct.pack("<Qi7di", 1, 1, 1, 0, 0, 0, 0, 0, 0, 3)
    (tmp_path / "sparse/0/images.bin").write_bytes(pose + b"0.jpg\0" + struct.pack("<Q", 0))
    manifest, _ = scanned(tmp_path, "colmap")
    assert manifest[0].pose is not None
    assert "cameras 3 are not in its list" in str(manifest.info["notes"])
