"""Which pairs are drawn, at which sizes, that a batch is a function of its index, and what bad data say."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from manyview.batches.pairs import METRIC, PairBatches, PairWish
from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader, measured_pairs
from manyview.errors import UserError
from manyview.geometry.matching import PosedDepth, warp
from painted_walls import AWAY, FOCAL, HEIGHT, WIDTH, write_walls

SIZE = (HEIGHT, WIDTH)
ANY = Choice(overlap=(0.0, 1.0), motion=0.0)


@pytest.fixture
def walls(tmp_path) -> Manifest:
    return Manifest(write_walls(tmp_path, scenes=[f"w{i}" for i in range(5)]), tmp_path)


def wish(**changes) -> PairWish:
    return PairWish(**{"sizes": (SIZE,), "pairs": 4, "choice": ANY, **changes})


def test_a_batch_is_a_function_of_its_index_with_cameras_that_fit_the_pixels(walls):
    pairs = PairBatches([walls], wish(sizes=((12, 16),), jitter=0.3))
    views = pairs(3)
    assert views.images.shape == (4, 2, 3, 12, 16)
    again = PairBatches([walls], wish(sizes=((12, 16),), jitter=0.3))(3)
    for name in ("images", "depth", "intrinsics", "cam2world"):
        assert torch.equal(getattr(views, name), getattr(again, name)), name
    assert views.names == again.names
    assert views.names != pairs(4).names
    assert all(a != b and a.split("-")[0] == b.split("-")[0] for a, b in views.names)
    assert views.intrinsics[0, 0].diagonal().tolist() == pytest.approx([FOCAL / 2, FOCAL / 2, 1])
    torch.testing.assert_close(views.depth, torch.full((4, 2, 12, 16), AWAY))
    plain = PairBatches([walls], wish(sizes=((12, 16),)))(3)
    assert plain.names == views.names
    assert not torch.equal(plain.images, views.images)


def test_pairs_overlap_as_asked(walls):
    for least, most in ((0.0, 0.3), (0.4, 0.6), (0.7, 1.0)):
        pairs = PairBatches([walls], wish(choice=Choice(overlap=(least, most), motion=0.05)))
        for index in range(6):
            views = pairs(index)
            shots = [(views.depth[:, v], views.intrinsics[:, v], views.cam2world[:, v]) for v in range(2)]
            shared = warp(PosedDepth(*shots[0]), PosedDepth(*shots[1]))[1].float().mean((1, 2))
            assert bool(((shared > least - 0.1) & (shared < most + 0.1)).all())


def test_only_so_many_pairs_of_a_scene_are_measured(walls):
    pairs = PairBatches([walls], wish(candidates=3))
    names = {tuple(name) for index in range(60) for name in pairs(index).names}
    assert len(names) == 5 * 3
    pairs = PairBatches([walls], wish())
    every = {tuple(name) for index in range(150) for name in pairs(index).names}
    reader, rng = DepthReader(walls, SIZE), np.random.default_rng(0)
    measured = [pair for scene, rows in walls.scenes().items() for pair in measured_pairs(reader, scene, rows, 99, rng)]
    assert len(measured) == 5 * 4 * 3
    assert every == {(walls[p.a].image, walls[p.b].image) for p in measured if p.overlap > 0}


def test_every_batch_has_one_size_and_portrait_frames_a_turned_one(walls, tmp_path):
    (tmp_path / "tall").mkdir()
    tall = Manifest(write_walls(tmp_path / "tall", scenes=["t0", "t1"], turned=True), tmp_path / "tall")
    pairs = PairBatches([walls, tall], wish(sizes=((8, 16), (16, 16))))
    seen = set()
    for index in range(40):
        views = pairs(index)
        portrait = {name.startswith("t") for pair in views.names for name in pair}
        assert len(portrait) == 1
        seen.add((portrait.pop(), views.size))
    assert seen == {(False, (8, 16)), (False, (16, 16)), (True, (16, 8)), (True, (16, 16))}


def test_a_rare_turn_fills_its_batches_too(walls, tmp_path):
    (tmp_path / "tall").mkdir()
    frames = [replace(frame, dataset="tall") for frame in write_walls(tmp_path / "tall", scenes=["t0"], turned=True)]
    tall = Manifest(frames, tmp_path / "tall")
    pairs = PairBatches([walls, tall], wish(weights={"walls": 0.9999, "tall": 0.0001}, jitter=0.0))
    (tall_scene,) = (scene for scene in pairs._every() if scene.portrait)
    for seed in range(5):
        scene, _ = pairs._draw(np.random.default_rng(seed), True)
        assert scene is tall_scene


def test_datasets_are_drawn_by_weight_and_say_whether_they_are_in_metres(walls, tmp_path):
    (tmp_path / "b").mkdir()
    rows = [replace(frame, dataset="other") for frame in write_walls(tmp_path / "b", scenes=["o0"])]
    other = Manifest(rows, tmp_path / "b")
    pairs = PairBatches([walls, other], wish(weights={"walls": 1.0, "other": 3.0}, metric=("other",)))
    flags = []
    for index in range(60):
        views = pairs(index)
        metric = views.signals[METRIC].value
        assert metric.tolist() == [pair[0].startswith("o") for pair in views.names]
        flags += metric.tolist()
    assert 0.65 < sum(flags) / len(flags) < 0.85
    alone = PairBatches([walls, other], wish(weights={"walls": 1.0, "other": 0.0}))
    assert set(alone.describe()["datasets"]) == {"walls"}
    with pytest.raises(UserError, match="'other' has no weight"):
        PairBatches([walls, other], wish(weights={"walls": 1.0}))


def test_what_cannot_be_read_makes_way_and_is_counted(walls, tmp_path, caplog):
    (tmp_path / "w0-0-depth.png").write_bytes(b"nothing")
    (tmp_path / "w1-2.png").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        pairs = PairBatches([walls], wish())
        names = {name for index in range(40) for pair in pairs(index).names for name in pair}
    assert len(names) == 5 * 4 - 2
    assert {Path(name).name for name in pairs.unreadable} == {"w0-0-depth.png", "w1-2.png"}
    assert sum("another pair takes its place" in line for line in caplog.messages) == 2
    for path in tmp_path.glob("*[0-9].png"):
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="manyview data check"):
        PairBatches([walls], wish())(0)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({"depth": None, "depth_scale": None}, r"no frame has depth \(20 frames\)"),
        ({"cam2world": None}, r"no frame has pose"),
        (
            {"fx": None, "fy": None, "cx": None, "cy": None, "cam2world": None},
            r"no frame has pose \(cam2world\) or intr",
        ),
    ],
)
def test_a_manifest_without_measurements_is_named_with_what_it_lacks(walls, tmp_path, lost, said):
    bare = Manifest([replace(frame, **lost) for frame in walls.frames], tmp_path).save(tmp_path / "bare.parquet")
    with pytest.raises(UserError, match=rf"bare\.parquet: pairs need.*{said}") as refused:
        PairBatches([walls, bare], wish())
    assert "\n" not in str(refused.value)


def test_impossible_wishes_are_the_users_mistake(walls):
    with pytest.raises(UserError, match=r"none of 5 scenes.*overlap of 0\.2 to 0\.9 and a motion of at least 3; widen"):
        PairBatches([walls], wish(choice=Choice(overlap=(0.2, 0.9), motion=3.0)))
    with pytest.raises(UserError, match="no two frames are left"):
        PairBatches([walls], wish(split="nowhere"))
    once = Manifest([frame for frame in walls.frames if frame.frame == "0"], walls.root)
    with pytest.raises(UserError, match="no scene has two frames with all three"):
        PairBatches([once], wish())


def test_overlap_and_motion_of_shifted_walls_are_plain_geometry(walls):
    reader = DepthReader(walls, SIZE)
    for pair in measured_pairs(reader, "w0", list(range(4)), 12, np.random.default_rng(0)):
        shift = walls[pair.b].pose[:2, 3] - walls[pair.a].pose[:2, 3]
        pixels = np.abs(shift) * FOCAL / AWAY
        left = np.clip(1 - pixels / [WIDTH, HEIGHT], 0, 1).prod()
        assert pair.overlap == pytest.approx(left, abs=0.12)
        if pair.overlap > 0:
            assert pair.motion == pytest.approx(np.hypot(*pixels) / WIDTH, abs=0.01)
