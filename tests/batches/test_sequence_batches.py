"""Sequences and their batches: what is drawn, how often, in what shape, and what bad data do."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.batches.sequences import Sequences, SequenceWish
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError

PLAIN = SequenceWish(size=(8, 8), frames=12, views=(2, 4), single=0.0, crop="resize", flip=False)


def corpus(root: Path, scenes: dict[str, int], *, dataset: str = "rooms") -> Manifest:
    """Scenes of so many frames. A frame's colour says which it is: red its scene, green its place in it."""
    frames = []
    for number, (scene, count) in enumerate(scenes.items()):
        (root / dataset / scene).mkdir(parents=True)
        for place in range(count):
            name = f"{dataset}/{scene}/{place}.png"
            Image.new("RGB", (20, 16), (number * 20, place, 7)).save(root / name)
            split = "train" if place % 2 == 0 else "test"
            frames.append(Frame(dataset, scene, str(place), split, name, 20, 16))
    return Manifest(frames, root)


def colours(images: torch.Tensor) -> torch.Tensor:
    """(B, V, 3): the colour of every view, which must be flat."""
    assert (images.amax((-1, -2)) == images.amin((-1, -2))).all()
    return (images[..., 0, 0] * 255).round().int()


@pytest.fixture
def rooms(tmp_path) -> Manifest:
    return corpus(tmp_path, {"a": 5, "b": 4, "c": 9, "d": 1})


def test_a_batch_holds_as_many_scenes_as_fit_and_no_frame_twice(rooms):
    views, seen = Sequences([rooms], replace(PLAIN, seed=1)), Counter()
    for index in range(60):
        batch = views(index)
        scenes, count = batch.images.shape[:2]
        assert scenes == 12 // count
        assert batch.images.shape[2:] == (3, 8, 8)
        seen[count] += 1
        shown = colours(batch.images)
        for scene, names in zip(shown, batch.names, strict=True):
            assert len({tuple(view.tolist()) for view in scene}) == count  # without replacement
            assert len({int(view[0]) for view in scene}) == 1  # one scene
            assert [int(view[1]) for view in scene] == [int(Path(name).stem) for name in names]
    assert set(seen) == {2, 3, 4}
    assert min(seen.values()) > 8  # every number about as often


def test_a_batch_is_a_function_of_seed_and_index_whatever_came_before(rooms):
    fresh = Sequences([rooms], replace(PLAIN, crop="random", flip=True, seed=3))
    used = Sequences([rooms], replace(PLAIN, crop="random", flip=True, seed=3, memory_mb=0))
    for index in (0, 1, 2):
        used(index)
    assert torch.equal(fresh(7).images, used(7).images)
    assert fresh(7).names == used(7).names
    other = Sequences([rooms], replace(PLAIN, crop="random", flip=True, seed=4))
    assert other(7).names != fresh(7).names


def test_short_scenes_are_drawn_only_for_as_many_views_as_they_have(rooms):
    views, drawn = Sequences([rooms], PLAIN), Counter()
    for index in range(120):
        batch = views(index)
        drawn.update((batch.views, name.split("/")[1]) for names in batch.names for name in names[:1])
    assert not any(scene == "d" for _, scene in drawn)
    assert {scene for count, scene in drawn if count == 4} == {"a", "b", "c"}
    assert views.describe()["shorter_than_asked"] == 1


def test_datasets_are_drawn_by_weight_and_sequences_alike(tmp_path):
    first = corpus(tmp_path, {"a": 4, "b": 4}, dataset="x")
    second = corpus(tmp_path, {"c": 4}, dataset="y")
    views = Sequences([first, second], replace(PLAIN, weights={"x": 1.0, "y": 3.0, "z": 9.0}))
    drawn = Counter(name.split("/")[1] for index in range(250) for name, *_ in views(index).names)
    total = sum(drawn.values())
    assert drawn["c"] / total == pytest.approx(0.75, abs=0.05)
    assert drawn["a"] / total == pytest.approx(0.125, abs=0.04)
    assert views.describe()["datasets"] == {"x": 0.25, "y": 0.75}
    with pytest.raises(UserError, match="'y' has no weight"):
        Sequences([first, second], replace(PLAIN, weights={"x": 1.0}))


