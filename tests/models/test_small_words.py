"""The bundled model that answers to words: the points of manyview-small, names of what stands in unseen rooms."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from manyview import zoo
from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.streams import scene_of
from manyview.models import minilm
from manyview.zoo.models import ASSETS

NAME = "manyview-small-words"


def test_it_shares_its_weights_and_says_the_same_points_to_the_bit():
    assert (ASSETS / NAME / "model.safetensors").stat().st_size < 8e6
    images = torch.rand(1, 2, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain, ours = (zoo.load(name)(images) for name in ("manyview-small", NAME))
    assert all(torch.equal(value, ours[name]) for name, value in plain.items())
    assert ours["features"]["minilm"].shape == (1, 2, 16, 20, 384)


@pytest.mark.skipif(importlib.util.find_spec(minilm.PACKAGE) is None, reason="manyview[text-offline] is not installed")
def test_most_pixels_of_an_unseen_room_have_their_name_and_none_with_other_texts():
    """Against always saying the most frequent class, and against the same features with the texts shuffled."""
    words, model = zoo.embed_texts("minilm", CLASSES), zoo.load(NAME)
    right = dict.fromkeys(("model", "one class", "shuffled"), 0.0)
    for number in range(2):
        scene = scene_of("rooms", 123, number, views=2, size=(168, 224))
        with torch.inference_mode():
            maps = F.normalize(model(scene.images[None], points=False)["features"]["minilm"][0], dim=-1)
        labels = F.interpolate(scene.labels[:, None].float(), size=maps.shape[1:3], mode="nearest")[:, 0].long()
        for name, table in (("model", words), ("shuffled", words.roll(7, 0))):
            right[name] += float(((maps @ table.T).argmax(-1) == labels).float().mean()) / 2
        right["one class"] += float(torch.bincount(labels.flatten()).max() / labels.numel()) / 2
    assert right["model"] > right["one class"] + 0.1
    assert right["shuffled"] < 0.1
