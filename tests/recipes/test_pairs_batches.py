"""What the options of `pairs` say of its data is what its batches hold: names, cameras and colours tell it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manyview.config import RunConfig
from manyview.data.manifest import Manifest
from manyview.recipes.base import preset
from manyview.recipes.pairs import PairsRecipe
from manyview.types import Views
from painted_walls import AWAY, FOCAL, HEIGHT, WIDTH, write_walls

SIZE = (HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Walls of two data sets, eight frames a scene; those of scenes named `test…` are of the split test."""
    root, rows = tmp_path_factory.mktemp("walls"), []
    for seed, (dataset, split) in enumerate((("near", "train"), ("far", "train"), ("near", "test"))):
        scenes = [f"{dataset}{split}{i}" for i in range(2)]
        walls = write_walls(root, scenes=scenes, frames=8, seed=seed)
        rows += [replace(frame, dataset=dataset, split=split) for frame in walls]
    return Manifest(rows, root).save(root / "m.parquet")


def batches(data: Path, *, count: int = 30, **settings: Any) -> list[Views]:
    """The first batches of four pairs: any that overlap at all, at the size of the pictures, colours untouched."""
    plain = {"sizes": (SIZE,), "overlap": (0.01, 1.0), "motion": 0.0, "jitter": 0.0}
    config = replace(preset(PairsRecipe, "debug")[1].method, **{**plain, **settings})
    views = PairsRecipe.batches(config, RunConfig(batch=4), cache=None, data=[data])
    return [views(step) for step in range(count)]


def names(drawn: list[Views]) -> list[list[str]]:
    return [pair for views in drawn for pair in views.names]


def shifts(drawn: list[Views]) -> torch.Tensor:
    """(pairs, 2): by how many pixels the second picture is moved along the wall."""
    places = torch.cat([views.cam2world[..., :2, 3] for views in drawn])
    return (places[:, 1] - places[:, 0]).abs() * FOCAL / AWAY


def shared(drawn: list[Views]) -> torch.Tensor:
    """(pairs,): share of the first picture's wall that is in the second."""
    return (1 - shifts(drawn) / torch.tensor([WIDTH, HEIGHT])).clamp(0, 1).prod(-1)


def test_pairs_overlap_and_move_as_much_as_asked(data):
    for least, most in ((0.05, 0.4), (0.6, 0.95)):
        overlap = shared(batches(data, overlap=(least, most)))
        assert least - 0.12 < overlap.min()
        assert overlap.max() < most + 0.12
    moved = [shifts(batches(data, motion=motion)).norm(dim=-1) / WIDTH for motion in (0.0, 0.4)]
    assert moved[0].min() < 0.3
    assert moved[1].min() > 0.38


def test_only_so_many_pairs_of_a_scene_are_measured(data):
    few, more = (len({tuple(pair) for pair in names(batches(data, candidates=most))}) for most in (2, 50))
    assert few <= 6 * 2  # of six scenes
    assert more > 3 * few


def test_data_sets_are_drawn_by_weight_and_said_to_be_in_metres(data):
    def share(weights: dict[str, float]) -> float:
        return float(np.mean([pair[0].startswith("far") for pair in names(batches(data, weights=weights))]))

    assert share({"near": 1.0, "far": 9.0}) == pytest.approx(0.9, abs=0.1)
    assert share({"near": 1.0, "far": 0.0}) == 0
    for views in batches(data, count=8, metric=("far",)):
        assert views.signals["metric"].value.tolist() == [pair[0].startswith("far") for pair in views.names]


def test_frames_of_a_split_and_of_a_chunk_stay_together(data):
    assert {pair[0].startswith("neartest") for pair in names(batches(data, split="test"))} == {True}
    assert {pair[0].startswith("neartest") for pair in names(batches(data))} == {True, False}
    frames = [[int(Path(name).stem.split("-")[1]) for name in pair] for pair in names(batches(data, chunk=4))]
    assert all(a // 4 == b // 4 for a, b in frames)
    assert {a // 4 for a, _ in frames} == {0, 1}


def test_colours_change_picture_by_picture_by_the_jitter(data):
    still, changed = batches(data, count=6), batches(data, count=6, jitter=0.5)
    assert names(still) == names(changed)
    blue = torch.cat([views.images[:, :, 2].mean((-1, -2)) for views in still])
    assert (255 * blue - 100).abs().max() < 1
    blue = torch.cat([views.images[:, :, 2].mean((-1, -2)) for views in changed])
    assert blue.std() > 0.05
    assert (blue[:, 0] - blue[:, 1]).abs().max() > 0.05


@pytest.mark.parametrize("size", [(12, 16), (16, 24)])
def test_pictures_have_the_size_that_is_asked(data, size):
    (views,) = batches(data, count=1, sizes=(size,))
    assert views.images.shape == (4, 2, 3, *size)