def test_a_share_of_the_batches_is_single_images_from_where_there_are_no_sequences(tmp_path):
    scenes, alone = (corpus(tmp_path, {"a": 4}), corpus(tmp_path, {f"n{i}": 1 for i in range(6)}, dataset="imagenet"))
    views = Sequences([scenes, alone], replace(PLAIN, single=0.3))
    singles = 0
    for index in range(120):
        batch = views(index)
        single = batch.views == 1
        singles += single
        assert batch.batch == 12 if single else batch.batch * batch.views <= 12
        assert {names[0].split("/")[0] for names in batch.names} == {"imagenet" if single else "rooms"}
    assert singles / 120 == pytest.approx(0.3, abs=0.12)


def test_a_corpus_without_sequences_falls_back_to_single_images_and_says_so(tmp_path, caplog):
    lonely = corpus(tmp_path, {"a": 1, "b": 1, "c": 1})
    with caplog.at_level(logging.WARNING):
        views = Sequences([lonely], PLAIN)
    assert "single images" in caplog.text
    assert all(views(index).images.shape[:2] == (12, 1) for index in range(5))


def test_an_unreadable_frame_is_replaced_by_another_of_its_scene_and_counted(rooms, caplog):
    for place in (0, 2):
        rooms.path(f"rooms/a/{place}.png").write_bytes(b"no picture")
    views = Sequences([rooms.select(scenes=["a"])], replace(PLAIN, views=(3, 3), seed=2))
    with caplog.at_level(logging.WARNING):
        places = {int(view[1]) for index in range(30) for scene in colours(views(index).images) for view in scene}
    assert places == {1, 3, 4}
    assert {Path(name).name for name in views.unreadable} == {"0.png", "2.png"}
    assert caplog.text.count("takes its place") == 2  # once per file


def test_a_corpus_of_unreadable_frames_ends_with_a_reason(rooms):
    for frame in rooms.frames:
        rooms.path(frame.image).write_bytes(b"no picture")
    with pytest.raises(UserError, match="manyview data check"):
        Sequences([rooms], PLAIN)(0)


def test_long_scenes_are_cut_and_never_drawn_across_a_cut(tmp_path):
    views = Sequences([corpus(tmp_path, {"a": 9})], replace(PLAIN, chunk=4))
    assert views.describe()["sequences"] == 2
    drawn = [{int(Path(name).stem) for name in names} for index in range(30) for names in views(index).names]
    assert all(places <= set(range(4)) or places <= set(range(4, 9)) for places in drawn)
    assert len(set().union(*drawn)) == 9


def test_groups_of_a_photo_collection_are_its_sequences(rooms):
    collection = Manifest(rooms.frames, rooms.root, {"groups": [[0, 5], [5, 1]]})
    views = Sequences([collection], PLAIN)
    names = {frozenset(names) for index in range(20) for names in views(index).names}
    assert names == {frozenset({"rooms/a/0.png", "rooms/b/0.png"}), frozenset({"rooms/b/0.png", "rooms/a/1.png"})}


def test_only_frames_of_the_split_are_drawn(rooms):
    views = Sequences([rooms], replace(PLAIN, split="train"))
    assert all(int(Path(n).stem) % 2 == 0 for i in range(10) for names in views(i).names for n in names)
    with pytest.raises(UserError, match="no frame is left"):
        Sequences([rooms], replace(PLAIN, split="val"))


def test_random_crops_vary_and_keep_a_fifth_or_more(rooms):
    views = Sequences([rooms], replace(PLAIN, crop="random"))
    boxes = [change.box for index in range(20) for change in views.load(index).changes]
    shares = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    assert 0.2 <= min(shares) < 0.25
    assert np.std(shares) > 0.1
    fixed = Sequences([rooms], PLAIN)
    assert {change.box for change in fixed.load(0).changes} == {(0.0, 0.0, 1.0, 1.0)}


def test_frames_are_mirrored_one_by_one(tmp_path):
    root = tmp_path
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, :8] = 255
    for place in range(4):
        Image.fromarray(halves).save(root / f"{place}.png")
    frames = [Frame("x", "a", str(i), "train", f"{i}.png", 16, 16) for i in range(4)]
    views = Sequences([Manifest(frames, root)], replace(PLAIN, flip=True, views=(4, 4)))
    mirrored = torch.stack([views(i).images[:, :, 0, 0, 0] < 0.5 for i in range(30)]).float()  # (30, B, V)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.1)
    assert mirrored.std(-1).max() > 0  # not scene by scene


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": (0, 3)}, "views"),
        ({"views": (4, 2)}, "views"),
        ({"frames": 0}, "positive"),
        ({"single": 1.5}, "share"),
    ],
)
def test_options_that_fit_nothing_are_users_mistakes(rooms, change, message):
    with pytest.raises(UserError, match=message):
        Sequences([rooms], replace(PLAIN, **change))
