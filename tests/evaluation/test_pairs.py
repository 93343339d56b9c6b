"""Which pairs are chosen, and that splits share no scene."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matching_world import HEIGHT, WIDTH, write_scenes

from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader
from manyview.errors import UserError
from manyview.evaluation.pairs import choose_pairs, share_out, split_scenes
from manyview.geometry.matching import warp

SIZE = (HEIGHT, WIDTH)
ANY = Choice(overlap=(0.0, 1.0), motion=0.0)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Manifest:
    return write_scenes(tmp_path_factory.mktemp("rooms"), scenes=range(4))


def pairs_of(data: Manifest, count: int, choice: Choice, **scenes):
    return choose_pairs(DepthReader(data, SIZE), count, choice, **scenes)


def test_pairs_keep_the_bounds_and_stay_in_their_scene(rooms):
    every = pairs_of(rooms, 1000, ANY)
    assert len(every) == 4 * 4 * 3
    choice = Choice(overlap=(0.5, 0.8), motion=0.12)
    some = pairs_of(rooms, 1000, choice)
    assert some == [p for p in every if 0.5 <= p.overlap <= 0.8 and p.motion >= 0.12]
    assert 0 < len(some) < len(every)
    for pair in some:
        assert rooms[pair.a].scene == rooms[pair.b].scene == pair.scene


def test_overlap_and_motion_are_those_of_the_true_warp(rooms):
    pair = pairs_of(rooms, 1000, ANY)[5]
    a, b = (DepthReader(rooms, SIZE)[index] for index in (pair.a, pair.b))
    uv, valid = warp(a, b)
    start = warp(a, a)[0]
    assert pair.overlap == pytest.approx(float(valid.double().mean()), abs=0.06)
    motion = (uv - start).norm(dim=-1)[valid].median() / WIDTH
    assert pair.motion == pytest.approx(float(motion), abs=0.03)


def test_the_same_seed_gives_the_same_pairs_spread_over_scenes(rooms):
    chosen = pairs_of(rooms, 8, ANY)
    assert chosen == pairs_of(rooms, 8, ANY)
    assert chosen != pairs_of(rooms, 8, replace(ANY, seed=1))
    assert sorted(pair.scene for pair in chosen) == [f"s{i}" for i in range(4) for _ in range(2)]
    assert {pair.scene for pair in pairs_of(rooms, 8, ANY, scenes=["s2"])} == {"s2"}


def test_frames_without_depth_pose_or_a_readable_map_take_no_part(rooms, tmp_path):
    data = write_scenes(tmp_path, scenes=range(1))
    frames = list(data.frames)
    frames[0] = replace(frames[0], depth=None, depth_scale=None)
    frames[1] = replace(frames[1], cam2world=None)
    (tmp_path / frames[2].depth).write_bytes(b"nothing")
    with pytest.raises(UserError, match="no pair of 4 frames"):
        pairs_of(Manifest(frames, tmp_path), 5, ANY)
    frames[2] = data.frames[2]
    left = Manifest([data.frames[0], *frames[1:]], tmp_path)
    write_scenes(tmp_path, scenes=range(1))
    assert {index for p in pairs_of(left, 50, ANY) for index in (p.a, p.b)} == {0, 2, 3}


def test_impossible_wishes_are_the_users_mistake(rooms):
    with pytest.raises(UserError, match="lower motion"):
        pairs_of(rooms, 5, Choice(motion=3.0))


def test_scenes_are_split_by_the_manifest_or_at_random(rooms, tmp_path):
    splits = split_scenes(rooms, seed=0, shares=(0.5, 0.25, 0.25))
    assert {name: len(found) for name, found in splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert sorted(scene for found in splits.values() for scene in found) == ["s0", "s1", "s2", "s3"]
    assert splits == split_scenes(rooms, seed=0, shares=(0.5, 0.25, 0.25))
    own = {"s0": "val", "s1": "test", "s2": "train", "s3": "train"}
    given = Manifest([replace(f, split=own[f.scene]) for f in rooms.frames], rooms.root)
    assert split_scenes(given, seed=5, shares=(0.5, 0.25, 0.25)) == {
        "train": ["s2", "s3"],
        "val": ["s0"],
        "test": ["s1"],
    }
    assert share_out(["a", "b", "c", "d"], {"x": 0.5, "y": 0.5}, seed=None) == {"x": ["a", "b"], "y": ["c", "d"]}
    assert share_out({"a": 1, "b": 9, "c": 1}, {"x": 0.5, "y": 0.5}, None) == {"x": ["a", "b"], "y": ["c"]}
    assert share_out(["a", "b"], {"x": 0.99, "y": 0.01}, None) == {"x": ["a"], "y": ["b"]}  # one is left for all
    two = Manifest([f for f in rooms.frames if f.scene in ("s0", "s1")], rooms.root)
    with pytest.raises(UserError, match="--train"):
        split_scenes(two, seed=0, shares=(0.5, 0.25, 0.25))


def test_a_reader_remembers_no_more_than_it_may(rooms, monkeypatch):
    import manyview.data.pairs as module

    asked = []
    original = module.load_depth
    monkeypatch.setattr(module, "load_depth", lambda *a: asked.append(a[1].image) or original(*a))
    reader = DepthReader(rooms, SIZE, most=2 * 4 * HEIGHT * WIDTH)
    for _ in range(2):
        depths = [reader[index].depth for index in range(3)]
    assert asked == [rooms[i].image for i in (0, 1, 2, 2)]
    assert torch.equal(depths[1], DepthReader(rooms, SIZE)[1].depth)


def test_depth_and_camera_of_a_frame_follow_the_size(rooms):
    half = DepthReader(rooms, (HEIGHT // 2, WIDTH // 2))[0]
    whole = DepthReader(rooms, SIZE)[0]
    assert half.depth.shape == (HEIGHT // 2, WIDTH // 2)
    assert torch.allclose(half.intrinsics[:2], whole.intrinsics[:2] / 2)
