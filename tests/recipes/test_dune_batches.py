"""What DUNE's options say of its data is what its batches hold: read off the colours of the pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.batches.augment import Augmentation
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.recipes.base import preset
from manyview.recipes.dune import DuneRecipe
from manyview.types import Views

STILL = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0, jitter=0, grey=0, blur=0, solarise=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two data sets of six square pictures: red is the data set, green brightens from left to right."""
    root, frames = tmp_path_factory.mktemp("pictures"), []
    for number, dataset in enumerate(("some", "other")):
        for index in range(6):
            pixels = np.full((56, 56, 3), 100, np.uint8)
            pixels[..., 0], pixels[..., 1] = (60 + 100 * number, np.linspace(40, 200, 56).round().astype(np.uint8))
            Image.fromarray(pixels).save(root / f"{dataset}{index}.png")
            frames.append(Frame(dataset, str(index), "0", "train", f"{dataset}{index}.png", 56, 56))
    return Manifest(frames, root).save(root / "m.parquet")


def batches(data: Path, *, count: int = 20, **settings: Any) -> list[Views]:
    """The first batches of eight pictures of one teacher's domain, unchanged but for what is asked."""
    plain = {"teachers": ("one=nowhere",), "domains": ("one",), "image_size": 56, "augmentation": STILL}
    config = replace(preset(DuneRecipe, "debug")[1].method, **{**plain, **settings})
    views = DuneRecipe.batches(config, RunConfig(batch=8), cache=None, data=[data])
    return [views(step) for step in range(count)]


@pytest.mark.parametrize("side", [28, 56, 84])
def test_pictures_have_the_side_that_is_asked(data, side):
    (views,) = batches(data, count=1, image_size=side)
    assert views.images.shape == (8, 1, 3, side, side)


def test_data_sets_are_drawn_by_their_weights(data):
    def share(**settings: Any) -> float:
        red = torch.cat([views.images[:, 0, 0].mean((-1, -2)) for views in batches(data, **settings)])
        drawn = Counter((255 * red > 110).tolist())
        return drawn[True] / drawn.total()

    assert share() == pytest.approx(0.5, abs=0.1)
    assert share(weights={"some": 1.0, "other": 9.0}) == pytest.approx(0.9, abs=0.08)
    assert share(weights={"some": 1.0, "other": 0.0}) == 0


def test_pictures_change_by_the_augmentation_alone(data):
    still = torch.cat([views.images[:, 0] for views in batches(data, count=3)])
    assert set((255 * still[:, 2]).round().unique().tolist()) == {100.0}
    assert (still[:, 1, :, -1] > still[:, 1, :, 0]).all()
    mirrored = torch.cat([v.images[:, 0] for v in batches(data, count=3, augmentation=replace(STILL, flip=1.0))])
    assert torch.allclose(mirrored[:, 1].mean(0), still[:, 1].mean(0).flip(-1), atol=0.01)
    small = replace(STILL, scale=(0.25, 0.25))
    crops = torch.cat([v.images[:, 0, 1] for v in batches(data, count=3, augmentation=small)])
    spread = (crops[:, 20, -1] - crops[:, 20, 0]) * 255
    assert torch.allclose(spread, torch.full_like(spread, 80.0), atol=8)  # half of the ramp


@pytest.mark.parametrize("crops", [0, 2])
def test_fixed_crops_are_so_many_and_free_ones_never_come_again(data, crops):
    seen: dict[str, list[float]] = {}
    for views in batches(data, crops=crops, augmentation=replace(STILL, scale=(0.2, 0.9))):
        for [name], image in zip(views.names, views.images, strict=True):
            seen.setdefault(name.partition("#")[0], []).append(float(image.double().sum()))
    for sums in seen.values():
        assert len(sums) > 6
        assert len(set(sums)) == (crops or len(sums))
