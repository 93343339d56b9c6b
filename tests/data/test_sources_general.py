"""COLMAP models, transforms.json, and plain image lists by pattern."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from manyview.cli.main import main
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.overlap import groups_of
from manyview.data.sources import SOURCES, ScanOptions, scan
from manyview.data.sources.colmap import read_model
from manyview.errors import UserError
from official_layouts import CAM2WORLD, GL, LENS, SIZE, check_cameras, colmap_binary, colmap_text, map16, picture, text

NAMES = ["a/1.png", "a/2.png", "b 3.png"]
SEEN = [[5, 7, 7, -1], [], [9]]
LENSES = {
    "PINHOLE 64 48 50 52 33.25 22.75": (1, [50.0, 52, 33.25, 22.75], LENS),
    "SIMPLE_RADIAL 64 48 50 33.25 22.75 0.05": (
        2,
        [50.0, 33.25, 22.75, 0.05],
        LENS * [[1, 1, 1], [1, 50 / 52, 1], [1, 1, 1]],
    ),
    "OPENCV 64 48 50 52 33.25 22.75 0.1 0 0 0": (4, [50.0, 52, 33.25, 22.75, 0.1, 0, 0, 0], LENS),
}


@pytest.mark.parametrize("camera", LENSES)
@pytest.mark.parametrize("binary", [False, True])
def test_colmap_text_and_binary(tmp_path, camera, binary):
    number, values, lens = LENSES[camera]
    for place, images in (("one/sparse/0", "one/images"), ("two/sparse", "two/images"), ("three", "three")):
        if binary:
            colmap_binary(tmp_path / place, NAMES, SEEN, model=number, numbers=values)
        else:
            colmap_text(tmp_path / place, NAMES, SEEN, camera=camera)
        for name in NAMES:
            picture(tmp_path / images / name)
        model = read_model(tmp_path / place)
        assert [photo.points.tolist() for photo in model.photos] == [[5, 7], [], [9]]
    manifest, problems = scan(tmp_path, format="colmap")
    assert problems == []
    assert list(manifest.scenes()) == ["one", "three", "two"]
    for scene in manifest.scenes():
        check_cameras(manifest.select(scenes=[scene]).frames, lens=lens)
    assert manifest.info.get("distortion") == (None if camera.startswith("PINHOLE") else "not corrected")
    assert len(scan(tmp_path / "one", format="colmap")[0]) == 3


def test_colmap_images_of_another_size_and_missing_ones(tmp_path):
    colmap_text(tmp_path / "sparse", NAMES, camera="PINHOLE 64 48 50 52 33.25 22.75")
    picture(tmp_path / "images" / NAMES[0], (128, 96))
    picture(tmp_path / "images" / NAMES[1], (48, 48))
    manifest, problems = scan(tmp_path, format="colmap")
    assert (manifest[0].fx, manifest[0].cy) == (100.0, 45.5)
    assert (manifest[1].fx, manifest[1].pose is not None) == (None, True)
    assert {p.path: p.reason.split(":")[-1].strip() for p in problems} == {
        "images/a/2.png": "another aspect",
        "images/b 3.png": "no such file",
    }


@pytest.mark.parametrize("camera", ["OPENCV_FISHEYE 64 48 50 52 33 22 0 0 0 0", "FOV 64 48 50 52 33 22 0.9"])
def test_colmap_fisheye_cameras_are_no_pinholes(tmp_path, camera):
    colmap_text(tmp_path, NAMES, camera=camera)
    for name in NAMES:
        picture(tmp_path / name)
    manifest, _ = scan(tmp_path, format="colmap")
    assert [(frame.fx, frame.pose is None) for frame in manifest.frames] == [(None, False)] * 3


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("images.txt", "1 2 3", "values to unpack|not enough"),
        ("cameras.txt", "1 PINHOLE 64 48 fifty", "could not convert"),
        ("images.bin", b"\2\0\0\0\0\0\0\0\1\0\0\0", "no such file|ends in the middle"),
    ],
)
def test_colmap_models_that_are_damaged(tmp_path, file, content, reason):
    for scene in ("bad", "good"):
        colmap_text(tmp_path / scene, NAMES, camera="PINHOLE 64 48 50 52 33 22")
        for name in NAMES:
            picture(tmp_path / scene / name)
    (tmp_path / "bad" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    manifest, problems = scan(tmp_path, format="colmap")
    assert list(manifest.scenes()) == ["good"]
    assert len(problems) == 1
    assert re.search(reason, problems[0].reason)


def transforms(names, **more):
    frames = [{"file_path": name, "transform_matrix": (CAM2WORLD[i] @ GL).tolist()} for i, name in enumerate(names)]
    return {"w": 64, "h": 48, "fl_x": 50, "fl_y": 52, "cx": 33.25, "cy": 22.75, "frames": frames, **more}


def test_nerfstudio(tmp_path):
    names = [f"./images/frame_{i}.png" for i in range(3)]
    content = transforms(names)
    for i, name in enumerate(names):
        picture(tmp_path / "poster" / name)
        content["frames"][i]["depth_file_path"] = f"depth/{i}.png"
        map16(tmp_path / "poster" / "depth" / f"{i}.png", 750)
    content["frames"][1] |= {"fl_x": 60, "cx": 30}  # a frame's own camera
    file = text(tmp_path / "poster" / "transforms.json", json.dumps(content))
    for src in (file, file.parent, tmp_path):
        manifest, problems = scan(src, format="nerfstudio")
        assert problems == []
        assert [frame.fx for frame in manifest.frames] == [50, 60, 50]
        assert [frame.cx for frame in manifest.frames] == [33.25, 30, 33.25]
        assert all(np.allclose(frame.pose, pose) for frame, pose in zip(manifest.frames, CAM2WORLD, strict=True))
    assert load_views(manifest, [0], (28, 28)).depth.mean() == pytest.approx(0.75, abs=1e-5)


def test_nerf_synthetic_splits_and_angles(tmp_path):
    angle = 2 * np.arctan(SIZE[0] / 2 / 50)
    for split in ("train", "val"):
        frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": (CAM2WORLD[i] @ GL).tolist()} for i in range(3)]
        content = {"camera_angle_x": angle, "w": 64, "h": 48, "frames": frames}
        text(tmp_path / "lego" / f"transforms_{split}.json", json.dumps(content))
        for i in range(3):
            picture(tmp_path / "lego" / split / f"r_{i}.png")
    manifest, problems = scan(tmp_path, format="nerfstudio")
    assert problems == []
    assert list(manifest.scenes()) == ["lego"]
    middle = np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])
    check_cameras([frame for frame in manifest.frames if frame.split == "val"], lens=middle)


def test_nerfstudio_fisheye_missing_and_damaged(tmp_path):
    picture(tmp_path / "a" / "1.png")
    text(tmp_path / "a" / "transforms.json", json.dumps(transforms(["1.png", "2.png"], camera_model="OPENCV_FISHEYE")))
    text(tmp_path / "b" / "transforms.json", '{"frames": [{"file_path": "1.png"}]}')
    manifest, problems = scan(tmp_path, format="nerfstudio")
    assert [(frame.fx, frame.pose is None) for frame in manifest.frames] == [(None, False)]
    assert {p.path for p in problems} == {"a/2.png", "b/1.png", "b/transforms.json"}
    assert manifest.info["notes"] == ["no pinhole is near cameras of the model OPENCV_FISHEYE: poses, no intrinsics"]


def test_gldv2_and_other_lists(tmp_path):
    for name in ("train/0/1/2/0123456789abcdef.jpg", "train/0/1/3/0133456789abcdef.jpg", "train/0/readme.jpg"):
        picture(tmp_path / "g" / name, (9, 7))
    for src in ("g", "g/train"):
        manifest, _ = scan(tmp_path / src, format="gldv2")
        assert [f.frame for f in manifest.frames] == ["0123456789abcdef", "0133456789abcdef"]
        assert len(manifest.scenes()) == 2
    for name in ("s/png/seq_000001/seq_000001_0000.png", "s/png/seq_000001/seq_000001_0005.png", "s/mask/x/1.png"):
        picture(tmp_path / "bedlam" / name, (9, 7))
    manifest, _ = scan(tmp_path / "bedlam", format="bedlam")
    assert {name: len(rows) for name, rows in manifest.scenes().items()} == {"s/png/seq_000001": 2}
    for name in ("train_0/ag_1.png", "validation/ag_2.png", "masks/ag_3.png"):
        picture(tmp_path / "agora" / name, (9, 7))
    assert [f.frame for f in scan(tmp_path / "agora", format="agora")[0].frames] == ["ag_1", "ag_2"]
    for name in ("images/Talk/v1/000001.png", "images/Talk/v1/000002.png", "annotations/1.png"):
        picture(tmp_path / "ubody" / name, (9, 7))
    assert list(scan(tmp_path / "ubody", format="ubody")[0].scenes()) == ["images/Talk/v1"]
    with pytest.raises(UserError, match="no images like"):
        scan(tmp_path / "ubody", format="gldv2")


def test_mapillary_sequences_in_the_order_of_their_numbers(tmp_path):
    part = tmp_path / "train_val" / "cph" / "database"
    keys = ["zz", "aa", "mm", "xx"]
    for key in keys:
        picture(part / "images" / f"{key}.jpg", (9, 7))
    text(part / "seq_info.csv", ",key,sequence_id,frame_number", "0,zz,s1,3", "1,aa,s1,20", "2,mm,s2,1")
    manifest, problems = scan(tmp_path, format="mapillary-sls")
    assert problems == []
    scenes = {name: [manifest[i].image[-6:-4] for i in rows] for name, rows in manifest.scenes().items()}
    folder = "train_val/cph/database"
    assert scenes == {f"{folder}/s1": ["zz", "aa"], f"{folder}/s2": ["mm"], f"{folder}/images/xx": ["xx"]}
    assert {f.split for f in manifest.frames} == {"train_val"}


def test_options_pick_from_every_scene_and_from_lists_as_a_whole(tmp_path):
    names = [f"images/{i}.png" for i in range(3)]
    for scene in ("a", "b"):
        text(tmp_path / "n" / scene / "transforms.json", json.dumps(transforms(names)))
        for name in names:
            picture(tmp_path / "n" / scene / name)
            picture(tmp_path / "c" / scene / name.replace("images/", ""), (9, 7))
    manifest, _ = scan(tmp_path / "n", format="nerfstudio", options=ScanOptions(frames="1:", dataset="mine", split="t"))
    assert [(f.scene, f.frame, f.dataset, f.split) for f in manifest.frames] == [
        (scene, frame, "mine", "t") for scene in "ab" for frame in "12"
    ]
    manifest, _ = scan(tmp_path / "c", format="imagenet", options=ScanOptions(stride=2))
    assert [f.scene for f in manifest.frames] == ["a/0", "a/2", "b/1"]


def test_every_format_refuses_a_folder_that_is_not_its_own(tmp_path):
    text(tmp_path / "notes.md", "nothing")
    for name in SOURCES.names():
        if name == "video":
            continue
        with pytest.raises(UserError) as caught:
            scan(tmp_path, format=name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_every_format_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    missing = [name for name in SOURCES.names() if f"| `{name}` |" not in page]
    assert missing == []


def test_the_command_writes_a_manifest_that_loads(tmp_path, capsys):
    names = [f"images/{i}.png" for i in range(3)]
    for name in names:
        picture(tmp_path / "n" / name)
    text(tmp_path / "n" / "transforms.json", json.dumps(transforms(names)))
    out = tmp_path / "m.parquet"
    assert main(["data", "scan", str(tmp_path / "n"), "--format", "nerfstudio", "-o", str(out)]) == 0
    assert "3 frames, 1 scene" in capsys.readouterr().out
    manifest = Manifest.load(out)
    check_cameras(manifest.frames)
    assert groups_of(manifest) == [[0, 1, 2]]
