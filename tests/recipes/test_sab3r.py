"""SAB3R's recipe: features are learned from words or networks, geometry stays or goes on, mistakes are said."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from manyview import zoo
from manyview.cli.main import main
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.losses.features import feature_distance, word_loss
from manyview.models import minilm
from manyview.models.dense_heads import sample_maps
from manyview.pipelines.train import train
from manyview.recipes.base import Preset, preset
from manyview.recipes.sab3r import Sab3R
from manyview.teachers.spaces import LabelTeacher, NetworkTeacher
from manyview.types import Signal, Views

needs_words = pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None, reason="manyview[text-offline] is not installed"
)
METHOD, RUN = preset(Sab3R, "debug")[1].method, preset(Sab3R, "debug")[1].run


def test_distances_are_means_of_squares_or_norms_of_what_is_valid():
    said, true = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]]), torch.tensor([[[0.0, 0.0], [float("nan"), 0.0]]])
    said.requires_grad_(True)
    signal = Signal(true, valid=torch.tensor([[True, False]]))
    for kind, expected in (("square", 12.5), ("norm", 5.0)):
        sums, counts = feature_distance(said, signal, kind)
        torch.testing.assert_close(sums, torch.tensor([expected]))
        assert counts.tolist() == [1]
        (gradient,) = torch.autograd.grad(sums.sum(), said)
        assert bool(gradient.isfinite().all())
        assert not gradient[0, 1].any()


def test_words_are_told_apart_by_their_cosines():
    words = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.tensor([[2, 0, 9]])
    right, wrong = words[[2, 0, 1]][None] * 7, words[[1, 3, 1]][None]
    (low,), count = word_loss(right, words, labels)
    (high,), _ = word_loss(wrong, words, labels)
    assert count.tolist() == [2]
    assert low < 0.1 < high


@needs_words
def test_labels_are_read_at_the_pixel_and_what_has_no_name_is_not_valid():
    labels = torch.tensor([[[[0, 1], [2, 255]]]], dtype=torch.uint8)
    views = Views(torch.rand(1, 1, 3, 2, 2), labels=labels)
    teacher = LabelTeacher(("wall", "sofa", "mug"), "minilm")
    points = torch.tensor([[[0.2, 0.2], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]]])
    signal = teacher.at(views, points)
    assert signal.valid.tolist() == [[True, True, True, False]]
    assert torch.equal(signal.value[0, :3], zoo.embed_texts("minilm", ["wall", "sofa", "mug"]))
    with pytest.raises(UserError, match="no labels to learn words from"):
        teacher.at(Views(torch.rand(1, 1, 3, 2, 2)), points)


def test_a_networks_features_are_of_the_crop_before_its_colours_changed(tmp_path):
    source = str(zoo.save_model(zoo.build("dinov2-vits14", size="debug", seed=0), tmp_path / "dino"))
    teacher = NetworkTeacher(source, student_patch=14)
    clean, points = torch.rand(1, 2, 3, 28, 42), torch.rand(2, 5, 2)
    coloured = Views(clean**2, unchanged=clean)
    assert torch.equal(teacher.at(coloured, points).value, teacher.at(Views(clean), points).value)
    assert not torch.equal(teacher.at(coloured, points).value, teacher.at(Views(clean**2), points).value)


def test_an_upsampler_makes_a_networks_features_finer_led_by_the_clean_crop(tmp_path):
    source = str(zoo.save_model(zoo.build("maskclip-vitb16", size="debug", seed=0, embed_dim=8), tmp_path / "clip"))
    finer = str(zoo.save_model(zoo.build("featup-jbu-maskclip", size="debug", seed=0), tmp_path / "jbu"))
    teacher = NetworkTeacher(source, student_patch=16, upsampler=finer)
    clean = torch.rand(1, 2, 3, 32, 48)
    maps = teacher.maps(Views(clean**2, unchanged=clean))
    assert maps.shape == (2, 8, 32, 48)
    assert NetworkTeacher(source, student_patch=16).maps(Views(clean)).shape == (2, 8, 2, 3)
    assert torch.equal(maps, teacher.maps(Views(clean)))
    assert not torch.equal(maps, teacher.maps(Views(clean**2)))


def test_batches_keep_the_crop_before_its_colours_changed_where_a_network_teaches():
    of_network = replace(METHOD, teachers={"minilm": "dinov2-vits14"})
    run = preset(Sab3R, "debug")[1].run
    views, plain = (Sab3R.batches(m, run, cache=None, data=["rooms:1"])(0) for m in (of_network, METHOD))
    assert plain.unchanged is None
    assert torch.equal(plain.images, views.images)
    assert torch.equal(plain.labels, views.labels)
    apart = (views.unchanged - views.images).abs().mean((2, 3, 4))
    assert bool((apart > 0.01).any())
    assert float(apart.mean()) < 0.3  # the same crop, the same way round


@needs_words
def test_words_are_learned_and_the_points_stay_to_the_bit(tmp_path):
    """The trivial answer says one word everywhere; heads whose labels are shuffled must not beat it."""
    settings = ["run.steps=60", "run.lr=1e-2", "run.workers=0", "run.log_every=20", "method.geometry=false"]
    trained = train("sab3r", out=tmp_path / "run", preset="debug", data=["rooms:1"], settings=settings)
    after = load_file(trained.model / "model.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = Sab3R.build(METHOD).student.state_dict()
    assert {name for name, value in before.items() if not torch.equal(value, after[name])} == {
        name for name in before if name.startswith("feature_heads.")
    }
    model = zoo.load(trained.model)
    recipe = Sab3R.build(replace(METHOD, geometry=False))
    views = Sab3R.batches(METHOD, replace(preset(Sab3R, "debug")[1].run, seed=9), cache=None, data=["rooms:5"])(0)
    points = torch.rand(4, 256, 2, generator=torch.Generator().manual_seed(0))
    labels, words = recipe.teacher("minilm").labels(views, points), recipe.teacher("minilm").words
    with torch.inference_mode():
        maps = model(views.images, points=False)["features"]["minilm"].flatten(0, 1).permute(0, 3, 1, 2)
        _, told = recipe.meaning("minilm", sample_maps(maps, points).transpose(1, 2), views, points).values()
    shares = torch.bincount(labels.flatten(), minlength=len(words)) / labels.numel()
    assert float(told[1]) < 3.5  # telling 37 words apart by chance costs 3.61
    shuffled = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(2))]
    said = maps.permute(0, 2, 3, 1).flatten(0, 2)[None]
    nearest = F.interpolate(views.labels.flatten(0, 1)[:, None].float(), size=maps.shape[2:]).flatten()[None].long()
    costs = [float(word_loss(said, table, nearest)[0] / nearest.numel()) for table in (words, shuffled)]
    assert costs[0] < costs[1] - 0.1
    assert float(shares.max()) < 0.9


def test_pairs_learn_geometry_and_features_together():
    """Presets c and cd in small, from a teacher that is a network: all of it has a gradient."""
    method = replace(
        preset(Sab3R, "c")[1].method, size="debug", start=None, sizes=((32, 48),), matches=16, upsamplers={}
    )
    recipe = Sab3R.build(method)

    class Plain:
        def at(self, views: Views, points: torch.Tensor) -> Signal:
            return Signal(torch.ones(*points.shape[:2], 3))

    recipe._teachers["clip"] = Plain()
    cameras = {
        "intrinsics": torch.tensor([[30.0, 0, 24], [0, 30, 16], [0, 0, 1]]).expand(1, 2, 3, 3),
        "cam2world": torch.eye(4).expand(1, 2, 4, 4),
        "depth": torch.ones(1, 2, 32, 48),
    }
    views = Views(torch.rand(1, 2, 3, 32, 48), **cameras)
    result = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(0))
    result.loss.backward()
    assert {"points", "matching", "clip"} <= set(result.logs)
    without = {name for name, weight in recipe.student.named_parameters() if weight.grad is None}
    assert not [name for name in without if "mask_token" not in name and "skip" not in name]


def test_heads_and_teachers_must_be_of_the_same_spaces():
    with pytest.raises(UserError, match=r"has feature heads for minilm, method.teachers for clip"):
        Sab3R.build(replace(METHOD, teachers={"clip": "maskclip-vitb16"}))


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    """Frames with depth and poses; seeded MASt3R, teachers and upsamplers of debug size."""
    folder = tmp_path_factory.mktemp("posed")
    write_scenes(folder / "rooms", scenes=2, views=4, size=(48, 64), seed=3, trajectory="orbit")
    networks = {
        "mast3r": zoo.build("mast3r-vitl16", size="debug", seed=0),
        "clip": zoo.build("maskclip-vitb16", size="debug", seed=1, embed_dim=8),
        "dino": zoo.build("dinov2-vits14", size="debug", seed=2),
        "clip-finer": zoo.build("featup-jbu-maskclip", size="debug", seed=3),
        "dino-finer": zoo.build("featup-jbu-dinov2", size="debug", seed=4),
    }
    for name, network in networks.items():
        zoo.save_model(network.eval(), folder / name)
    return folder


def in_small(folder, name, **changes):
    """Preset c or cd at debug size on these networks."""
    method = preset(Sab3R, name)[1].method
    spaces = list(method.teachers)
    return replace(
        method,
        size="debug",
        student=(f"feature_heads={json.dumps([[space, 8] for space in spaces])}",),
        start=str(folder / "mast3r"),
        sizes=((48, 64),),
        matches=32,
        overlap=(0.05, 1.0),
        teachers={space: str(folder / space) for space in spaces},
        upsamplers={space: str(folder / f"{space}-finer") for space in spaces},
        metric=(),
        **changes,
    )


@pytest.mark.parametrize("name", ["c", "cd"])
def test_kept_answers_teach_what_live_ones_teach(posed, tmp_path, monkeypatch, name):
    """From seeded MASt3R weights; answers of other crops, the trivial way to keep them, are told apart."""
    method = in_small(posed, name)
    monkeypatch.setattr(Sab3R, "presets", staticmethod(lambda: {name: preset_of(method)}))
    data, losses = [posed / "rooms" / "manifest.parquet"], {}
    for cache in (None, tmp_path / "answers"):
        out = tmp_path / f"{len(losses)}"
        train("sab3r", out=out, preset=name, data=data, cache=cache, settings=["run.workers=0"])
        losses[out.name] = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    live, kept = losses.values()
    assert len(live) == 6
    assert live != kept  # what is kept is a little different
    np.testing.assert_allclose(kept, live, rtol=0.02)
    recipe, batches = Sab3R.build(method), Sab3R.batches(method, preset_of(method).run, cache=cache, data=data)
    views = batches(0)
    assert [teacher.asked for teacher in batches.teachers.values()] == [0] * len(method.teachers)
    wrong = replace(
        views, signals={key: Signal(s.value.flip(2)) if "/" in key else s for key, s in views.signals.items()}
    )
    right, other = (
        recipe.step(v, progress=0.0, generator=torch.Generator().manual_seed(0)).logs for v in (views, wrong)
    )
    for space in method.teachers:
        assert abs(float(other[space] / right[space]) - 1) > 0.02
    assert torch.equal(other["points"], right["points"])


def preset_of(method):
    return Preset(method=method, run=replace(RUN, steps=6, lr=1e-3, log_every=1, checkpoint_every=6))


def test_teachers_are_asked_once_about_pairs_that_count_both_ways(posed):
    method = in_small(posed, "c")
    views = Sab3R.batches(method, preset_of(method).run, cache=None, data=[posed / "rooms" / "manifest.parquet"])(0)
    recipe, asked = Sab3R.build(method), []
    teacher = recipe.teacher("clip")
    network = teacher.encoder
    teacher.encoder = lambda shown: asked.append(len(shown.images.flatten(0, 1))) or network(shown)
    teacher.encoder.student_patch = 16
    recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(0))
    assert asked == [4]


def test_forgetting_is_watched_before_while_and_after_training(posed, tmp_path, monkeypatch, capsys):
    """A rate that wrecks the reconstructor is seen there, a head on a frozen one leaves the numbers as they were."""
    watched = str(posed / "rooms" / "manifest.parquet")
    method = in_small(posed, "c", watched=watched, watched_batches=2, matching=0.0, jitter=0.0)
    monkeypatch.setattr(Sab3R, "presets", staticmethod(lambda: {"c": preset_of(method)}))
    ends = {}
    for freeze in ("reconstructor", "nothing"):
        out = tmp_path / freeze
        settings = ["run.workers=0", "run.checkpoint_every=3", "run.lr=0.1", f"method.freeze={freeze}"]
        line = ["train", "sab3r", "--preset", "c", "--data", watched, "-o", str(out), "--set", *settings]
        assert main([*line, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)["watched"]
        assert [row["step"] for row in said] == [0, 3, 6]
        ends[freeze] = [row["distance"] for row in said]
    assert main(["train", "--resume", "-o", str(out), "--steps", "7"]) == 0
    assert "not learned from, before and after: points" in capsys.readouterr().out
    assert ends["reconstructor"][0] == ends["nothing"][0] == ends["reconstructor"][2]
    assert abs(ends["nothing"][2] / ends["nothing"][0] - 1) > 0.05
