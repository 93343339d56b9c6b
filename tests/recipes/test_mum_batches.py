"""What MuM's options say of its data is what its batches hold: read off the colours of the pictures alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.recipes.base import preset
from manyview.recipes.mum import MumRecipe

# Every picture of these data sets has one colour: red its data set, green its scene, blue its place in the scene.
DATASETS = ("rooms", "streets")
SCENES, FRAMES = 3, 12
SIZE = (32, 64)


def save(root: Path, pictures: list[tuple[str, str, int, np.ndarray]]) -> Path:
    """A manifest of (dataset, scene, place, pixels); even places are for training, odd ones for testing."""
    frames = []
    for dataset, scene, place, pixels in pictures:
        name = f"{dataset}-{scene}-{place}.png"
        Image.fromarray(pixels).save(root / name)
        split = "train" if place % 2 == 0 else "test"
        frames.append(Frame(dataset, scene, str(place), split, name, SIZE[1], SIZE[0]))
    return Manifest(frames, root).save(root / "m.parquet")


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Path:
    pictures = [
        (dataset, f"s{scene}", place, np.full((*SIZE, 3), (50 * number, 50 * scene, 10 * place), np.uint8))
        for number, dataset in enumerate(DATASETS)
        for scene in range(SCENES)
        for place in range(FRAMES)
    ]
    return save(tmp_path_factory.mktemp("flat"), pictures)


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> Path:
    """Frames that brighten from 0 at the left edge to 255 at the right."""
    ramp = np.linspace(0, 255, SIZE[1]).round().astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (*SIZE, 3))
    return save(tmp_path_factory.mktemp("ramps"), [("rooms", "s0", place, pixels) for place in range(FRAMES)])


def batches(data: Path, *, count: int = 40, **settings: Any) -> list[torch.Tensor]:
    """The images (B, V, 3, H, W) in [0, 255] of the first forward passes."""
    plain = {"single": 0.0, "flip": False, "crop": "resize", "frames": 8, "min_views": 2, "max_views": 4}
    config = replace(preset(MumRecipe, "debug")[1].method, **{**plain, **settings})
    views = MumRecipe.batches(config, RunConfig(batch=1), cache=None, data=[data])
    return [views(step).images.float() * 255 for step in range(count)]


def places(images: torch.Tensor) -> list[list[tuple[int, int, int]]]:
    """[scene of the batch][view] (data set, scene, place) by the colours."""
    colours = images.mean((-1, -2)) / torch.tensor([50.0, 50.0, 10.0])
    return [[tuple(view.round().int().tolist()) for view in scene] for scene in colours]


def test_data_sets_are_drawn_by_their_weights(flat):
    def share(**settings: Any) -> float:
        drawn = Counter(scene[0][0] for images in batches(flat, **settings) for scene in places(images))
        return drawn[1] / drawn.total()

    assert share() == pytest.approx(0.5, abs=0.15)
    assert share(weights={"rooms": 1.0, "streets": 9.0}) == pytest.approx(0.9, abs=0.08)
    assert share(weights={"rooms": 1.0, "streets": 0.0}) == 0


@pytest.mark.parametrize("chunk", [3, 4])
def test_long_scenes_are_cut_in_order_into_chunks(flat, chunk):
    spans, together = [], set()
    for images in batches(flat, chunk=chunk, max_views=3):
        for scene in places(images):
            assert len({(dataset, number) for dataset, number, _ in scene}) == 1
            assert len({place // chunk for _, _, place in scene}) == 1
            together |= {place // chunk for _, _, place in scene}
    assert together == set(range(FRAMES // chunk))
    for images in batches(flat, chunk=None):
        spans += [max(p for *_, p in scene) - min(p for *_, p in scene) for scene in places(images)]
    assert max(spans) > 2 * chunk


def test_only_frames_of_the_split_are_drawn(flat):
    for split, rest in (("train", {0}), ("test", {1}), (None, {0, 1})):
        drawn = {p % 2 for images in batches(flat, split=split) for scene in places(images) for *_, p in scene}
        assert drawn == rest


def brightness(images: torch.Tensor) -> torch.Tensor:
    """(frames, W) of ramps, from left to right."""
    return images.mean((-3, -2)).flatten(0, 1)


@pytest.mark.parametrize("crop", ["resize", "cover", "random"])
def test_every_second_frame_is_mirrored_or_none(ramps, crop):
    for flip, share in ((True, 0.5), (False, 0.0)):
        rows = torch.cat([brightness(images) for images in batches(ramps, flip=flip, crop=crop)])
        mirrored = (rows[:, 0] > rows[:, -1]).float()
        assert mirrored.mean() == pytest.approx(share, abs=0.12)


def test_frames_are_squashed_or_cut_to_the_square_as_asked(ramps):
    whole = torch.cat([brightness(images) for images in batches(ramps, crop="resize")])
    assert (whole[:, 0] < 12).all()
    assert (whole[:, -1] > 243).all()
    centre = torch.cat([brightness(images) for images in batches(ramps, crop="cover")])
    assert (centre[:, 0] - 255 / 4).abs().max() < 12  # the middle half of a picture twice as wide as high
    assert (centre[:, -1] - 255 * 3 / 4).abs().max() < 12
    part = torch.cat([brightness(images) for images in batches(ramps, crop="random")])
    assert part[:, 0].std() > 20
    assert (part[:, -1] - part[:, 0]).min() > 255 * (0.2 * 0.75 / 2) ** 0.5 - 20  # a fifth of the area, upright
    assert (part[:, -1] - part[:, 0]).max() > 130


def test_scenes_have_as_many_views_as_asked_and_fill_the_frames(flat):
    shapes = Counter(tuple(images.shape[:2]) for images in batches(flat, frames=12, min_views=3, max_views=5))
    assert set(shapes) == {(4, 3), (3, 4), (2, 5)}  # scenes, views: at most twelve frames
    shapes = Counter(tuple(images.shape[:2]) for images in batches(flat, frames=6, min_views=2, max_views=2))
    assert set(shapes) == {(3, 2)}


@pytest.mark.parametrize("single", [0.0, 0.4, 1.0])
def test_a_share_of_the_batches_is_single_images(flat, single):
    drawn = [images.shape[1] == 1 for images in batches(flat, single=single, count=100)]
    assert np.mean(drawn) == pytest.approx(single, abs=0.15)
    assert single not in (0.0, 1.0) or np.mean(drawn) == single
