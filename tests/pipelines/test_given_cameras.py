"""Cameras from files and arrays: matched by name, brought to the photos' size, and refused where wrong."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from PIL import Image

from manyview.errors import UserError
from manyview.images.fit import longest
from manyview.images.inputs import Take, gather
from manyview.pipelines.given import given_cameras

POSE = np.array([[0, -1, 0, 1.0], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
MATRIX = np.array([[500, 0, 330.0], [0, 510, 230], [0, 0, 1]])


@pytest.fixture
def photos(tmp_path):
    def made(**sizes):
        for name, size in sizes.items():
            Image.new("RGB", size).save(tmp_path / f"{name}.jpg")
        found, _ = gather(
            [tmp_path / f"{name}.jpg" for name in sizes],
            lambda size: longest(size, long_side=112, multiple=14),
            Take(),
            strict=True,
        )
        return found

    return made


def check(given, matrix=MATRIX):
    assert np.allclose(given.intrinsics[0], matrix)
    assert np.allclose(given.cam2world[0], POSE)
    assert given.intrinsics[1] is None
    assert given.cam2world[1] is None
    assert "has no camera for 1 of 2 photos: b.jpg" in given.notes[0]


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_our_own_file_honours_where_pixel_centres_are(photos, tmp_path):
    frame = {"file": "images/a.jpg", "K": MATRIX.tolist(), "cam2world": POSE.tolist(), "size": [640, 480]}
    two = photos(a=(640, 480), b=(640, 480))
    file = write_json(tmp_path / "cameras.json", {"pixel_centres": 0.5, "frames": [frame]})
    check(given_cameras(two, None, None, file))
    check(given_cameras(two, None, None, tmp_path))
    file = write_json(tmp_path / "cameras.json", {"frames": [frame]})
    check(given_cameras(two, None, None, file), MATRIX + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def test_poses_of_three_rows_are_taken(photos, tmp_path):
    two = photos(a=(640, 480), b=(640, 480))
    for poses in (np.stack([POSE[:3]] * 2), [POSE[:3], POSE[:3].tolist()], [POSE[:3], POSE]):
        given = given_cameras(two, None, poses, None)
        assert np.array_equal(np.stack(given.cam2world), np.stack([POSE, POSE]))
    frame = {"file": "a.jpg", "K": MATRIX.tolist(), "cam2world": POSE[:3].tolist()}
    check(given_cameras(two, None, None, write_json(tmp_path / "c.json", {"pixel_centres": 0.5, "frames": [frame]})))
    with pytest.raises(UserError, match=r"cam2world has shape \(2, 3, 3\); 2 pictures take \(2, 4, 4\)"):
        given_cameras(two, None, np.stack([POSE[:3, :3]] * 2), None)


def colmap_text(folder, model="PINHOLE", numbers="500 510 330 230"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"1 {model} 640 480 {numbers}\n")
    half = np.sqrt(0.5)
    shift = -POSE[:3, :3].T @ POSE[:3, 3]
    line = f"1 {half} 0 0 {-half} {shift[0]} {shift[1]} {shift[2]} 1 sub/a.jpg\n\n"
    (folder / "images.txt").write_text(line)
    return folder


def test_colmap_models_text_and_binary(photos, tmp_path):
    two = photos(a=(640, 480), b=(640, 480))
    check(given_cameras(two, None, None, colmap_text(tmp_path / "m" / "sparse" / "0")))
    check(given_cameras(two, None, None, tmp_path / "m"))
    binary = tmp_path / "binary"
    binary.mkdir()
    binary.joinpath("cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 640, 480, 500, 510, 330, 230))
    half, shift = np.sqrt(0.5), -POSE[:3, :3].T @ POSE[:3, 3]
    row = struct.pack("<Qi7di", 1, 1, half, 0, 0, -half, *shift, 1) + b"a.jpg\0" + struct.pack("<Q", 0)
    binary.joinpath("images.bin").write_bytes(row)
    check(given_cameras(two, None, None, binary))


def test_nerfstudio_and_its_field_of_view(photos, tmp_path):
    two = photos(a=(640, 480), b=(640, 480))
    frame = {"file_path": "./images/a.jpg", "transform_matrix": (POSE @ np.diag([1.0, -1, -1, 1])).tolist()}
    lens = {"fl_x": 500, "fl_y": 510, "cx": 330, "cy": 230, "w": 640, "h": 480, "k1": 0.0, "camera_model": "OPENCV"}
    check(given_cameras(two, None, None, write_json(tmp_path / "transforms.json", {**lens, "frames": [frame]})))
    half = {**lens, "fl_x": 250, "fl_y": 255, "cx": 165, "cy": 115, "w": 320, "h": 240}
    check(given_cameras(two, None, None, write_json(tmp_path / "t.json", {**half, "frames": [frame]})))
    angle = {"camera_angle_x": 2 * np.arctan(0.5), "frames": [{**frame, "file_path": "./train/a"}]}
    matrix = [[640, 0, 320], [0, 640, 240], [0, 0, 1]]
    check(given_cameras(two, None, None, write_json(tmp_path / "t.json", angle)), matrix)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k1": -0.1}, r"lens of images/a\.jpg \(OPENCV\) distorts"),
        ({"camera_model": "OPENCV_FISHEYE"}, "distorts"),
        ({"w": 480, "h": 640}, "is for 480x640 pixels, the photo upright is 640x480, of another shape"),
        ({"fl_x": 1, "fl_y": 1}, "focal length of 1 px in a 640x480 picture"),
        ({"cx": 700}, "principal point 700, 230 outside the 640x480 picture"),
        ({"fl_x": -500}, "no camera matrix"),
        ({"fl_x": "wide"}, "cannot be read as cameras"),
        ({"transform_matrix": np.eye(3).tolist()}, "cannot be read as cameras"),
        ({"transform_matrix": (2 * POSE + np.diag([0, 0, 0, -1])).tolist()}, r"cam2world of a\.jpg is not rigid"),
        ({"file_path": "other.jpg"}, r"none of its 1 cameras is of a photo here: it names other\.jpg"),
    ],
)
def test_files_that_cannot_be_right_are_refused_in_one_line(change, says, photos, tmp_path):
    lens = {"fl_x": 500, "fl_y": 510, "cx": 330, "cy": 230, "w": 640, "h": 480}
    frame = {"file_path": "images/a.jpg", "transform_matrix": POSE.tolist(), **lens, **change}
    file = write_json(tmp_path / "transforms.json", {"frames": [frame]})
    with pytest.raises(UserError, match=says) as caught:
        given_cameras(photos(a=(640, 480)), None, None, file)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_cameras_and_distorted_colmap_lenses_are_refused(photos, tmp_path):
    one = photos(a=(640, 480))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("nonsense")
    radial = colmap_text(tmp_path / "radial", "SIMPLE_RADIAL", "500 330 230 -0.05")
    for path, says in (
        (tmp_path / "nowhere", "no such file"),
        (tmp_path / "empty", "holds no cameras"),
        (tmp_path / "text.json", "cannot be read as cameras"),
        (colmap_text(tmp_path / "fisheye", "OPENCV_FISHEYE", "500 500 330 230 0 0 0 0"), "lenses distort"),
        (radial, "undistort photos and model first: colmap image_undistorter"),
    ):
        with pytest.raises(UserError, match=says):
            given_cameras(one, None, None, path)


def test_two_photos_of_one_name_are_told_apart_by_their_folders(photos, tmp_path):
    frames = []
    for number, folder in enumerate(("left", "right")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (640, 480)).save(tmp_path / folder / "a.jpg")
        pose = POSE.copy()
        pose[0, 3] = number
        frames.append({"file": f"{folder}/a.jpg", "cam2world": pose.tolist()})
    paths = [tmp_path / folder / "a.jpg" for folder in ("left", "right")]
    both, _ = gather(paths, lambda size: longest(size, long_side=112, multiple=14), Take(), strict=True)
    given = given_cameras(both, None, None, write_json(tmp_path / "cameras.json", {"frames": frames}))
    assert [pose[0, 3] for pose in given.cam2world] == [0, 1]
    assert given.intrinsics == [None, None]
    twice = write_json(tmp_path / "twice.json", {"frames": [frames[0], frames[0]]})
    with pytest.raises(UserError, match=r"2 cameras for a\.jpg"):
        given_cameras(both, None, None, twice)


def test_one_matrix_for_photos_of_several_sizes_is_refused(photos):
    three = photos(a=(640, 480), b=(480, 640), c=(320, 240))
    with pytest.raises(
        UserError, match=r"one camera is given for photos of 3 sizes or orientations, .*480x640 \(b\.jpg\)"
    ):
        given_cameras(three, MATRIX, None, None)
    for matrix, says in (
        ([[0.82, 0, 0.5], [0, 1.09, 0.5], [0, 0, 1]], "focal length of 0.82 px"),
        ([[2100, 0, 1280], [0, 2100, 960], [0, 0, 1]], "principal point 1280, 960 outside"),
    ):
        with pytest.raises(UserError, match=says):
            given_cameras(three[:1], matrix, None, None)


def test_lists_may_have_gaps_and_arrays_come_before_the_file(photos, tmp_path):
    two = photos(a=(640, 480), b=(640, 480))
    given = given_cameras(two, [None, MATRIX], [POSE, None], None)
    assert given.intrinsics[0] is None
    assert given.poses is None
    assert given.any_pose
    with pytest.raises(UserError, match=r"cam2world has shape \(1, 4, 4\); 2 pictures"):
        given_cameras(two, None, [POSE], None)
    with pytest.raises(UserError, match="cam2world has shape"):
        given_cameras(two, None, [np.eye(3), None], None)


def test_one_camera_said_again_and_again_is_one_camera(photos):
    two = photos(a=(640, 480), b=(480, 640))
    with pytest.raises(UserError, match="one camera is given for photos of 2 sizes"):
        given_cameras(two, [MATRIX, MATRIX], None, None)
    given_cameras(two, [MATRIX, None], None, None)
    turned = [[500, 0, 230], [0, 510, 330], [0, 0, 1]]
    given_cameras(two, [MATRIX, turned], None, None)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        ([[500, 0, 330], [0, 2e6, 230], [0, 0, 1]], "focal length of 2e.06 px"),
        ([[500, 0, 0], [0, 510, 230], [0, 0, 1]], "principal point 0, 230 outside"),
        ([[500, 3, 330], [0, 510, 230], [0, 0, 1]], "have a skew of 3"),
        ([[500, 0, 330], [0, 510, 230], [0, 0, 2]], "no camera matrix"),
    ],
)
def test_matrices_that_no_camera_has(photos, matrix, says):
    with pytest.raises(UserError, match=says):
        given_cameras(photos(a=(640, 480)), matrix, None, None)


def test_focal_lengths_that_differ_by_much_are_said(photos):
    one = photos(a=(640, 480))
    swapped = [[525, 0, 525], [0, 320, 240], [0, 0, 1]]
    assert "the order is FX, FY, CX, CY" in given_cameras(one, swapped, None, None).notes[0]
    assert given_cameras(one, MATRIX, None, None).notes == []


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"is_fisheye": True, "fl_x": 500}, "is_fisheye. distorts"),
        ({"camera_model": "EQUIRECTANGULAR", "fl_x": 500}, "EQUIRECTANGULAR. distorts"),
        ({"distortion_params": [0.1, 0, 0, 0], "fl_x": 500}, "distorts"),
        ({"camera_angle_x": "wide"}, r"the lens of ./a\.jpg cannot be read"),
        ({"camera_angle_x": 69.0}, "a field of view of 69 radians is none"),
        ({"camera_angle_x": 0}, "a field of view of 0 radians is none"),
    ],
)
def test_lenses_of_a_file_that_are_none(photos, tmp_path, said, says):
    frame = {"file_path": "./a.jpg", "transform_matrix": POSE.tolist()}
    file = write_json(tmp_path / "transforms.json", {**said, "frames": [frame]})
    with pytest.raises(UserError, match=says):
        given_cameras(photos(a=(640, 480)), None, None, file)


@pytest.mark.parametrize(
    ("said", "lens"),
    [
        ({"fl_x": 500}, (500, 500, 320, 240)),
        ({"fl_y": 500}, (500, 500, 320, 240)),
        ({"camera_angle_y": 2 * np.arctan(0.5)}, (480, 480, 320, 240)),
        ({"camera_angle_x": 2 * np.arctan(0.5), "camera_angle_y": 2 * np.arctan(0.5)}, (640, 480, 320, 240)),
        ({"x_fov": 90}, (320, 320, 320, 240)),
        ({"fl_x": 250, "w": 320, "h": 240}, (500, 500, 320, 240)),
        ({}, None),
    ],
)
def test_what_a_file_of_transforms_says_of_a_lens(photos, tmp_path, said, lens):
    frames = [{"file_path": f"./{name}.jpg", "transform_matrix": POSE[:3].tolist()} for name in "ab"]
    file = write_json(tmp_path / "transforms.json", {**said, "frames": frames})
    given = given_cameras(photos(a=(640, 480)), None, None, file)
    matrix = None if lens is None else [[lens[0], 0, lens[2]], [0, lens[1], lens[3]], [0, 0, 1]]
    assert given.intrinsics[0] is matrix if matrix is None else np.allclose(given.intrinsics[0], matrix)
    two = photos(a=(640, 480), b=(480, 640))
    if lens is not None:  # whose size is not said, or is another shape
        with pytest.raises(UserError, match=r"one camera is given for photos of 2 sizes|of another shape"):
            given_cameras(two, None, None, file)
