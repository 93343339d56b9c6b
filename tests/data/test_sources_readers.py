"""What every reader gets for nothing: its own options, frames that are written when wanted, problems, groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from manyview.data.overlap import groups_of
from manyview.data.sources import SOURCES, Camera, Row, ScanOptions, images_of, options_for, reader, scan
from manyview.data.sources.nyuv2 import NyuOptions
from manyview.data.sources.video import VideoOptions
from manyview.errors import UserError
from manyview.images.reading import ImageProblem


@dataclass(frozen=True, kw_only=True)
class ShotOptions(ScanOptions):
    """What of shots is wanted."""

    side: str = "left"
    """Which camera."""


@pytest.fixture
def registered(monkeypatch):
    """A function that adds a reader under a name, for one test."""
    SOURCES.names()
    return lambda name, entry: monkeypatch.setitem(SOURCES._entries, name, entry)


def test_a_reader_with_options_of_its_own(registered, kit, tmp_path):
    @reader("SIDE/N.png images", options=ShotOptions, chunk=7)
    def shots(src):
        for folder in src.folders(f"*{src.options.side}"):
            yield folder.name, [Row(image=path) for path in reversed(images_of(folder))]

    registered("shots", shots)
    for name in ("left/10.png", "left/9.png", ".left/1.png", "right/1.png"):
        kit.save(tmp_path / name, kit.corners(8, 8))
    manifest, problems = scan(tmp_path, format="shots")
    assert problems == []
    assert [(f.dataset, f.scene, f.frame) for f in manifest.frames] == [("shots", "left", "9"), ("shots", "left", "10")]
    assert manifest.info["chunk"] == 7
    other, _ = scan(tmp_path, format="shots", options=options_for("shots", side="right", dataset="d"))
    assert [(f.dataset, f.image) for f in other.frames] == [("d", "right/1.png")]


def test_a_folder_without_the_layout_says_what_it_lacks(registered, tmp_path):
    registered("shots", reader("SIDE/N.png images")(lambda src: iter(())))
    with pytest.raises(UserError, match=r"has no SIDE/N\.png images; check the folder"):
        scan(tmp_path, format="shots")


@pytest.mark.parametrize(
    ("format", "options", "line"),
    [
        ("folder", {"fps": 2.0}, r"--fps is for videos, not for --format folder; use --stride"),
        ("co3d", {"classes": 40}, r"--classes is for nyuv2, scannet, not for --format co3d"),
    ],
)
def test_an_option_of_another_format_is_refused(tmp_path, format, options, line):
    with pytest.raises(UserError, match=line):
        options_for(format, **options)
    kind = VideoOptions if "fps" in options else NyuOptions
    with pytest.raises(UserError, match=line):
        scan(tmp_path, format=format, options=kind(**options))


def test_of_an_iterator_no_more_is_read_than_wanted():
    read = []

    def frames():
        for index in range(100):
            read.append(index)
            yield index

    assert list(ScanOptions(frames="2:50", stride=3, max_frames=3).pick(frames())) == [2, 5, 8]
    assert read == list(range(9))
    assert list(ScanOptions(frames="-3:").pick(range(9))) == [6, 7, 8]
    with pytest.raises(UserError, match="from 0 on"):
        ScanOptions(frames="-3:").pick(frames())
    with pytest.raises(UserError, match="stride"):
        ScanOptions(stride=0).pick(frames())


def test_frames_are_written_when_they_are_wanted_and_a_bad_one_is_listed(registered, kit, tmp_path):
    written = []

    def write(path, number):
        if number == 2:
            raise ImageProblem(path, "number two")
        written.append(number)
        kit.save(path, kit.corners(8, 8))

    @reader("nothing")
    def made(src):
        folder = src.extract_to()
        paths = {number: folder / f"{number}.png" for number in range(5)}
        yield (
            None,
            [
                Row(image=path, scene=f"s{number // 3}", write=partial(write, path, number))
                for number, path in paths.items()
            ],
        )

    registered("made", made)
    with pytest.raises(UserError, match="need a place"):
        scan(tmp_path, format="made")
    options = ScanOptions(extract_to=tmp_path / "m_frames", frames="1:4")
    manifest, problems = scan(tmp_path, format="made", options=options)
    assert written == [1, 3]
    assert [(f.scene, f.image) for f in manifest.frames] == [("s0", "m_frames/1.png"), ("s1", "m_frames/3.png")]
    assert [(p.path, p.reason) for p in problems] == [("m_frames/2.png", "number two")]


def test_a_scene_whose_rows_break_off_is_left_out_whole(registered, kit, tmp_path):
    kit.save(tmp_path / "1.png", kit.corners(8, 8))

    def broken(path):
        yield Row(image=path)
        raise ImageProblem("film", "breaks off")

    @reader("films")
    def films(src):
        yield "bad", broken(src.root / "1.png")
        yield "good", [Row(image=src.root / "1.png")]

    registered("films", films)
    manifest, problems = scan(tmp_path, format="films")
    assert [f.scene for f in manifest.frames] == ["good"]
    assert [(p.path, p.reason) for p in problems] == [("film", "breaks off")]


def test_groups_and_files_outside_the_folder(registered, kit, tmp_path):
    for number in range(4):
        kit.save(tmp_path / "in" / f"{number}.png", kit.corners(8, 8))
    kit.save(tmp_path / "out.png", kit.corners(8, 8))

    @reader("images")
    def grouped(src):
        paths = [src.root / f"{number}.png" for number in range(4)]
        pose = np.eye(4)
        pose[0, 0] = 3
        yield "a", [Row(image=path, camera=Camera(cam2world=pose)) for path in paths]
        src.group("a", [paths[2:], [paths[0], src.root / "none.png"]])
        yield "b", [Row(image=src.root.parent / "out.png")]
        src.group("b", [])
        yield "c", [Row(image=paths[0])]  # a reader need not say anything of a scene's groups

    registered("grouped", grouped)
    manifest, problems = scan(tmp_path / "in", format="grouped")
    assert [list(group) for group in groups_of(manifest)] == [[2, 3], [4]]
    assert [("not rigid" in p.reason, "out.png" in p.path) for p in problems] == [(True, False)] * 4 + [(False, True)]
    strict, _ = scan(tmp_path / "in", format="grouped", options=ScanOptions(skip_bad=True))
    assert [frame.scene for frame in strict.frames] == ["c"]
