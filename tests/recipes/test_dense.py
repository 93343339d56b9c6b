"""The supervised recipe that makes small teachers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.batches.augment import Augmentation
from manyview.batches.pictures import PictureBatches, PictureWish
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.engine.loop import fit
from manyview.errors import UserError
from manyview.pipelines import train as pipeline
from manyview.recipes.base import RECIPES, preset
from manyview.recipes.dense import DenseRecipe

PLAIN = Augmentation(jitter=0, grey=0, blur=0, solarise=0)
RUN = RunConfig(steps=40, batch=4, lr=5e-3, log_every=1, checkpoint_every=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures whose red tells the class, and green the depth, of every pixel."""
    folder, rng, frames = tmp_path_factory.mktemp("dense"), np.random.default_rng(0), []
    for index in range(8):
        coarse = rng.integers(0, 3, (4, 4))
        labels = np.kron(coarse, np.ones((12, 12), int)).astype(np.uint8)
        depth = np.float32(1 + labels)
        picture = np.stack([labels * 80, labels * 80, labels * 0 + 50], -1).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
        Image.fromarray(labels).save(folder / f"{index}-labels.png")
        np.save(folder / f"{index}-depth.npy", depth)
        frames.append(
            Frame(
                dataset="toy",
                scene=f"{index}",
                frame="0",
                split="",
                image=f"{index}.png",
                width=48,
                height=48,
                labels=f"{index}-labels.png",
                depth=f"{index}-depth.npy",
                depth_scale=1.0,
            )
        )
    return Manifest(frames, folder).save(folder / "manifest.parquet")


def test_pictures_and_maps_are_cropped_together(data):
    wish = PictureWish(target="labels", batch=8, size=(32, 32), augmentation=PLAIN, seed=3)
    batches = PictureBatches([data], wish)
    views = batches(0)
    labels = views.signals["labels"].value
    seen = (views.images[:, 0, 0] * 255 / 80).round().long()
    assert (seen == labels[:, 0]).float().mean() > 0.85  # bicubic borders aside
    assert torch.equal(batches(0).images, views.images)
    assert not torch.equal(batches(1).images, views.images)
    assert batches.describe()["domains"] == [8]


@pytest.mark.parametrize("target", ["labels", "depth"])
def test_it_learns_what_it_is_shown_and_repeats(data, tmp_path, target):
    config = replace(preset(DenseRecipe, "debug")[1].method, target=target, classes=3)

    def losses(name: str) -> list[float]:
        torch.manual_seed(0)
        recipe, lines = DenseRecipe.build(config), []
        batches = DenseRecipe.batches(config, RUN, cache=None, data=[data])
        fit(recipe, batches, RUN, tmp_path / name, device="cpu", on_log=lines.append)
        return [line["loss"] for line in lines]

    found = losses("one")
    assert found[-1] < 0.8 * found[0]
    assert losses("two") == found


def test_the_command_s_road_leaves_an_encoder(data, tmp_path):
    done = pipeline.train(
        "dense", out=tmp_path / "run", preset="debug", data=[data], settings=["run.steps=2", "method.classes=3"]
    )
    model = zoo.load(done.model)
    assert model.encode(torch.rand(1, 3, 32, 32)).patches.shape == (1, 16, 16)
    assert RECIPES.get("dense") is DenseRecipe


def test_what_cannot_be_learned_is_said_before_the_first_step(data):
    config = preset(DenseRecipe, "debug")[1].method
    with pytest.raises(UserError, match="classes"):
        DenseRecipe.build(replace(config, classes=0))
    with pytest.raises(UserError, match="--data"):
        DenseRecipe.batches(config, RUN, cache=None, data=[])
    bare = [replace(frame, labels=None) for frame in Manifest.load(data).frames]
    with pytest.raises(UserError, match="labels"):
        PictureBatches([Manifest(bare, data.parent)], PictureWish(target="labels", batch=1, size=(8, 8)))
