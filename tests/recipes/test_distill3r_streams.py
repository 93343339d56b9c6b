"""Distill3R on scenes that are rendered while it trains: any loss, resumed to the bit, mistakes said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from manyview.batches.worlds import Streaming, WorldBatches
from manyview.errors import UserError
from manyview.pipelines.train import resume, train
from manyview.recipes.base import preset
from manyview.recipes.distill3r import Distill3R

SMALL = Streaming(sizes=("24x32", "32x24"), count=(2, 3), rendered=4)
STUDENT = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2, "head_dim": 16}
JOINT = {"fusion": "joint", "camera_depth": 0}
METHOD = replace(
    preset(Distill3R, "views")[1].method,
    student={**preset(Distill3R, "views")[1].method.student, **STUDENT, "taps": (0, 1, 1, 2)},
    stream=SMALL,
)
SETTINGS = [
    f"method.student={json.dumps(METHOD.student)}",
    'method.stream.sizes=["24x32","32x24"]',
    "method.stream.count=[2,3]",
    "method.stream.rendered=4",
    *("run.batch=1", "run.workers=0", "run.log_every=1", "run.checkpoint_every=2", "run.warmup=0"),
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"matching": 0.0, "camera": 0.0, "attending": 0.0},
        {"loss": "distill3r", "matching": 0.0, "camera": 0.0, "attending": 0.0},
        {"loss": "robust", "matching": 0.0, "camera": 0.0, "attending": 0.0},
        {
            "random_view_ids": True,
            "student": {**METHOD.student, "fusion": "joint", "camera_depth": 0},
            "camera": 0.0,
            "attending": 0.0,
        },
    ],
    ids=["views", "points", "paper", "robust", "joint"],
)
def test_every_loss_and_fusion_learns_from_rendered_scenes(changes):
    torch.manual_seed(0)
    recipe = Distill3R.build(replace(METHOD, **changes)).train()
    views = WorldBatches(["abstract:1"], SMALL, scenes=1, seed=0)(0)
    first = None
    optimizer = torch.optim.AdamW(recipe.parameters(), lr=3e-3)
    for _ in range(12):
        views.signals = {}
        loss = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(0)).loss
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first - 0.05 * abs(first)


def test_a_run_resumes_to_the_bit_from_its_step(tmp_path):
    inputs = {"preset": "views", "data": ["abstract:2"], "device": "cpu"}
    whole = train("distill3r", out=tmp_path / "whole", settings=[*SETTINGS, "run.steps=4", "run.lr=1e-3"], **inputs)
    train("distill3r", out=tmp_path / "part", settings=[*SETTINGS, "run.steps=4", "run.lr=1e-3"], **inputs)
    for step in ("00000004",):
        for file in (tmp_path / "part/checkpoints" / step).iterdir():
            file.unlink()  # as if it had ended at step 2
        (tmp_path / "part/checkpoints" / step).rmdir()
    again = resume(tmp_path / "part", device="cpu")
    assert again.fit.steps == whole.fit.steps == 4
    weights = [load_file(run.model / "model.safetensors") for run in (whole, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    config = json.loads((tmp_path / "whole/config.json").read_text())
    assert config["data"] == ["abstract:2"]


def test_a_run_by_the_clock_ends_and_its_rate_with_it(tmp_path):
    run = train(
        "distill3r",
        out=tmp_path / "run",
        preset="views",
        data=["abstract:1"],
        settings=[*SETTINGS, "run.seconds=0.5", "run.lr=1e-3", "run.min_lr=0"],
        device="cpu",
    )
    assert run.model is not None
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert run.fit.steps == len(lines) < 400
    assert lines[-1]["lr"] < 0.5 * max(line["lr"] for line in lines) or len(lines) == 1


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"data": ["rooms:1"], "cache": "cache"}, "leave one away"),
        ({"data": ["rooms:one"]}, "give a number, such as rooms:1"),
        ({"data": []}, "--data rooms:1"),
        ({"data": ["rooms:1"], "settings": ["method.camera=1"], "preset": "tiny"}, "no camera head"),
        ({"data": ["rooms:1"], "settings": ["method.attending=1"], "preset": "tiny"}, "no blocks in turn"),
    ],
)
def test_mistakes_are_said(tmp_path, inputs, said):
    with pytest.raises(UserError, match=said):
        train("distill3r", out=tmp_path / "run", **{"preset": "views", **inputs})
