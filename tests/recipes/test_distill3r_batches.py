"""What Distill3R's options say of its data is what its batches hold: read off the colours of the pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.cache.build import build
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.recipes.base import preset
from manyview.recipes.distill3r import Distill3R
from manyview.teachers.sensor import Sensor
from manyview.types import Signal, Views

SIZE, FRAMES = (28, 42), 4
DATASETS = ("rooms", "streets")


class Twice(Sensor):
    """A second teacher, for whom everything is twice as far away."""

    name = "twice"

    def __call__(self, views: Views) -> dict[str, Signal]:
        signals = super().__call__(views)
        for name in ("pointmap", "pointmap_local"):
            signals[name] = replace(signals[name], value=2 * signals[name].value)
        return signals


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Two data sets of three scenes: red is the data set, green brightens from left to right, all 2 m away."""
    root, frames = tmp_path_factory.mktemp("data"), []
    ramp = np.linspace(40, 200, SIZE[1]).round().astype(np.uint8)
    for number, dataset in enumerate(DATASETS):
        for scene in range(3):
            for place in range(FRAMES):
                name = f"{dataset}-{scene}-{place}"
                pixels = np.zeros((*SIZE, 3), np.uint8)
                pixels[..., 0], pixels[..., 1], pixels[..., 2] = 60 + 100 * number, ramp, 100
                Image.fromarray(pixels).save(root / f"{name}.png")
                Image.fromarray(np.full(SIZE, 2000, np.uint16)).save(root / f"{name}.depth.png")
                pose = np.eye(4)
                pose[0, 3] = 0.1 * place
                frames.append(
                    Frame(
                        dataset,
                        f"s{scene}",
                        str(place),
                        "train",
                        f"{name}.png",
                        SIZE[1],
                        SIZE[0],
                        40.0,
                        40.0,
                        SIZE[1] / 2,
                        SIZE[0] / 2,
                        tuple(pose.flatten().tolist()),
                        f"{name}.depth.png",
                        0.001,
                    )
                )
    manifest = Manifest(frames, root).save(root / "m.parquet")
    build(manifest, [Sensor(), Twice()], root / "cache", views=FRAMES, size=SIZE)
    return root / "cache"


def batches(cache: Path, *, count: int = 12, **settings: Any) -> list[Views]:
    """The first batches of four scenes, nothing changed but what is asked for."""
    plain = {"views": 2, "flip": False, "jitter": 0.0}
    config = replace(preset(Distill3R, "debug")[1].method, **{**plain, **settings})
    views = Distill3R.batches(config, RunConfig(batch=4), cache=cache, data=[])
    return [views(step) for step in range(count)]


@pytest.mark.parametrize("count", [1, 3, FRAMES])
def test_scenes_have_as_many_views_as_asked(cache, count):
    (views,) = batches(cache, count=1, views=count)
    assert views.images.shape == (4, count, 3, *SIZE)
    assert views.signals["pointmap"].value.shape == (4, count, *SIZE, 3)


@pytest.mark.parametrize(("teacher", "metres"), [("sensor", 2.0), ("twice", 4.0), (None, 2.0)])
def test_the_answers_are_the_teachers_that_is_named(cache, teacher, metres):
    (views,) = batches(cache, count=1, teacher=teacher)
    depth = views.signals["pointmap_local"].value[..., 2]
    assert torch.allclose(depth, torch.full_like(depth, metres), atol=0.01)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_every_second_scene_is_mirrored_or_none(cache, flip, share):
    mirrored = []
    for views in batches(cache, count=20, flip=flip):
        green = views.images[:, :, 1].mean(-2)  # (B, V, W)
        turned = green[..., 0] > green[..., -1]
        assert (turned == turned[:, :1]).all()  # whole scenes
        x = views.signals["pointmap_local"].value[..., 0]
        assert (x[..., 0] < x[..., -1]).all()  # points are mirrored as well: x still grows to the right
        mirrored += turned[:, 0].tolist()
    assert np.mean(mirrored) == pytest.approx(share, abs=0.2)


def test_colours_change_by_the_jitter_alone(cache):
    still = torch.cat([views.images for views in batches(cache)])
    assert set((255 * still[:, :, 2]).round().unique().tolist()) == {100.0}
    changed = torch.cat([views.images for views in batches(cache, jitter=0.3)])
    assert changed[:, :, 2].std() > 0.05


def test_data_sets_are_drawn_by_their_weights(cache):
    def share(**settings: Any) -> float:
        red = torch.cat([views.images[:, 0, 0].mean((-1, -2)) for views in batches(cache, count=40, **settings)])
        drawn = Counter((255 * red > 110).tolist())
        return drawn[True] / drawn.total()

    assert share() == pytest.approx(0.5, abs=0.1)
    assert share(weights={"rooms": 1.0, "streets": 9.0}) == pytest.approx(0.9, abs=0.08)
    assert share(weights={"rooms": 1.0, "streets": 0.0}) == 0
