"""Students of many views in other spaces than the offline texts', and words learned from data with labels."""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import manyview as mv
from manyview import zoo
from manyview.cli.main import main
from manyview.data.loading import read_classes
from manyview.data.manifest import NO_CLASS, Manifest
from manyview.data.synthetic import CLASSES, write_scenes
from manyview.errors import UserError
from manyview.models import minilm
from manyview.models.dense_heads import sample_maps
from manyview.pipelines.options import ReconstructOptions
from manyview.pipelines.train import train
from manyview.recipes.base import Preset, preset
from manyview.recipes.sab3r import Sab3R
from manyview.scene.scene import Scene
from manyview.zoo import texts

needs_words = pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None, reason="manyview[text-offline] is not installed"
)
METHOD, RUN = preset(Sab3R, "debug")[1].method, preset(Sab3R, "debug")[1].run


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Seeded MaskCLIP, whose text tower has CLIP's vocabulary, DINOv2 and a student, at debug size."""
    folder = tmp_path_factory.mktemp("networks")
    real_words = {"embed_dim": 8, "vocabulary": 49408, "context": 77}
    made = {
        "clip": zoo.build("maskclip-vitb16", size="debug", seed=1, **real_words),
        "dino": zoo.build("dinov2-vits14", size="debug", seed=2),
        "small": zoo.build("manyview-small", size="debug", seed=5),
    }
    for name, network in made.items():
        zoo.save_model(network.eval(), folder / name)
    return folder


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("rooms"), scenes=2, views=4, size=(56, 84), seed=3, trajectory="orbit")


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
def test_students_of_clip_and_dino_are_the_same_code(networks, rooms, tmp_path, monkeypatch):
    """Preset small-cd in small: trained, saved, loaded, asked with texts of the CLIP tower.

    The trivial answer is one feature everywhere, a teacher's mean over the pixels.
    """
    big = preset(Sab3R, "small-cd")[1].method
    assert big.start == "manyview-small"
    assert zoo.build(big.model, feature_heads=json.loads(big.student[0].partition("=")[2])).config.feature_heads == (
        *(("clip", 512), ("dino", 384)),
    )
    method = replace(
        big,
        size="debug",
        student=('feature_heads=[["clip", 8], ["dino", 8]]', "feature_hidden=64", "feature_inner=16"),
        start=str(networks / "small"),
        sizes=((28, 42),),
        overlap=(0.05, 1.0),
        pixels=64,
        teachers={space: str(networks / space) for space in big.teachers},
        upsamplers={},
    )
    run = replace(RUN, steps=200, lr=1e-2, warmup=0.1, log_every=20, checkpoint_every=200, workers=0)
    monkeypatch.setattr(Sab3R, "presets", staticmethod(lambda: {"small-cd": Preset(method=method, run=run)}))
    model = train("sab3r", out=tmp_path / "run", preset="small-cd", data=[rooms]).model
    student, recipe = zoo.load(model).eval(), Sab3R.build(method)
    views = Sab3R.batches(method, replace(run, seed=9), cache=None, data=[rooms])(0)
    points = torch.rand(views.batch * views.views, 256, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = student(views.images, points=False)["features"]
    assert list(features) == ["clip", "dino"]
    for space, said in features.items():
        true = recipe.teacher(space).at(views, points).value
        ours = sample_maps(said.flatten(0, 1).permute(0, 3, 1, 2), points).transpose(1, 2)
        error, constant = ((true - guess).square().mean() for guess in (ours, true.mean((0, 1))))
        assert error < 0.9 * constant, space

    monkeypatch.setattr(texts, "CLIP", str(networks / "clip"))
    monkeypatch.setitem(texts.SPACES, "clip", "a seeded tower")
    texts.text_encoder_of.cache_clear()
    photos = [(image.permute(1, 2, 0) * 255).byte().numpy() for image in views.images[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of how small the photos are
        scene = mv.reconstruct(photos, model=str(model), options=ReconstructOptions(cameras="model"))
    assert scene.info["features"] == {
        "clip": {"channels": 8, "text_encoder": "a seeded tower"},
        "dino": {"channels": 8, "text_encoder": None},
    }
    scene.save(tmp_path / "scene")
    line = ["locate", str(tmp_path / "scene"), "a chair", "sofa | couch", "-o", str(tmp_path / "found")]
    assert main(line) == 0
    answer = json.loads((tmp_path / "found" / "located.json").read_text(encoding="utf-8"))
    assert answer["space"] == "clip"
    assert [one["query"] for one in answer["queries"]] == ["a chair", "sofa"]
    again = Scene.load(tmp_path / "scene")
    assert json.loads(json.dumps(again.locate(["a chair", "sofa | couch"]).to_json())) == answer
    assert main([*line, "--space", "dino"]) == 2
    monkeypatch.setitem(texts.SPACES, "clip", "another tower")
    with pytest.raises(UserError, match="made for the text encoder a seeded tower"):
        again.locate(["a chair"])
    texts.text_encoder_of.cache_clear()


def test_what_taught_a_student_is_in_its_card(networks):
    method = replace(
        METHOD,
        student=('feature_heads=[["clip", 512]]',),
        teachers={"clip": "maskclip-vitb16"},
        upsamplers={"clip": "featup-jbu-maskclip"},
        feature_weights={"clip": 1.0},
        start=str(networks / "small"),
    )
    names = [entry["name"] for entry in Sab3R.build(method).student.card["derived_from"]]
    assert {"maskclip-vitb16", "featup-jbu-maskclip"} <= set(names)
    assert "derived_from" not in Sab3R.build(METHOD).student.card or not any(
        entry["name"] == "maskclip-vitb16" for entry in Sab3R.build(METHOD).student.card["derived_from"]
    )
    with pytest.raises(UserError, match=r"method\.student does not fit manyview-small-words"):
        Sab3R.build(replace(METHOD, student=("no_such_field=3",)))


def of_manifest(**changes):
    return replace(METHOD, sizes=((28, 42),), overlap=(0.05, 1.0), geometry=False, **changes)


def test_labels_of_manifests_count_by_their_names(rooms):
    data, names = Manifest.load(rooms), ("floor", "nothing of the kind", "wall")
    views = Sab3R.batches(of_manifest(names=names), RUN, cache=None, data=[rooms])(0)
    assert views.labels.shape == (2, 2, 28, 42)
    rows = {frame.image: frame for frame in data.frames}
    for shown, labels in zip([name for row in views.names for name in row], views.labels.flatten(0, 1), strict=True):
        whole = read_classes(data, rows[shown].labels)[1::2, 1::2]
        expected = np.full(whole.shape, NO_CLASS)
        for number, name in enumerate(names):
            if name in CLASSES:
                expected[whole == CLASSES.index(name)] = number
        assert (labels.numpy() == expected).mean() > 0.9  # but for pixels on an edge
        assert set(np.unique(labels)) <= {NO_CLASS, 0, 2}
    assert {0, 2} <= set(np.unique(views.labels))
    assert Sab3R.batches(of_manifest(teachers={}), RUN, cache=None, data=[rooms])(0).labels is None


@needs_words
def test_words_are_learned_from_a_manifest(rooms, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        Sab3R, "presets", staticmethod(lambda: {"debug": Preset(method=of_manifest(names=("wall", "floor")), run=RUN)})
    )
    settings = ["run.steps=40", "run.lr=1e-2", "run.workers=0", "run.log_every=1"]
    with caplog.at_level("INFO"):
        train("sab3r", out=tmp_path / "run", preset="debug", data=[rooms], settings=settings)
    assert f"35 of {len(CLASSES)} classes are not in method.names" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = (np.mean([line["minilm_words"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last < 0.9 * first


def test_labels_that_teach_nothing_are_refused(rooms, tmp_path):
    data = Manifest.load(rooms)

    def refused(match, manifest=data, **changes):
        with pytest.raises(UserError, match=match):
            Sab3R.batches(of_manifest(**changes), RUN, cache=None, data=[manifest])(0)

    bare = Manifest(data.frames, data.root, {})
    refused("has no labels to learn words from", bare)
    both = Sab3R.batches(of_manifest(), replace(RUN, batch=8), cache=None, data=[data, bare])(0)
    shown = [bool((pair != NO_CLASS).any()) for pair in both.labels]
    assert True in shown
    assert False in shown
    refused("none of the 37 classes of .* is in method.names", names=("unicorn", "dragon"))
    few = Manifest(data.frames, data.root, {**data.info, "classes": data.info["classes"][:2]})
    refused(r"holds label \d+, the manifest names 2 classes \(0 to 1\)", few, names=CLASSES)
    with pytest.raises(UserError, match=r"leave method\.names away"):
        Sab3R.batches(replace(METHOD, names=("wall",)), RUN, cache=None, data=["rooms:1"])


def test_presets_have_the_weights_of_the_paper_and_of_the_release():
    for name, weights in (("c", {"clip": 20.0}), ("cd", {"clip": 20.0, "dino": 4.0})):
        printed, released = (preset(Sab3R, each)[1] for each in (name, f"{name}-released"))
        for method in (printed.method, released.method):
            assert (method.matching, method.feature_weights, method.freeze) == (0.75, weights, "nothing")
            assert (method.model, method.start) == (f"sab3r-{name}", "mast3r-vitl16")
        assert (printed.method.alpha, released.method.alpha) == (0.2, 1.0)
        assert replace(released.method, alpha=0.2) == printed.method
        assert released.run == printed.run
