"""The recipe learns to complete views, resumes bit for bit, leaves panels, and refuses what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import manyview as mv
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.data.sources import SOURCES
from manyview.engine import track
from manyview.errors import UserError
from manyview.pipelines import train as pipeline
from manyview.recipes.base import preset
from manyview.recipes.mum import TABLE_1, MumRecipe
from manyview.types import Views

DEBUG = preset(MumRecipe, "debug")[1].method


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six scenes of five frames: each a colour ramp in a direction of its own, a little noise on every frame."""
    root, rng, frames = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0), []
    y, x = np.mgrid[:40, :48] / 48
    for scene in range(6):
        ramp = np.cos(scene * np.pi / 3) * x + np.sin(scene * np.pi / 3) * y
        for place in range(5):
            picture = 128 + 90 * ramp[..., None] + rng.normal(0, 1, (40, 48, 3))
            name = f"{scene}-{place}.png"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / name)
            frames.append(Frame("ramps", f"s{scene}", str(place), "train", name, 48, 40))
    return Manifest(frames, root).save(root / "m.parquet")


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(track, "_board", lambda run_dir, step: None)  # it takes seconds to import


def run(out: Path, data: Path, *settings: str, steps: int = 6) -> pipeline.Trained:
    settings = (*settings, f"run.steps={steps}", f"run.checkpoint_every={steps // 2}")
    return pipeline.train("mum", out=out, preset="debug", data=[data], settings=settings, device="cpu")


def weights(out: Path) -> dict[str, torch.Tensor]:
    return mv.load(out / "model").state_dict()


def metrics(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in track.TIMINGS} for line in lines]


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, data, monkeypatch):
    run(tmp_path / "whole", data)
    step, calls = MumRecipe.step, []

    def dies(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt  # in the middle of step 5: what was done since step 3 is lost
        return step(self, *args, **kwargs)

    monkeypatch.setattr(MumRecipe, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", data)
    monkeypatch.setattr(MumRecipe, "step", step)
    pipeline.resume(tmp_path / "parts", device="cpu")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    pictures = [sorted((tmp_path / name / "pictures").iterdir()) for name in ("whole", "parts")]
    assert [p.name for p in pictures[0]] == ["00000003-completion.png", "00000006-completion.png"]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]


def test_it_learns_to_complete_views_below_the_trivial_answer(tmp_path, data):
    run(tmp_path / "r", data, "run.lr=0.02", "method.single=0.2", "method.flip=false", steps=80)
    lines = metrics(tmp_path / "r")
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[:2]) > 0.95  # saying the same of every scene costs one
    assert np.mean(losses[-10:]) < 0.7
    assert {"loss_single", "loss_many"} <= {key for line in lines for key in line}
    described = json.loads((tmp_path / "r" / "config.json").read_text())["batches"]
    assert described["sequences"] == 6


def views(scenes: int = 2, count: int = 3, side: int = 32) -> Views:
    return Views(torch.rand(scenes, count, 3, side, side, generator=torch.Generator().manual_seed(0)))


def loss(batch: Views | None = None, **changes: object) -> float:
    torch.manual_seed(0)
    recipe = MumRecipe.build(replace(DEBUG, **changes))
    for parameter in recipe.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # attention must matter for what it attends to to show
    batch = views() if batch is None else batch
    result = recipe.step(batch, progress=0.0, generator=torch.Generator().manual_seed(1))
    return float(result.loss.detach())


def test_every_ablation_changes_the_loss_and_one_view_is_the_same_wherever_tokens_meet():
    changes = [
        {},
        {"across": "nowhere"},
        {"across": "encoder"},
        {"mask_ratio": 0.5},
        {"reference": True},
        {"normalise": False},
        {"positions": "absolute"},
        {"rotate_cls": True},
    ]
    losses = {round(loss(**change), 7) for change in changes}
    assert len(losses) == len(changes)
    single = views(4, 1)
    assert loss(single, across="nowhere") == pytest.approx(loss(single))
    assert loss(single, reference=True) == pytest.approx(loss(single))  # a single view is not its own reference


def test_the_loss_is_the_mean_over_hidden_patches_of_all_views():
    recipe = MumRecipe.build(DEBUG)
    for parameter in recipe.student.parameters():
        torch.nn.init.zeros_(parameter)
    result = recipe.step(views(), progress=0.0, generator=torch.Generator().manual_seed(1))
    pixels = 3 * recipe.patch**2
    assert float(result.loss.detach()) == pytest.approx((pixels - 1) / pixels, rel=1e-4)  # unbiased variance


@pytest.mark.parametrize("changes", [{}, {"reference": True}, {"across": "encoder"}, {"positions": "absolute"}])
def test_a_step_never_waits_for_a_number_of_the_device(changes):
    """Tensors of the meta device have no values: reading one, as a GPU would have to be waited for, fails."""
    recipe = MumRecipe.build(replace(MumRecipe.presets()["debug"].method, **changes))
    recipe.student.to("meta")
    views = Views(images=torch.rand(2, 3, 3, 32, 32, device="meta"))
    recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(0)).loss.backward()


def test_the_panel_shows_what_is_seen_said_and_there():
    recipe = MumRecipe.build(DEBUG)
    batch = views(1, 2)
    result = recipe.step(batch, progress=0.0, generator=torch.Generator().manual_seed(1))
    panel = result.pictures()["completion"]
    assert panel.shape == (3, 3 * 32, 2 * 32)
    seen, said, there = panel.split(32, dim=1)
    torch.testing.assert_close(there, torch.cat(list(batch.images[0]), -1), atol=1e-5, rtol=0)
    hidden = (seen - there).abs().amax(0) > 1e-5
    assert hidden.float().mean() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(said[:, ~hidden], there[:, ~hidden], atol=1e-5, rtol=0)
    assert (said - there).abs().amax(0)[hidden].mean() > 0.01


def test_presets_are_the_published_numbers():
    presets = MumRecipe.presets()
    paper = presets["paper"]
    assert (paper.method.frames, paper.method.max_views, paper.method.mask_ratio) == (96, 24, 0.75)
    assert sum(TABLE_1.values()) == pytest.approx(1.0)
    assert TABLE_1["imagenet"] == paper.method.single
    assert set(TABLE_1) <= set(SOURCES.names())  # what scans call the data sets
    with torch.device("meta"):
        students = {name: MumRecipe.build(presets[name].method).student for name in ("paper", "tiny", "vits")}
    count = {name: sum(p.numel() for p in student.parameters()) for name, student in students.items()}
    assert count["paper"] == 389_534_464
    assert 2e6 < count["tiny"] < 5e6


def test_what_does_not_fit_is_a_users_mistake(data, tmp_path):
    with pytest.raises(UserError, match="--data"):
        MumRecipe.batches(DEBUG, RunConfig(), cache=None, data=[])
    with pytest.raises(UserError, match="leave --cache away"):
        MumRecipe.batches(DEBUG, RunConfig(), cache=tmp_path, data=[data])
    with pytest.raises(UserError, match=r"method\.frames"):
        MumRecipe.batches(DEBUG, RunConfig(batch=4), cache=None, data=[data])
    with pytest.raises(UserError, match=r"method\.single=0"):
        MumRecipe.batches(replace(DEBUG, reference=True), RunConfig(shard=True), cache=None, data=[data])
    with pytest.raises(UserError, match="take 32"):
        MumRecipe.build(replace(DEBUG, image_size=30))
    with pytest.raises(UserError, match="no masked autoencoder"):
        MumRecipe.build(replace(DEBUG, model="mum-vitl16"))
