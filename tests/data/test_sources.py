"""Scanning folders and the cameras.json layout: what is found, what is left out and why, what stops it."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from manyview.data.check import check
from manyview.data.loading import load_views
from manyview.data.sources import SOURCES, ScanOptions, scan
from manyview.data.sources.video import VideoOptions
from manyview.errors import UserError

K = [[80.0, 0.0, 31.5], [0.0, 81.0, 23.5], [0.0, 0.0, 1.0]]
POSE = np.eye(4).tolist()


@pytest.fixture
def photos(kit, tmp_path):
    """Nine files: four good ones of mixed size and orientation, five that give no picture."""
    folder = tmp_path / "photos"
    kit.save(folder / "img10.png", kit.corners())
    kit.save(folder / "img2.png", kit.corners(64, 48))
    Image.fromarray(kit.corners()).convert("CMYK").save(folder / "img1.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "img3.jpg").write_bytes(kit.jpeg(kit.corners(), exif=exif))
    (folder / "img4.jpg").write_bytes(b"")
    (folder / "img5.jpg").write_bytes(kit.jpeg(kit.noise())[:5000])
    (folder / "img6.jpg").write_text("not a picture")
    (folder / "img7.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "img8.tif").write_bytes(b"II*\0\xff\xff\xff\x7f")
    (folder / "notes.txt").write_text("no image, not listed")
    (folder / ".hidden.jpg").write_bytes(b"")
    return folder


def test_a_folder_in_natural_order_with_the_broken_ones_listed(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where the extra heif is not installed
    manifest, problems = scan(photos, format="folder")
    assert [(f.frame, f.width, f.height) for f in manifest.frames] == [
        ("img1", 64, 48),
        ("img2", 48, 64),
        ("img3", 48, 64),
        ("img10", 64, 48),
    ]
    assert [p.path for p in problems] == ["img4.jpg", "img5.jpg", "img6.jpg", "img7.heic", "img8.tif"]
    reasons = " | ".join(p.reason for p in problems)
    for word in ("empty file", "truncated", "not an image", "HEIC"):
        assert word in reasons
    assert manifest.info["left_out"] == 5
    views = load_views(manifest, range(4), (28, 28))
    assert views.images.mean(dim=(2, 3, 4)).min() > 0.2  # no black stand-in


def test_folders_of_folders_are_scenes(photos, kit, tmp_path):
    kit.save(tmp_path / "set" / "b" / "img1.png", kit.corners())
    kit.save(tmp_path / "set" / "a" / "inner" / "img1.png", kit.corners())
    kit.save(tmp_path / "set" / "img1.png", kit.corners())
    (tmp_path / "set" / "img1.jpg").write_bytes(kit.jpeg(kit.corners()))
    manifest, _ = scan(tmp_path / "set", format="folder", options=ScanOptions(dataset="mine", split="test"))
    assert list(manifest.scenes()) == ["a/inner", "b", "set"]
    assert {(f.dataset, f.split) for f in manifest.frames} == {("mine", "test")}
    assert [f.frame for f in manifest.frames if f.scene == "set"] == ["img1.jpg", "img1.png"]  # one stem, two files


def test_frames_stride_and_maximum(kit, tmp_path):
    for i in range(12):
        kit.save(tmp_path / "p" / f"{i}.png", kit.corners(8, 8))
    (tmp_path / "p" / "4.png").write_bytes(b"")
    pick = lambda **options: [
        f.frame for f in scan(tmp_path / "p", format="folder", options=options_of(options))[0].frames
    ]
    options_of = lambda options: ScanOptions(**options)
    assert pick(frames="2:9") == ["2", "3", "5", "6", "7", "8"]  # the broken one keeps its position
    assert pick(frames="1:", stride=4) == ["1", "5", "9"]
    assert pick(stride=5, max_frames=2) == ["0", "5"]
    with pytest.raises(UserError, match="max-frames 0"):
        pick(max_frames=0)


def test_links_out_of_the_folder_are_left_out(photos, kit, tmp_path):
    outside = kit.save(tmp_path / "outside.png", kit.corners())
    (photos / "img0.png").symlink_to(outside)
    manifest, problems = scan(photos, format="folder")
    assert "img0" not in [f.frame for f in manifest.frames]
    assert "leaves" in problems[0].reason


def test_scans_that_find_nothing(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"")
    cases = [
        (tmp_path / "empty", "folder", r"no images in .*known suffixes: \.jpg"),
        (tmp_path / "bad", "folder", r"no usable frame in .*a\.jpg: empty file"),
        (tmp_path / "none", "folder", "does not exist"),
        (photos / "img1.jpg", "folder", "is a file"),
        (photos, "foldr", "did you mean 'folder'"),
        (photos, "manyview", "no cameras.json in .*--format folder"),
    ]
    for src, name, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            scan(src, format=name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--fps is for videos"):
        scan(photos, format="folder", options=VideoOptions(fps=2))
    assert {"folder", "manyview", "video"} <= set(SOURCES.names())


@pytest.fixture
def room(kit, tmp_path):
    """A function that writes a cameras.json scene with three frames, changed as the test wants."""

    def write(name: str = "room", top: dict | None = None, **changes: object):
        folder = tmp_path / name
        frames = []
        for i in (10, 9, 1):
            kit.save(folder / "images" / f"{i}.png", kit.corners())
            (folder / "depth").mkdir(exist_ok=True)
            Image.fromarray(np.full((48, 64), 1000, np.uint16)).save(folder / "depth" / f"{i}.png")
            entry = {"file": f"images/{i}.png", "size": [64, 48], "K": K, "cam2world": POSE}
            frames.append({**entry, "depth": f"depth/{i}.png"})
        frames[1].update(changes)
        content = {"units": "metres", "depth_png": "uint16, millimetres", "frames": frames, **(top or {})}
        (folder / "cameras.json").write_text(json.dumps(content))
        return folder

    return write


def test_cameras_json_with_centres_at_integers(room):
    manifest, problems = scan(room(), format="manyview")
    assert problems == []
    assert [f.frame for f in manifest.frames] == ["1", "9", "10"]
    assert {(f.fx, f.fy, f.cx, f.cy) for f in manifest.frames} == {(80.0, 81.0, 32.0, 24.0)}
    assert manifest[0].depth_scale == 0.001
    assert manifest.info["scenes"]["room"]["units"] == "metres"
    assert (load_views(manifest, [0, 1], (28, 28)).depth == 1).all()


def test_cameras_json_that_says_half_pixel_centres(room):
    manifest, _ = scan(room(top={"pixel_centres": 0.5, "depth_scale": 0.5}), format="manyview")
    assert (manifest[0].cx, manifest[0].cy, manifest[0].depth_scale) == (31.5, 23.5, 0.5)


def test_a_folder_of_scenes_and_a_single_file(room):
    parent = room("set/b").parent
    room("set/a2", top={"label_names": ["wall"]})
    room("set/a10")
    manifest, _ = scan(parent, format="manyview")
    assert list(manifest.scenes()) == ["a2", "a10", "b"]
    assert manifest.info["scenes"]["a2"]["label_names"] == ["wall"]
    assert check(manifest) == []
    single, _ = scan(parent / "b" / "cameras.json", format="manyview")
    assert list(single.scenes()) == ["b"]


def test_frames_with_nothing_known_and_a_broken_image(room):
    folder = room(K=None, cam2world=None, depth=None, size=None)
    (folder / "images" / "10.png").write_bytes(b"")
    manifest, problems = scan(folder, format="manyview")
    assert [f.frame for f in manifest.frames] == ["1", "9"]
    assert (manifest[1].fx, manifest[1].cam2world, manifest[1].depth, manifest[1].depth_scale) == (None,) * 4
    assert [(p.path, "empty" in p.reason) for p in problems] == [("images/10.png", True)]


def changed(index: tuple[int, int], value: float) -> list[list[float]]:
    pose = np.eye(4)
    pose[index] = value
    return pose.tolist()


MISTAKES = {
    "nan pose": ({"cam2world": changed((0, 3), float("nan"))}, "cam2world has NaN"),
    "infinite pose": ({"cam2world": changed((1, 1), float("-inf"))}, "cam2world has NaN or infinite"),
    "scaled pose": ({"cam2world": (np.diag([2.0, 2, 2, 1])).tolist()}, "not rigid"),
    "mirrored pose": ({"cam2world": np.diag([-1.0, 1, 1, 1]).tolist()}, "not rigid"),
    "short pose": ({"cam2world": POSE[:2]}, r"shape \(2, 4\)"),
    "text pose": ({"cam2world": "unknown"}, "shape|not a matrix"),
    "null in pose": ({"cam2world": [[None] * 4] * 4}, "not a matrix|NaN"),
    "no focal": ({"K": [[0, 0, 1], [0, 1, 1], [0, 0, 1]]}, "focal lengths positive"),
    "skew": ({"K": [[9, 1, 1], [0, 9, 1], [0, 0, 1]]}, "skew"),
    "missing depth": ({"depth": "depth/nope.png"}, "depth file depth/nope.png is missing"),
    "other size": ({"size": [48, 64]}, r"64x48 once upright but size says \[48, 64\]"),
    "missing label": ({"label": "labels/9.png"}, "label file labels/9.png is missing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_bad_frame_stops_the_scan_with_one_line_or_is_left_out(room, name):
    changes, message = MISTAKES[name]
    folder = room(**changes)
    with pytest.raises(UserError, match=rf"cameras\.json: frame 'images/9\.png'.*{message}") as caught:
        scan(folder, format="manyview")
    assert "\n" not in str(caught.value)
    manifest, problems = scan(folder, format="manyview", options=ScanOptions(skip_bad=True))
    assert [f.frame for f in manifest.frames] == ["1", "10"]
    assert [p.path for p in problems] == ["images/9.png"]


def test_turned_and_damaged_depth_stop_the_scan(room):
    folder = room()
    Image.fromarray(np.ones((64, 48), np.uint16)).save(folder / "depth" / "9.png")
    with pytest.raises(UserError, match="depth is 48x64, its image 64x48"):
        scan(folder, format="manyview")
    (folder / "depth" / "9.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"depth/9\.png: depth damaged"):
        scan(folder, format="manyview")


@pytest.mark.parametrize("file", ["../other/1.png", "/etc/hostname"])
def test_cameras_json_cannot_reach_outside(room, file):
    room("other")
    for change in ({"file": file}, {"depth": file}):
        with pytest.raises(UserError, match="not a plain path"):
            scan(room(**change), format="manyview")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a cameras.json"),
        ("[]", "is not a cameras.json"),
        ("{}", "is not a cameras.json"),
        ('{"frames": [{"name": "a.jpg"}]}', "is not a cameras.json"),
        ('{"frames": [3]}', "is not a cameras.json"),
        ('{"frames": [{"file": 3}]}', "is not a cameras.json"),
        ('{"frames": []}', "no usable frame"),
        ('{"frames": [{"file": "a.jpg"}], "pixel_centres": 1}', "pixel_centres is 1"),
        ('{"frames": [{"file": "a.jpg"}], "depth_png": "furlongs"}', "depth_png says 'furlongs'"),
        ('{"frames": [{"file": "a.jpg"}], "depth_scale": -1}', "depth_scale is -1"),
        ('{"frames": [{"file": "a.jpg"}]}', r"a\.jpg: no such file"),
    ],
)
def test_cameras_json_that_is_none(tmp_path, text, message):
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        scan(tmp_path, format="manyview")
    assert "\n" not in str(caught.value)


def test_check_lists_what_changed_since(room, kit):
    folder = room()
    manifest, _ = scan(folder, format="manyview")
    assert check(manifest) == []
    (folder / "images" / "1.png").unlink()
    kit.save(folder / "images" / "9.png", kit.corners(20, 20))
    depth = folder / "depth" / "10.png"
    depth.write_bytes(depth.read_bytes()[:50])
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(folder / "depth" / "9.png")
    found = dict(check(manifest))
    assert sorted(found) == ["depth/10.png", "depth/9.png", "images/1.png", "images/9.png"]
    assert found["images/1.png"] == "no such file"
    assert found["images/9.png"] == "is 20x20, the manifest says 64x48"
    assert found["depth/9.png"] == "holds no depth at all"


def test_every_folder_of_the_real_data_scans(shared, tmp_path):
    expected = {"redkitchen_000_499": (100, 100, 100), "hololens_000_185": (93, 93, 93), "sacre_coeur10": (10, 0, 0)}
    for folder in sorted(p for p in (shared / "data").iterdir() if p.is_dir()):
        manifest, problems = scan(folder, format="manyview", options=ScanOptions(max_frames=100))
        assert problems == []
        known = [sum(getattr(f, key) is not None for f in manifest.frames) for key in ("cam2world", "depth")]
        if folder.name in expected:
            assert (len(manifest), *known) == expected[folder.name]
        views = load_views(manifest, range(min(2, len(manifest))), (56, 70))
        assert views.images.std() > 0.05
        assert (views.intrinsics is None) == (manifest[0].fx is None)


def test_real_poses_and_depth_agree_across_views(shared):
    """Depth of one view, moved to another, meets that view's own depth: K, poses and scale are right."""
    import torch

    from manyview.geometry.cameras import project
    from manyview.geometry.pointmaps import unproject
    from manyview.geometry.poses import apply, invert

    manifest, _ = scan(shared / "data" / "hololens_000_185", format="manyview", options=ScanOptions(frames="0:6"))
    views = load_views(manifest, [0, 3], (224, 336))
    local = unproject(views.depth[0, 0], views.intrinsics[0, 0])[views.depth[0, 0] > 0]
    second_from_first = invert(views.cam2world[0, 1]) @ views.cam2world[0, 0]
    uv, z = project(apply(second_from_first, local), views.intrinsics[0, 1])
    inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] < 336) & (uv[:, 1] < 224)
    measured = views.depth[0, 1][uv[inside, 1].long(), uv[inside, 0].long()]
    error = ((measured - z[inside]).abs() / z[inside])[measured > 0]
    assert inside.float().mean() > 0.3
    assert torch.median(error) < 0.02


def test_scanning_a_copy_gives_the_same_digest(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "again" / "photos")
    first, _ = scan(photos, format="folder")
    second, _ = scan(tmp_path / "again" / "photos", format="folder")
    assert first.digest() == second.digest()
