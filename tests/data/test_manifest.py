"""The manifest on disk: round trips, moves, selections, atomic writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError

IDENTITY = tuple(float(x) for x in np.eye(4).ravel())


def frame(name: str = "img1", **changes: object) -> Frame:
    base = Frame("set", "room", name, "train", f"images/{name}.png", 64, 48)
    return dataclasses.replace(base, **changes)


def numbered(count: int = 12) -> list[Frame]:
    return [frame(f"img{i}") for i in range(count)]


@pytest.fixture
def folder(kit, tmp_path):
    for i in range(3):
        kit.save(tmp_path / "data" / "images" / f"img{i}.png", kit.corners())
    return tmp_path / "data"


def test_round_trip_keeps_every_value(folder, tmp_path):
    known = frame(
        "img1",
        fx=50.25,
        fy=51.0,
        cx=32.5,
        cy=24.125,
        cam2world=IDENTITY,
        depth="depth/img1.png",
        depth_scale=0.001,
        labels="labels/img1.png",
        instances="instances/img1.png",
    )
    manifest = Manifest([frame("img0"), known], folder, {"format": "test", "label_names": ["wall", "chair"]})
    loaded = Manifest.load(manifest.save(tmp_path / "m.parquet"))
    assert loaded.frames == manifest.frames
    assert loaded.info == manifest.info
    assert loaded.root == folder.resolve()
    assert loaded.digest() == manifest.digest()
    assert loaded[0].intrinsics is None
    assert loaded[0].pose is None
    assert loaded[1].intrinsics.tolist() == [[50.25, 0, 32.5], [0, 51, 24.125], [0, 0, 1]]
    assert np.array_equal(loaded[1].pose, np.eye(4))


def test_columns_are_the_contract(folder, tmp_path):
    path = Manifest(numbered(1), folder).save(tmp_path / "m.parquet")
    assert pq.read_schema(path).names == [
        "dataset",
        "scene",
        "frame",
        "split",
        "image",
        "width",
        "height",
        "fx",
        "fy",
        "cx",
        "cy",
        "cam2world",
        "depth",
        "depth_scale",
        "labels",
        "instances",
    ]


def test_digest_sees_a_changed_row():
    assert Manifest(numbered(), ".").digest() != Manifest(numbered(11), ".").digest()
    assert Manifest([frame(fx=1.0, fy=1.0, cx=1.0, cy=1.0)], ".").digest() != Manifest([frame()], ".").digest()


@pytest.mark.parametrize("where", ["data/m.parquet", "m.parquet", "lists/m.parquet"])
def test_manifest_and_files_move_together(folder, tmp_path, where):
    Manifest(numbered(3), folder).save(tmp_path / where)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for part in ("data", "m.parquet", "lists"):
        if (tmp_path / part).exists():
            shutil.move(tmp_path / part, moved / part)
    loaded = Manifest.load(moved / where)
    assert loaded.path(loaded[0].image).read_bytes()


def test_files_that_moved_away_give_one_line(folder, tmp_path):
    path = Manifest(numbered(3), folder).save(tmp_path / "m.parquet")
    folder.rename(tmp_path / "new")
    with pytest.raises(UserError, match=r"m\.parquet: its files have moved.*img0\.png.*scan again") as caught:
        Manifest.load(path)
    assert "\n" not in str(caught.value)
    assert Manifest.load(path, root=tmp_path / "new").root == (tmp_path / "new").resolve()
    assert len(Manifest.load(path, check_files=False)) == 3


@pytest.mark.parametrize(
    "relative", ["../secret.png", "images/../../secret.png", "/etc/passwd", "C:/x.png", "a\\..\\..\\x", "", "a\0b"]
)
def test_paths_cannot_leave_the_root(folder, tmp_path, relative):
    (tmp_path / "secret.png").write_bytes(b"x")
    with pytest.raises(UserError, match="not a plain path"):
        Manifest([], folder).path(relative)
    path = Manifest([frame(image=relative)], folder).save(tmp_path / "m.parquet")
    with pytest.raises(UserError, match="not a plain path"):
        Manifest.load(path)


def test_links_that_leave_the_root_are_refused(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "images" / "inner.png").symlink_to(folder / "images" / "img0.png")
    (folder / "out").symlink_to(tmp_path)
    manifest = Manifest([], folder)
    assert manifest.path("images/inner.png").exists()
    for relative in ("images/link.png", "out/secret.png"):
        with pytest.raises(UserError, match="link that leaves"):
            manifest.path(relative)


def test_a_root_reached_through_a_link_is_fine(folder, tmp_path):
    (tmp_path / "shortcut").symlink_to(folder)
    assert Manifest([], tmp_path / "shortcut").path("images/img0.png").exists()


def test_scenes_are_in_natural_order():
    frames = [
        Frame("set", scene, name, "", f"{scene}/{name}.png", 8, 8)
        for scene in ("room10", "room2")
        for name in ("img10", "img2", "IMG1")
    ]
    manifest = Manifest(frames, ".")
    assert list(manifest.scenes()) == ["room2", "room10"]
    assert manifest.scenes()["room2"] == [5, 4, 3]
    assert manifest.scenes()["room10"] == [2, 1, 0]


def test_scenes_of_one_name_in_two_datasets_stay_apart():
    frames = [Frame(name, "room", "1", "", f"{name}/1.png", 8, 8) for name in ("b", "a")]
    assert Manifest(frames, ".").scenes() == {"a/room": [1], "b/room": [0]}


def test_select_by_position_stride_scene_and_split():
    frames = numbered(12) + [dataclasses.replace(frame("x1", image="x1.png"), scene="hall", split="test")]
    manifest = Manifest(reversed(frames), ".")
    names = lambda m: [f.frame for f in m.frames]
    assert names(manifest.select("9:12", scenes=["room"])) == ["img9", "img10", "img11"]
    assert names(manifest.select("0:10", 4, scenes=["room"])) == ["img0", "img4", "img8"]
    assert names(manifest.select("-2:", scenes=["room"])) == ["img10", "img11"]
    assert names(manifest.select("0:1")) == ["x1", "img0"]  # positions count in each scene
    assert names(manifest.select(split="test")) == ["x1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": "5"}, "not A:B"),
        ({"frames": "a:b"}, "not A:B"),
        ({"stride": 0}, "stride 0"),
        ({"frames": "50:60"}, "no frame is left of 12"),
        ({"scenes": ["kitchen"]}, "no scene 'kitchen'.*room"),
    ],
)
def test_selections_that_make_no_sense(arguments, message):
    with pytest.raises(UserError, match=message):
        Manifest(numbered(), ".").select(**arguments)


def bad_pose(change) -> tuple[float, ...]:
    pose = np.eye(4)
    change(pose)
    return tuple(pose.ravel().tolist())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cam2world": bad_pose(lambda p: p.__setitem__((0, 3), np.nan))}, "NaN or infinite"),
        ({"cam2world": bad_pose(lambda p: p.__setitem__((0, 0), 2.0))}, "not rigid"),
        ({"cam2world": bad_pose(lambda p: p.__setitem__((0, 0), -1.0))}, "not rigid"),
        ({"cam2world": bad_pose(lambda p: p.__setitem__((3, 0), 1.0))}, "last row"),
        ({"fx": 1.0}, "all of fx, fy, cx, cy"),
        ({"fx": 0.0, "fy": 1.0, "cx": 1.0, "cy": 1.0}, "focal lengths positive"),
        ({"fx": np.inf, "fy": 1.0, "cx": 1.0, "cy": 1.0}, "finite"),
        ({"depth": "d.png"}, "no depth_scale"),
        ({"width": 0}, "0x48"),
    ],
)
def test_rows_that_make_no_sense_are_refused_with_the_frame(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"m\.parquet: frame 'images/img1.png' .*{message}"):
        Manifest([frame(**changes)], folder).save(tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_bad_rows_are_also_refused_when_another_program_wrote_them(folder, tmp_path):
    good = frame(cam2world=IDENTITY, image="images/img0.png")
    path = Manifest([good], folder).save(tmp_path / "m.parquet")
    table = pq.read_table(path)
    poses = pa.array([[float("nan")] * 16], table.schema.field("cam2world").type)
    column = table.schema.get_field_index("cam2world")
    pq.write_table(table.set_column(column, table.schema.field(column), poses), path)
    with pytest.raises(UserError, match=r"m\.parquet: frame 'images/img0.png' has a cam2world that has NaN"):
        Manifest.load(path)


def test_the_same_image_twice_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="listed twice"):
        Manifest([frame(), frame()], folder).save(tmp_path / "m.parquet")


def test_files_that_are_no_manifest(tmp_path):
    (tmp_path / "text.parquet").write_text("hello")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    cases = {"none.parquet": "does not exist", ".": "is a folder", "text.parquet": "not a manyview manifest"}
    for name, message in {**cases, "other.parquet": "not a manyview manifest"}.items():
        with pytest.raises(UserError, match=message):
            Manifest.load(tmp_path / name)


def test_missing_columns_wrong_types_and_newer_versions(folder, tmp_path):
    path = Manifest([frame("img0")], folder).save(tmp_path / "m.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["width"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column 'width'"):
        Manifest.load(tmp_path / "a.parquet")
    column = table.schema.get_field_index("width")
    pq.write_table(table.set_column(column, "width", pa.array(["wide"])), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="another type"):
        Manifest.load(tmp_path / "b.parquet")
    newer = table.schema.metadata[b"manyview"].replace(b'"version": 1', b'"version": 99')
    pq.write_table(table.replace_schema_metadata({b"manyview": newer}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match="newer manyview"):
        Manifest.load(tmp_path / "c.parquet")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_one_line_and_keeps_the_older_file(folder, tmp_path, monkeypatch, code):
    path = Manifest(numbered(2), folder).save(tmp_path / "m.parquet")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    message = "no space left on the disk.*older file is kept" if code == errno.ENOSPC else "permission denied"
    with pytest.raises(UserError, match=message) as caught:
        Manifest(numbered(5), folder).save(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "m.parquet"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_writing_to_a_device_that_is_really_full(folder):
    from manyview import files

    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as handle:
        handle.write(b"x")
    assert "no space left" in files._why(OSError(errno.ENOSPC, "x"))


def test_saving_into_a_new_folder_and_over_a_folder(folder, tmp_path):
    assert Manifest(numbered(1), folder).save(tmp_path / "new" / "deep" / "m.parquet").exists()
    with pytest.raises(UserError, match="is a directory; give the name of a file"):
        Manifest(numbered(1), folder).save(tmp_path / "new")
