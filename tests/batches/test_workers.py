"""Real batches of every kind: the same bits in any number of processes, mixtures, and bad files told once."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.batches.augment import Augmentation
from manyview.batches.pairs import PairBatches, PairWish
from manyview.batches.pictures import DOMAIN, PictureBatches, PictureWish
from manyview.batches.road import ORDER, Road, parse_source
from manyview.batches.scenes import SceneBatches, SceneWish
from manyview.batches.sequences import Sequences, SequenceWish
from manyview.cache.build import build
from manyview.data.manifest import Frame, Manifest
from manyview.data.pairs import Choice
from manyview.engine.feed import Feed
from manyview.errors import UserError
from manyview.teachers.sensor import Sensor
from manyview.types import Views
from painted_walls import write_walls

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def walls(tmp_path_factory) -> Path:
    """A saved manifest of six scenes of four posed frames with depth."""
    folder = tmp_path_factory.mktemp("walls")
    return Manifest(write_walls(folder, scenes=[f"w{i}" for i in range(6)]), folder).save(folder / "m.parquet")


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """Pictures of unlike sizes with labels; their red says which they are."""
    folder, rng, frames = tmp_path_factory.mktemp("colours"), np.random.default_rng(0), []
    for i in range(9):
        height, width = rng.integers(30, 60, 2).tolist()
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels[..., 0] = 20 * i
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray((pixels[..., 1] % 3).astype(np.uint8)).save(folder / f"{i}-labels.png")
        dataset = "few" if i < 3 else "many"
        frames.append(Frame(dataset, f"{i}", "0", "", f"{i}.png", width, height, labels=f"{i}-labels.png"))
    return Manifest(frames, folder).save(folder / "m.parquet")


def road(kind: str, walls: Path, colours: Path, tmp_path: Path) -> Road:
    if kind == "sequences":
        return Sequences([walls], SequenceWish(size=(16, 16), frames=6, views=(2, 3), single=0.2, seed=1))
    if kind == "pictures":
        wish = PictureWish(size=(24, 24), batch=5, crops=2, target="labels", seed=1)
        return PictureBatches([colours], wish)
    if kind == "pairs":
        choice = Choice(overlap=(0.1, 1.0), motion=0.0)
        return PairBatches([walls], PairWish(sizes=((12, 16), (16, 16)), pairs=2, choice=choice, jitter=0.5))
    build(walls, Sensor(), tmp_path / "cache", views=3, step=1, size=(20, 24))
    return SceneBatches(tmp_path / "cache", (), SceneWish(views=2, batch=2, flip=True, jitter=0.3, shuffle_views=True))


def bits(views: Views) -> dict[str, Any]:
    tensors = {"images": views.images, "intrinsics": views.intrinsics, "cam2world": views.cam2world}
    tensors["depth"] = views.depth
    for name, signal in views.signals.items():
        tensors |= {f"{name}.value": signal.value, f"{name}.weight": signal.weight, f"{name}.valid": signal.valid}
    return {name: None if tensor is None else tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("kind", ["sequences", "pictures", "pairs", "scenes"])
def test_batches_are_equal_bit_for_bit_in_any_number_of_processes(kind, walls, colours, tmp_path):
    alone = road(kind, walls, colours, tmp_path)
    indices = range(4, 12)
    expected = [(alone(index).names, bits(alone(index))) for index in indices]
    assert len({repr(names) for names, _ in expected}) > 4
    for workers in (0, 1, 4):
        batches = road(kind, walls, colours, tmp_path)
        with Feed(batches, indices, device=CPU, workers=workers) as feed:
            for index, (names, values) in zip(indices, expected, strict=True):
                views = feed.next()
                assert views.names == names, (workers, index)
                assert bits(views) == values, (workers, index)


@pytest.mark.parametrize("workers", [0, 4])
def test_a_domain_with_fewer_pictures_than_processes_gives_its_share(workers, colours, tmp_path):
    """One picture, three and nine: every batch holds two of each domain, and every pass has all of its pictures."""
    rows = Manifest.load(colours)
    data = [Manifest(rows.frames[start:end], rows.root) for start, end in ((0, 1), (1, 4), (0, 9))]
    batches = PictureBatches(data, PictureWish(size=(16, 16), batch=6), domains=(0, 1, 2))
    seen: list[list[str]] = [[], [], []]
    with Feed(batches, range(9), device=CPU, workers=workers) as feed:
        for _ in range(9):
            views = feed.next()
            for [name], domain in zip(views.names, views.signals[DOMAIN].value.tolist(), strict=True):
                seen[domain].append(name)
    assert [len(names) for names in seen] == [18, 18, 18]
    for names, count in zip(seen, (1, 3, 9), strict=True):
        assert all(len({*names[start : start + count]}) == count for start in range(0, 18, count))


def test_files_that_cannot_be_read_are_told_once_however_many_processes_meet_them(colours, tmp_path, caplog):
    manifest = Manifest.load(colours)
    for frame in manifest.frames:
        (tmp_path / frame.image).write_bytes(manifest.path(frame.image).read_bytes())
    for name in ("3.png", "7.png"):
        (tmp_path / name).write_bytes(b"nothing")
    batches = PictureBatches([Manifest(manifest.frames, tmp_path)], PictureWish(size=(16, 16), batch=6, memory_mb=0))
    with caplog.at_level(logging.WARNING), Feed(batches, range(24), device=CPU, workers=3) as feed:
        for _ in range(24):
            feed.next()
    assert {Path(name).name for name in batches.unreadable} == {"3.png", "7.png"}
    assert sum("another picture takes its place" in line for line in caplog.messages) == 2


def test_an_end_without_readable_pictures_is_one_line_from_another_process(colours, tmp_path):
    frames = Manifest.load(colours).frames
    for frame in frames:
        (tmp_path / frame.image).write_bytes(b"nothing")
    batches = PictureBatches([Manifest(frames, tmp_path)], PictureWish(size=(16, 16), batch=2))
    with (
        Feed(batches, range(4), device=CPU, workers=2) as feed,
        pytest.raises(UserError, match=r"^no picture of domain 0 can be read, .*manyview data check$"),
    ):
        feed.next()


def drawn(batches: Road, count: int = 40) -> dict[str, int]:
    """Dataset or scene letter -> how many pictures."""
    shares: dict[str, int] = {}
    for index in range(count):
        for row in batches(index).names:
            key = row[0].split("/")[-1].split("#")[0]
            shares[key] = shares.get(key, 0) + 1
    return shares


def test_pictures_are_mixed_by_the_weights_of_data_sets_and_of_manifests(colours, tmp_path):
    wish = PictureWish(size=(16, 16), batch=5)
    alike = drawn(PictureBatches([colours], wish), 36)
    assert set(alike.values()) == {20}
    weighted = drawn(PictureBatches([colours], replace(wish, weights={"few": 1.0, "many": 1.0})), 40)
    few = sum(count for name, count in weighted.items() if int(name.split(".")[0]) < 3)
    assert few == pytest.approx(100, abs=12)
    other = colours.with_name("other.parquet")
    Manifest([f for f in Manifest.load(colours).frames if f.dataset == "few"], colours.parent).save(other)
    both = drawn(PictureBatches([f"{colours}:1", f"{other}:3"], wish), 40)
    few = sum(count for name, count in both.items() if int(name.split(".")[0]) < 3)
    assert few == pytest.approx(150 + 50 / 3, abs=15)
    with pytest.raises(UserError, match="given twice"):
        PictureBatches([f"{colours}:1"], replace(wish, weights={"few": 1.0}))
    with pytest.raises(UserError, match="'many' has no weight"):
        PictureBatches([colours], replace(wish, weights={"few": 1.0}))
    with pytest.raises(UserError, match="and a weight"):
        PictureBatches([f"{colours}:0"], wish)


def test_the_other_kinds_are_mixed_by_the_weights_of_manifests_too(walls, tmp_path):
    folder = walls.parent
    frames = Manifest.load(walls).frames
    halves = [
        Manifest([f for f in frames if (f.scene < "w3") == first], folder).save(tmp_path / f"{first}.parquet")
        for first in (True, False)
    ]
    data = [f"{halves[0]}:1", f"{halves[1]}:9"]
    build(walls, Sensor(), tmp_path / "cache", views=2, step=1, size=(20, 24))
    choice = Choice(overlap=(0.0, 1.0), motion=0.0)
    kinds = (
        Sequences(data, SequenceWish(size=(8, 8), frames=4, views=(2, 2), single=0)),
        PairBatches(data, PairWish(sizes=((12, 16),), pairs=2, choice=choice)),
        SceneBatches(tmp_path / "cache", data, SceneWish(batch=2)),
    )
    for batches in kinds:
        scenes = [row[0].split("-")[0] for index in range(100) for row in batches(index).names]
        assert sum(scene >= "w3" for scene in scenes) / len(scenes) == pytest.approx(0.9, abs=0.07), batches
        assert len(set(scenes)) == 6


def test_a_manifest_that_is_not_there_is_never_ignored(walls, tmp_path):
    build(walls, Sensor(), tmp_path / "cache", views=2, step=1, size=(20, 24))
    missing = tmp_path / "missing.parquet"
    for make in (
        lambda data: Sequences(data, SequenceWish(size=(8, 8))),
        lambda data: PictureBatches(data, PictureWish(size=(8, 8), batch=2)),
        lambda data: PairBatches(data, PairWish(sizes=((12, 16),), pairs=2, choice=Choice())),
        lambda data: SceneBatches(tmp_path / "cache", data),
    ):
        for name in (missing, f"{missing}:2"):
            with pytest.raises(UserError, match=r"missing\.parquet does not exist"):
                make([walls, name])


def test_a_weight_behind_a_path(tmp_path):
    assert parse_source("a/b.parquet") == (Path("a/b.parquet"), None)
    assert parse_source("a/b.parquet:0.5") == (Path("a/b.parquet"), 0.5)
    assert parse_source(Path("a/b.parquet:2")) == (Path("a/b.parquet"), 2.0)
    assert parse_source("C:/b.parquet") == (Path("C:/b.parquet"), None)
    (tmp_path / "odd:2").touch()
    assert parse_source(tmp_path / "odd:2") == (tmp_path / "odd:2", None)
    for wrong in ("-1", "nan", "inf"):
        with pytest.raises(UserError, match="number from 0 on"):
            parse_source(f"m.parquet:{wrong}")


def test_large_pictures_are_decoded_no_larger_than_their_crops_need(tmp_path):
    Image.fromarray(np.zeros((1200, 1600, 3), np.uint8)).save(tmp_path / "a.jpg")
    manifest = Manifest([Frame("d", "s", "0", "", "a.jpg", 1600, 1200)], tmp_path)
    batches = PictureBatches([manifest], PictureWish(size=(56, 56), batch=1, augmentation=Augmentation()))
    (pictures,) = batches.load(0).pictures
    height, width = pictures.sources[0]
    smallest = (0.4 * 3 / 4) ** 0.5
    assert height * smallest > 55
    assert height < 110
    assert width / height == pytest.approx(4 / 3, abs=0.02)
    assert batches.describe()["order"] == ORDER
    assert batches(0).signals[DOMAIN].value.tolist() == [0]
