"""From a recording to a student of the place: frames chosen, stations gone on with, failures said in time."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.images.choosing import choose_frames
from manyview.pipelines import distil as module
from manyview.pipelines.distil import distil
from manyview.pipelines.options import DistilOptions
from painted_walls import write_walls

SMALL = DistilOptions(
    teacher="sensor", student="manyview-tiny", window=4, views=2, steps=6, pixels=28 * 42, loss="robust"
)


def moving(shifts: list[int], blurred: set[int] = frozenset()) -> list[np.ndarray]:
    texture = cv2.resize(np.random.default_rng(0).integers(0, 255, (60, 200, 3), np.uint8), (1600, 480))
    frames = []
    for number, shift in enumerate(np.cumsum(shifts)):
        frame = texture[:, shift : shift + 640]
        frames.append(cv2.GaussianBlur(frame, (0, 0), 6) if number in blurred else frame)
    return frames


def test_frames_are_spread_over_the_motion_not_over_time():
    rests, moves = [0] * 30, [30] * 30
    chosen = choose_frames(moving([*rests, *moves]), 10)
    assert len(chosen) == 10
    assert sum(index < 29 for index in chosen) <= 1, "a camera at rest shows one thing"
    assert choose_frames(moving([0] * 20), 4) == sorted(choose_frames(moving([0] * 20), 4))
    assert len(choose_frames(moving([0] * 20), 4)) == 4, "one that never moves is spread over time"
    assert choose_frames(moving([9] * 5), 10) == [0, 1, 2, 3, 4]


def test_sharp_frames_are_taken():
    blurred = {index for index in range(40) if index % 4 != 2}
    chosen = choose_frames(moving([12] * 40, blurred), 8)
    assert set(chosen) & blurred == set()


@pytest.fixture
def manifest(tmp_path):
    root = tmp_path / "walls"
    root.mkdir()
    made = Manifest(write_walls(root, scenes=["wall"], frames=16), root)
    made.save(tmp_path / "walls.parquet")
    return tmp_path / "walls.parquet"


def test_a_place_is_learned_judged_and_gone_on_with(manifest, tmp_path, monkeypatch):
    out = tmp_path / "place"
    result = distil(manifest, out, config=SMALL, device="cpu")
    assert result["frames"] == 13
    assert result["held_out"] == 3
    row = result["abs_rel"]["measured"]
    assert 0 < row["after"] < row["before"], "six steps on a plane two metres away"
    assert json.loads((out / "result.json").read_text())["abs_rel"]["measured"] == row
    assert "<img" in (out / "report.html").read_text()

    def forbidden(*args, **kwargs):
        raise AssertionError("done before, and done again")

    for name in ("train", "resume", "reconstruct"):
        monkeypatch.setattr(module, name, forbidden)
    again = distil(manifest, out, config=SMALL, device="cpu")
    assert again["abs_rel"] == result["abs_rel"]
    with pytest.raises(UserError, match="steps"):
        distil(manifest, out, config=DistilOptions(teacher="sensor", steps=7), device="cpu")


def test_an_interrupted_training_goes_on(manifest, tmp_path, monkeypatch):
    out, real = tmp_path / "place", module.train

    def cut(*args, **kwargs):
        done = real(*args, **kwargs)
        raise KeyboardInterrupt(done.out)

    monkeypatch.setattr(module, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        distil(manifest, out, config=SMALL, device="cpu")
    monkeypatch.setattr(module, "train", lambda *args, **kwargs: pytest.fail("started anew"))
    assert distil(manifest, out, config=SMALL, device="cpu")["held_out"] == 3


def white_wall(folder):
    """A video of a bare wall."""
    writer = cv2.VideoWriter(str(folder / "wall.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 96))
    for number in range(12):
        writer.write(np.full((96, 128, 3), 225 + number % 3, np.uint8))
    writer.release()
    return folder / "wall.mp4"


def unrelated_photos(folder):
    """Nine photos, each of another textured thing."""
    (folder / "photos").mkdir()
    for number in range(9):
        texture = np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"photos/{number}.png"), cv2.resize(texture, (128, 96)))
    return folder / "photos"


@pytest.mark.parametrize(("make", "words"), [(white_wall, "0 of 8"), (unrelated_photos, "0 of 9")])
def test_photos_that_nothing_ties_together_end_before_any_training(tmp_path, make, words):
    options = DistilOptions(student="manyview-tiny", frames=8, pixels=28 * 42)
    with pytest.raises(UserError, match=f"only {words} photos could be tied together, 8 are needed") as error:
        distil(make(tmp_path), tmp_path / "place", config=options, device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "place/cache").exists()
    assert (tmp_path / "place/scene/report.html").exists()


def test_the_last_frames_of_every_scene_judge(tmp_path):
    frames = write_walls(tmp_path, scenes=["a", "b", "c"], frames=5)
    seen, held = module._split(Manifest(frames, tmp_path), 0.2)
    assert [(frame.scene, frame.frame) for frame in held.frames] == [("a", "4"), ("b", "4"), ("c", "4")]
    assert len(seen) == 12
    with pytest.raises(UserError, match="2 frames to learn from and 1 to judge on"):
        module._split(Manifest(frames[:3], tmp_path), 0.2)


@pytest.mark.parametrize(("options", "words"), [({"holdout": 1.0}, "holdout is 1"), ({"views": 9}, "views 9")])
def test_numbers_out_of_range(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        distil(tmp_path, tmp_path / "place", config=DistilOptions(**options))
    assert not (tmp_path / "place").exists()
