"""Videos, linked folders, several models of the same images and names in any encoding: nothing is lost in silence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyview.data import sources
from manyview.data.sources.colmap import ColmapOptions
from manyview.data.sources.video import VideoOptions
from manyview.images import video
from manyview.images.inputs import Take, gather
from manyview.images.video import VideoInfo, iter_video


class Capture:
    """Stands for OpenCV's: frames at given times (ms), and what the container states."""

    def __init__(self, times, fps, stated):
        self.times, self.about, self.at = times, {5: fps, 7: stated}, -1

    def get(self, what):
        return self.about[what] if what in self.about else self.times[self.at]

    def grab(self):
        self.at += 1
        return self.at < len(self.times)

    def retrieve(self):
        return True, np.full((4, 6, 3), self.at, np.uint8)

    def isOpened(self):
        return True

    def set(self, *_):
        pass

    def release(self):
        pass


VARIABLE = [*(i * 1000 // 30 for i in range(60)), *(2000 + 200 * i for i in range(40))]


@pytest.fixture
def film(monkeypatch, tmp_path):
    import cv2

    path = tmp_path / "walk.mkv"
    path.write_bytes(b"film")

    def make(times, fps=30.0, stated=None):
        monkeypatch.setattr(cv2, "VideoCapture", lambda _: Capture(times, fps, stated or len(times)))
        return path

    return make


@pytest.mark.parametrize(("fps", "stated"), [(30.0, 295), (10.17, 100)])  # as its MKV and its MP4 say
def test_frames_are_taken_by_their_time_stamps(film, fps, stated):
    path, said = film(VARIABLE, fps, stated), []
    taken = [VARIABLE[index] / 1000 for index, _ in iter_video(path, fps=1, cut=said.append)]
    assert np.allclose(taken, range(10), atol=1e-3)
    assert not said


@pytest.mark.parametrize(
    ("times", "fps", "wanted", "expected"),
    [
        ([i * 1000 // 30 for i in range(30)], 30.0, 30, 30),  # milliseconds, rounded down
        ([i * 1001 / 30 for i in range(90)], 29.97, 15, 45),
        ([5000 + i * 40 for i in range(50)], 25.0, 5, 10),  # an edit list: it begins at 5 s
        ([0] * 50, 25.0, 5, 10),  # no stamps: the frame rate
        ([i * 40 for i in range(50)], 0.0, 5, 10),  # no frame rate: the stamps
        ([i * 1000 for i in range(5)], 1.0, 30, 5),  # never adds any
    ],
)
def test_time_stamps_of_every_kind(film, times, fps, wanted, expected):
    assert len(list(iter_video(film(times, fps), fps=wanted))) == expected


def test_a_video_that_breaks_off_is_said(film, tmp_path):
    times = [i * 40 for i in range(100)]
    photos, notes = gather(film(times, 25.0, 300), lambda size: video_fit(size), Take(stride=20), strict=False)
    assert len(photos) == 5
    assert notes == ["walk.mkv ends after frame 99, at 4.0 of 12.0 s: cut off or damaged from there"]
    options = VideoOptions(fps=1, extract_to=tmp_path / "frames")
    manifest, problems = sources.scan(film(times, 25.0, 300), format="video", options=options)
    assert len(manifest) == 4
    assert "cut off or damaged" in problems[0].reason
    assert video.video_info(tmp_path / "walk.mkv") == VideoInfo(25.0, 300)


def video_fit(size):
    from manyview.images.fit import longest

    return longest(size, long_side=6, multiple=1)


def model(folder, names):
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text("1 PINHOLE 64 48 50 50 32 24\n")
    lines = [f"{i + 1} 1 0 0 0 {-0.1 * i} 0 0 1 {name}\n\n" for i, name in enumerate(names)]
    (folder / "images.txt").write_text("".join(lines))


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (90, 120, 30)).save(path)


def test_an_image_of_two_models_is_the_larger_ones(tmp_path):
    for name in "abcd":
        picture(tmp_path / f"images/{name}.jpg")
    model(tmp_path / "sparse/0", ["a.jpg", "b.jpg"])
    model(tmp_path / "sparse/1", ["b.jpg", "c.jpg", "d.jpg"])
    manifest, _ = sources.scan(tmp_path, format="colmap")
    assert sorted((frame.scene, Path(frame.image).stem) for frame in manifest.frames) == [
        (tmp_path.name, "a"),
        (f"{tmp_path.name}/1", "b"),
        (f"{tmp_path.name}/1", "c"),
        (f"{tmp_path.name}/1", "d"),
    ]
    assert manifest.info["notes"][0].startswith("sparse/0: 1 of 2 images are taken from sparse/1")
    alone, _ = sources.scan(tmp_path, format="colmap", options=ColmapOptions(model="0"))
    assert [Path(frame.image).stem for frame in alone.frames] == ["a", "b"]
    with pytest.raises(sources.UserError, match="--model 7: no such model"):
        sources.scan(tmp_path, format="colmap", options=ColmapOptions(model="7"))


def test_a_text_copy_beside_a_model_is_left_out_and_said(tmp_path):
    for name in "ab":
        picture(tmp_path / f"images/{name}.jpg")
    for folder in ("sparse/0", "sparse_text"):
        model(tmp_path / folder, ["a.jpg", "b.jpg"])
    manifest, _ = sources.scan(tmp_path, format="colmap")
    assert len(manifest) == 2
    assert "2 of 2 images are taken from sparse/0" in manifest.info["notes"][0]


def test_linked_folders_are_read_and_links_in_a_circle_end(tmp_path):
    picture(tmp_path / "data/real/a.jpg")
    picture(tmp_path / "data/.store/b.jpg")
    (tmp_path / "data/linked").symlink_to(tmp_path / "data/.store", target_is_directory=True)
    (tmp_path / "data/real/up").symlink_to(tmp_path / "data", target_is_directory=True)
    picture(tmp_path / "outside/c.jpg")
    (tmp_path / "data/away").symlink_to(tmp_path / "outside", target_is_directory=True)
    manifest, problems = sources.scan(tmp_path / "data", format="folder")
    assert [frame.image for frame in manifest.frames] == ["linked/b.jpg", "real/a.jpg"]
    assert [problem.path for problem in problems] == ["away/c.jpg"]
    assert "link that leaves" in problems[0].reason


def test_a_name_that_is_no_text_is_said(tmp_path):
    picture(tmp_path / "größe.jpg")
    picture(tmp_path / "b.jpg")
    os.rename(os.fsencode(tmp_path / "b.jpg"), os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    manifest, problems = sources.scan(tmp_path, format="folder")
    assert [frame.image for frame in manifest.frames] == ["größe.jpg"]
    assert problems[0].path == r"caf\udce9.jpg"
    assert "not text in UTF-8" in problems[0].reason
    manifest.save(tmp_path / "m.parquet")
