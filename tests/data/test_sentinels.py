"""Numbers that mean "no depth", units, and what a scan could not take: in every reader, and said."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from manyview.cli.main import main
from manyview.data import sources
from manyview.data.depths import FARTHEST, nothing, read_depth
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError


def scanned(src, format):
    return sources.scan(src, format=format)


def picture(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)


@pytest.mark.parametrize(
    ("stored", "none"),
    [
        (np.array([[0, 1, 65534, 65535]], np.uint16), [[True, False, False, True]]),
        (np.array([[0, 7, 65535]], np.int32), [[True, False, True]]),
        (np.array([[0, 5, 2**32 - 1]], np.uint32), [[True, False, True]]),
        (np.array([[255, 0]], np.uint8), [[False, True]]),
        (np.array([[-1, 0.5, 999.9, 1000, 1e4, np.nan, np.inf]], np.float32), [[1, 0, 0, 1, 1, 1, 1]]),
    ],
)
def test_what_means_no_depth(stored, none):
    farthest = FARTHEST if stored.dtype.kind == "f" else np.inf
    assert np.array_equal(nothing(stored, 1.0, farthest), np.array(none, bool))


def test_a_depth_file_of_any_layout_has_holes_where_it_says_nothing(tmp_path):
    values = np.full((4, 6), 2000, np.uint16)
    values[:, :2] = 65535
    for name in ("a.png", "a.depth.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.unique(read_depth(tmp_path / name, 0.001)).tolist() == [0, 2]
    (tmp_path / "depths").mkdir()
    (tmp_path / "depth_masks").mkdir()
    Image.fromarray(np.full((4, 6), 3, np.float16).view(np.uint16)).save(tmp_path / "depths/f1.jpg.geometric.png")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(tmp_path / "depth_masks/f1.png")
    assert np.array_equal(read_depth(tmp_path / "depths/f1.jpg.geometric.png", 2.0), 6 * np.eye(4, 6))


def tartanair(folder):
    for name in ("image_left", "depth_left"):
        (folder / name).mkdir(parents=True)
    picture(folder / "image_left/000000_left.png", (640, 480))
    depth = np.full((480, 640), 5, np.float32)
    depth[:240] = 1e4
    np.save(folder / "depth_left/000000_left_depth.npy", depth)
    (folder / "pose_left.txt").write_text("0 0 0 0 0 0 1\n")


def test_sky_is_no_depth_in_data_in_metres_and_the_scan_says_so(tmp_path, capsys):
    tartanair(tmp_path / "P000")
    words = ["data", "scan", tmp_path / "P000", "--format", "tartanair", "-o", tmp_path / "m.parquet"]
    assert main([str(word) for word in words]) == 0
    assert "50% is stored as a number that means none (the largest is 10000)" in capsys.readouterr().err
    manifest = Manifest.load(tmp_path / "m.parquet")
    assert load_views(manifest, [0], (48, 64)).depth.unique().tolist() == [0, 5]
    manifest.info.pop("farthest")  # of unknown unit: nothing is too far
    assert load_views(manifest, [0], (48, 64)).depth.unique().tolist() == [5, 1e4]


def test_a_depth_scale_below_zero_is_refused(tmp_path):
    tartanair(tmp_path / "P000")
    manifest, _ = scanned(tmp_path / "P000", "tartanair")
    frame = replace(manifest[0], depth_scale=-1.0)
    with pytest.raises(UserError, match="depth with the scale -1"):
        Manifest([frame], tmp_path).save(tmp_path / "x.parquet")


@pytest.mark.parametrize("text", ["tenths of millimetres", "0.1 millimetres", "uint16, inches"])
def test_a_unit_of_depth_that_is_not_understood_is_an_error(tmp_path, text):
    picture(tmp_path / "a.png")
    (tmp_path / "cameras.json").write_text(json.dumps({"depth_png": text, "frames": [{"file": "a.png"}]}))
    with pytest.raises(UserError, match="depth_png says"):
        scanned(tmp_path, "manyview")


def transforms(folder, frames, **top):
    folder.mkdir(parents=True, exist_ok=True)
    frames = [{"transform_matrix": np.eye(4).tolist(), **frame} for frame in frames]
    (folder / "transforms.json").write_text(json.dumps({**top, "frames": frames}))


def test_a_transforms_file_without_sizes_means_its_images(tmp_path):
    picture(tmp_path / "train/r_0.png", (80, 60))
    transforms(tmp_path, [{"file_path": "./train/r_0"}], camera_angle_x=2 * np.arctan(0.5))
    frame = scanned(tmp_path, "nerfstudio")[0][0]
    assert (frame.fx, frame.fy, frame.cx, frame.cy) == pytest.approx((80, 80, 40, 30))
    transforms(tmp_path, [{"file_path": "./train/r_0"}], fl_x=70)
    frame = scanned(tmp_path, "nerfstudio")[0][0]
    assert (frame.fx, frame.fy, frame.cx, frame.cy) == (70, 70, 40, 30)


def test_a_transforms_file_says_the_unit_of_its_depth(tmp_path):
    picture(tmp_path / "a.jpg")
    Image.fromarray(np.full((48, 64), 4000, np.uint16)).save(tmp_path / "d.png")
    for factor, metres in ((0.00025, 1.0), (None, 4.0)):
        top = {} if factor is None else {"depth_unit_scale_factor": factor}
        transforms(tmp_path, [{"file_path": "a.jpg", "depth_file_path": "d.png"}], **top)
        manifest, _ = scanned(tmp_path, "nerfstudio")
        assert read_depth(manifest.path("d.png"), manifest[0].depth_scale).max() == pytest.approx(metres)
    transforms(tmp_path, [{"file_path": "a.jpg"}], depth_unit_scale_factor=-1)
    with pytest.raises(UserError, match="depth_unit_scale_factor is -1"):
        scanned(tmp_path, "nerfstudio")


@pytest.mark.parametrize("name", ["frame_0.5s", "frame_1", "a.b.c"])
def test_an_image_may_be_named_without_its_suffix(tmp_path, name):
    picture(tmp_path / f"images/{name}.png")
    transforms(tmp_path, [{"file_path": f"images/{name}"}], fl_x=50)
    assert scanned(tmp_path, "nerfstudio")[0][0].image == f"images/{name}.png"


COLMAP_MODELS = {
    "SIMPLE_DIVISION": ("500 320 240 0", (500, 500, 320, 240), False),
    "DIVISION": ("500 510 320 240 -0.1", (500, 510, 320, 240), True),
    "EUCM": ("500 510 320 240 0 1", (500, 510, 320, 240), False),
    "RADIAL": ("500 320 240 0.1 0", (500, 500, 320, 240), True),
    "FISHEYE": ("500 510 320 240", None, False),
    "EQUIRECTANGULAR": ("640 480", None, False),
    "MADE_UP": ("1 2 3", None, False),
}


@pytest.mark.parametrize("model", COLMAP_MODELS)
def test_what_a_colmap_camera_model_gives(tmp_path, model):
    numbers, lens, distorted = COLMAP_MODELS[model]
    picture(tmp_path / "images/0.jpg", (640, 480))
    (tmp_path / "sparse/0").mkdir(parents=True)
    (tmp_path / "sparse/0/cameras.txt").write_text(f"1 {model} 640 480 {numbers}\n")
    (tmp_path / "sparse/0/images.txt").write_text("1 1 0 0 0 0 0 0 1 0.jpg\n\n")
    manifest, problems = scanned(tmp_path, "colmap")
    assert manifest[0].pose is not None
    assert (manifest[0].fx, manifest[0].fy, manifest[0].cx, manifest[0].cy) == (lens or (None,) * 4)
    said = " ".join(manifest.info.get("notes", []))
    assert ("poses, no intrinsics" in said) == (lens is None)
    assert ("not corrected" in said) == distorted
    assert not problems


@pytest.mark.parametrize(("number", "count", "said"), [(11, 16, "RAD_TAN_THIN_PRISM"), (99, 3, "model 99 is unknown")])
def test_binary_colmap_cameras_without_a_pinhole_keep_their_poses(tmp_path, number, count, said):
    picture(tmp_path / "images/0.jpg", (640, 480))
    (tmp_path / "sparse/0").mkdir(parents=True)
    camera = struct.pack(f"<QiiQQ{count}d", 1, 1, number, 640, 480, *range(1, count + 1))
    (tmp_path / "sparse/0/cameras.bin").write_bytes(camera)
    pose = struct.pack("<Qi7di", 1, 1, 1, 0, 0, 0, 0.5, 0, 0, 1)
    (tmp_path / "sparse/0/images.bin").write_bytes(pose + b"0.jpg\0" + struct.pack("<Q", 0))
    manifest, _ = scanned(tmp_path, "colmap")
    assert manifest[0].pose[0, 3] == -0.5
    assert manifest[0].fx is None
    assert said in " ".join(manifest.info["notes"])


def test_depth_of_another_aspect_is_left_out_with_a_line(tmp_path):
    scene = tmp_path / "scene0000_00"
    picture(scene / "color/0.jpg", (1296 // 4, 968 // 4))
    for name in ("depth", "pose", "intrinsic"):
        (scene / name).mkdir()
    Image.fromarray(np.full((480, 640), 1500, np.uint16)).save(scene / "depth/0.png")
    np.savetxt(scene / "pose/0.txt", np.eye(4))
    np.savetxt(scene / "intrinsic/intrinsic_color.txt", np.diag([1170, 1170, 1, 1]))
    manifest, _ = scanned(tmp_path, "scannet")
    assert manifest[0].depth is None
    assert "export colour at depth's size" in manifest.info["notes"][0]
