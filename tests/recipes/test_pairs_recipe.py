"""The recipe learns points from both pictures and only from both; it freezes, starts and refuses as it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import manyview as mv
from manyview import zoo
from manyview.config import RunConfig
from manyview.engine import track
from manyview.engine.loop import fit
from manyview.errors import UserError
from manyview.geometry.pointmaps import mean_distance
from manyview.losses.confident import point_distances
from manyview.pipelines import train as pipeline
from manyview.recipes.base import RECIPES, preset
from manyview.recipes.pair_signals import pair_signals
from manyview.recipes.pairs import PairsConfig, PairsRecipe, start_from
from manyview.types import Signal, Views
from painted_walls import HEIGHT, WIDTH, save_walls

DEBUG = replace(preset(PairsRecipe, "debug")[1].method, jitter=0.0)
LAYOUT = (
    "dim=32",
    "depth=2",
    "heads=2",
    "registers=0",
    "patch_size=8",
    "positions=4",
    "layer_scale=null",
    "decoder_dim=32",
    "decoder_depth=2",
    "decoder_heads=2",
    "taps=[0,1,1,2]",
    "head=linear",
    "descriptor_dim=4",
    "descriptor_hidden=0.5",
)
SMALL = PairsConfig(
    model="dunemast3r-vits14",
    student=LAYOUT,
    freeze="nothing",
    sizes=((HEIGHT, WIDTH),),
    matches=32,
    jitter=0.0,
    overlap=(0.1, 1.0),
    split="train",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_walls(tmp_path_factory.mktemp("walls"), train=30, test=10)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(track, "_board", lambda run_dir, step: None)  # it takes seconds to import


def batch(data: Path, config: PairsConfig = DEBUG, *, pairs: int = 4, index: int = 0) -> Views:
    return PairsRecipe.batches(config, RunConfig(batch=pairs), cache=None, data=[data])(index)


def fresh(config: PairsConfig = DEBUG, *, std: float | None = None) -> PairsRecipe:
    torch.manual_seed(0)
    recipe = PairsRecipe.build(config)
    if std is not None:
        for parameter in recipe.parameters():
            torch.nn.init.normal_(parameter, std=std)  # so that what is attended to shows
    return recipe


def step(recipe: PairsRecipe, views: Views):
    return recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(1))


def test_it_beats_the_mean_pointmap_and_needs_the_first_picture_for_the_second_view(data, tmp_path):
    run = RunConfig(steps=50, batch=4, lr=6e-3, weight_decay=0.0, checkpoint_every=1000)
    batches = PairsRecipe.batches(SMALL, run, cache=None, data=[data])
    recipe = fresh(SMALL)
    fit(recipe, batches, run, tmp_path / "run", device="cpu")
    test = batch(data, replace(SMALL, split="test"), pairs=40)
    truth = pair_signals(test)["pointmap"]

    def error(images: torch.Tensor) -> list[float]:
        with torch.no_grad():
            points = recipe.student(images)["pointmap"]
        return point_distances(points, truth)[0].mean((0, 2, 3)).tolist()

    seen = [pair_signals(batches(i))["pointmap"] for i in range(30)]
    sized = torch.cat([s.value / mean_distance(s.value, s.valid, (1, 2, 3))[..., None] for s in seen])
    trivial = point_distances(sized.mean(0).expand(40, -1, -1, -1, -1), truth)[0].mean((0, 2, 3)).tolist()
    recipe.eval()
    said = error(test.images)
    assert said[1] < 0.3 * trivial[1]
    assert said[0] < trivial[0]
    elsewhere = test.images.clone()
    elsewhere[:, 0] = elsewhere[:, 0].roll(1, 0)  # the first picture of another pair
    assert error(elsewhere)[1] > 0.6 * trivial[1]


def test_the_truth_costs_least_and_wrong_points_more(data):
    views = batch(data)
    truth = pair_signals(views)["pointmap"]
    generator = torch.Generator().manual_seed(0)
    costs = []
    for spread in (0.0, 0.02, 0.1, 0.5):
        points = truth.value + spread * torch.randn(truth.value.shape, generator=generator)
        costs.append(float(point_distances(points, truth)[0].mean()))
    assert costs == sorted(costs)
    assert costs[0] == 0


@pytest.mark.parametrize("model", ["dunemast3r-vits14", "mast3r-vitl16"])
def test_a_frozen_encoder_stays_and_the_norm_it_is_read_through_moves(data, tmp_path, model):
    config = replace(DEBUG, model=model, sizes=((32, 48),) if model.startswith("mast3r") else ((28, 42),))
    run = RunConfig(steps=2, batch=2, lr=1e-2, log_every=1, checkpoint_every=2)
    recipe = fresh(config)
    before = {name: value.clone() for name, value in recipe.student.state_dict().items()}
    fit(recipe, PairsRecipe.batches(config, run, cache=None, data=[data]), run, tmp_path / "r", device="cpu")
    after = recipe.student.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    through = "norm." if model.startswith("dune") else "encoder.norm."
    assert {f"{through}weight", f"{through}bias"} <= moved
    assert not {name for name in moved if name.startswith("encoder.") and not name.startswith(through)}
    for part in (
        "decoder.embed.",
        "decoder.branches.0.",
        "decoder.branches.1.",
        "heads.0.pointmap.",
        "heads.1.descriptors.",
    ):
        assert any(name.startswith(part) for name in moved), part


def test_nothing_of_the_encoder_keeps_a_graph_when_it_is_frozen(data):
    for freeze, graph in (("encoder", False), ("nothing", True)):
        recipe = fresh(replace(DEBUG, freeze=freeze))
        tokens = recipe.student.encoder.encode(batch(data).images[:, 0], norm=False).patches
        assert tokens.requires_grad == graph
        step(recipe, batch(data)).loss.backward()
        grads = [p.grad is not None for p in recipe.student.encoder.blocks.parameters()]
        assert all(grads) if graph else not any(grads)


def test_symmetric_pairs_are_the_pairs_and_the_same_turned_round(data):
    config = replace(DEBUG, matching=0.0)
    recipe, one_way = fresh(config, std=0.4), fresh(replace(config, symmetric=False), std=0.4)
    views = batch(data, pairs=2)
    views.images = torch.rand(views.images.shape, generator=torch.Generator().manual_seed(3))
    turned = Views(views.images.flip(1), views.intrinsics.flip(1), views.cam2world.flip(1), views.depth.flip(1))
    there, back = (step(one_way, each).loss.detach() for each in (views, turned))
    assert abs(there - back) > 0.01 * there
    torch.testing.assert_close(step(recipe, views).loss.detach(), (there + back) / 2)  # every pixel is measured


def test_sizes_are_learned_only_where_lengths_are_metres(data):
    recipe, views = fresh(replace(DEBUG, matching=0.0), std=0.2), batch(data)
    bigger = replace(views, depth=2 * views.depth, cam2world=views.cam2world.clone())
    bigger.cam2world[..., :3, 3] *= 2
    for metric in (False, True):
        flags = {"metric": Signal(torch.full((4,), metric))}
        losses = [float(step(recipe, replace(v, signals=flags)).loss.detach()) for v in (views, bigger)]
        assert (losses[0] == pytest.approx(losses[1], rel=1e-4)) != metric


def test_weights_come_from_a_trained_encoder_and_from_where_shapes_agree(tmp_path, data):
    dune = zoo.build("dune-vits14-448", size="debug", seed=5)
    zoo.save_model(dune, tmp_path / "dune", {"licence": "toy terms", "name": "toy"})
    other = zoo.build("mast3r-vitl16", size="debug", seed=6, dim=16, heads=2)
    zoo.save_model(other, tmp_path / "mast3r", {"licence": "other terms", "name": "other"})
    recipe = fresh(replace(DEBUG, encoder=str(tmp_path / "dune"), start=str(tmp_path / "mast3r")))
    ours = recipe.student.state_dict()
    for name, value in dune.encoder.state_dict().items():
        assert torch.equal(ours[f"encoder.{name}"], value)
    theirs = other.state_dict()
    assert torch.equal(
        ours["decoder.branches.1.0.cross.query.weight"], theirs["decoder.branches.1.0.cross.query.weight"]
    )
    assert ours["decoder.embed.weight"].shape != theirs["decoder.embed.weight"].shape
    assert {entry["name"] for entry in recipe.student.card["derived_from"]} == {"toy", "other"}
    taken, left = start_from(zoo.build("dunemast3r-vits14", size="debug"), str(tmp_path / "mast3r"))
    assert taken > left > 0
    whole = zoo.build("dunemast3r-vits14", size="debug", seed=8)
    zoo.save_model(whole, tmp_path / "whole")
    recipe = fresh(replace(DEBUG, encoder=str(tmp_path / "dune"), start=str(tmp_path / "whole")))
    ours, theirs = recipe.student.state_dict(), whole.state_dict()
    for name, value in ours.items():
        source = (
            dune.encoder.state_dict()[name.removeprefix("encoder.")] if name.startswith("encoder.") else theirs[name]
        )
        assert torch.equal(value, source), name


def test_the_command_s_road_leaves_a_reconstructor_and_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    settings = ["run.steps=4", "run.checkpoint_every=2", "method.jitter=0.5"]

    def run(name: str) -> pipeline.Trained:
        return pipeline.train(
            "pairs", out=tmp_path / name, preset="debug", data=[data], settings=settings, device="cpu"
        )

    whole, real, calls = run("whole"), PairsRecipe.step, []

    def dies(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt  # what was done since step 2 is lost
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PairsRecipe, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(PairsRecipe, "step", real)
    pipeline.resume(tmp_path / "parts", device="cpu")
    first, second = (mv.load(tmp_path / name / "model").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert RECIPES.get("pairs") is PairsRecipe
    pictures = sorted(path.name for path in (tmp_path / "whole" / "pictures").iterdir())
    assert pictures == ["00000002-pair.png", "00000004-pair.png"]
    described = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert described["batches"]["datasets"] == {"walls": 160}
    line = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"points", "distance", "matching", "matches"} <= line.keys()
    scene = mv.reconstruct([data.parent / f"test0-{i}.png" for i in range(2)], model=whole.model)
    assert len(scene.views) == 2
    assert np.isfinite(scene.points()[0]).all()


def test_what_does_not_fit_is_a_users_mistake(data, tmp_path):
    batches = PairsRecipe.batches
    with pytest.raises(UserError, match="--data"):
        batches(DEBUG, RunConfig(), cache=None, data=[])
    with pytest.raises(UserError, match="leave --cache away"):
        batches(DEBUG, RunConfig(), cache=tmp_path, data=[data])
    with pytest.raises(UserError, match=r"dust3r-vitl16-512-dpt has no descriptors.*matching=0"):
        PairsRecipe.build(replace(DEBUG, model="dust3r-vitl16-512-dpt", sizes=((32, 48),)))
    with pytest.raises(UserError, match=r"\[30, 42\].*patch \(14\).*take \[28, 42\]"):
        PairsRecipe.build(replace(DEBUG, sizes=((28, 42), (30, 42))))
    with pytest.raises(UserError, match=r"height at most width: take \[28, 42\]"):
        PairsRecipe.build(replace(DEBUG, sizes=((42, 28),)))
    with pytest.raises(UserError, match="no pair reconstructor"):
        PairsRecipe.build(replace(DEBUG, model="distill3r"))
    with pytest.raises(UserError, match=r"method\.student does not fit.*unknown option 'depht'"):
        PairsRecipe.build(replace(DEBUG, student=("depht=3",)))
    with pytest.raises(UserError, match=r"method\.student does not fit.*not a multiple"):
        PairsRecipe.build(replace(DEBUG, student=("decoder_heads=3",)))
    with pytest.raises(UserError, match="smaller first"):
        PairsRecipe.build(replace(DEBUG, overlap=(0.9, 0.2)))
    with pytest.raises(UserError, match=r"method\.metric names none of the data's datasets"):
        batches(replace(DEBUG, metric=("elsewhere",)), RunConfig(batch=2), cache=None, data=[data])
    zoo.save_model(zoo.build("dinov2-vits14", size="debug", dim=16), tmp_path / "plain")
    with pytest.raises(UserError, match="does not fit"):
        PairsRecipe.build(replace(DEBUG, start=str(tmp_path / "plain")))


def test_networks_without_descriptors_learn_points_alone(data):
    recipe = fresh(replace(DEBUG, model="dust3r-vitl16-512-dpt", sizes=((32, 48),), matching=0.0))
    result = step(recipe, batch(data, replace(DEBUG, sizes=((32, 48),))))
    assert torch.equal(result.loss.detach(), result.logs["points"])
    assert "matching" not in result.logs


def test_the_panel_shows_pixels_distances_and_confidence(data):
    views = batch(data, pairs=1)
    panel = step(fresh(), views).pictures()["pair"]
    height, width = views.size
    assert panel.shape == (3, 4 * height, 2 * width)
    rows = panel.split(height, dim=1)
    torch.testing.assert_close(rows[0], torch.cat(list(views.images[0]), -1))
    truth = pair_signals(views)["pointmap"].value[0].norm(dim=-1)
    grey = (truth / (2 * truth.mean())).clamp(0, 1)
    torch.testing.assert_close(rows[2][0], torch.cat(list(grey), -1))
