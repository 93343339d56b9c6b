"""A run that is judged while it trains: the numbers are what they are called, and training does not notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from manyview import zoo
from manyview.cli.main import main
from manyview.config import RunConfig
from manyview.data.synthetic import write_scenes
from manyview.engine.loop import fit
from manyview.errors import UserError
from manyview.pipelines.judging import UNSEEN
from manyview.pipelines.train import train
from manyview.recipes.base import preset
from manyview.recipes.mum import MumRecipe

STEPS = ["run.steps=4", "run.judge_every=2", "run.log_every=3", "method.memory_mb=100"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("rooms")
    return tuple(
        str(write_scenes(folder / name, scenes=4, seed=seed, views=4, size=(36, 48)))
        for seed, name in enumerate(("seen", "unseen"))
    )


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_on_other_rooms_is_told_and_training_does_not_notice(rooms, tmp_path):
    common = {"preset": "debug", "data": [rooms[0]], "settings": STEPS, "device": "cpu"}
    judged = train("mum", out=tmp_path / "judged", validate=[rooms[1]], **common)
    plain = train("mum", out=tmp_path / "plain", **common)
    for key, value in zoo.load(plain.model).state_dict().items():
        assert torch.equal(value, zoo.load(judged.model).state_dict()[key])
    told = {line["step"]: line for line in lines(judged.out)}
    assert [step for step, line in told.items() if "val_loss" in line] == [2, 4]
    assert not any("val_loss" in line for line in lines(plain.out))
    assert not (plain.out / "report.html").exists()
    text = (judged.out / "report.html").read_text()
    assert "not learned from" in text
    assert f"{told[4]['val_loss']:.4g}" in text

    method = preset(MumRecipe, "debug")[1].method
    recipe = MumRecipe(replace(method, memory_mb=100))
    recipe.student.load_state_dict(zoo.load(judged.model).state_dict())
    batches = MumRecipe.batches(recipe.config, RunConfig(batch=1), cache=None, data=[Path(rooms[1])])
    with torch.no_grad():
        losses = [
            float(recipe.step(batches(i), progress=0, generator=torch.Generator().manual_seed(i)).loss)
            for i in range(UNSEEN)
        ]
    assert told[4]["val_loss"] == pytest.approx(sum(losses) / UNSEEN, rel=2e-2)  # the run may compute in bf16


def test_a_probe_is_asked_at_the_same_steps_from_the_command_line(rooms, tmp_path, capsys):
    out = tmp_path / "run"
    line = ["train", "mum", "--preset", "debug", "--data", rooms[0], "-o", str(out), "--set", *STEPS]
    small = ["pairs=4", "sweep.steps=3", "train_pairs=6", "val_pairs=2", "overlap=[0.05, 1]", "motion=0.01"]
    probe = ["--probe", "matching-probe", "--probe-set", *small]
    assert main([*line, *probe]) == 2
    assert "--probe matching-probe needs unseen data: add --validate" in capsys.readouterr().err
    assert main([*line, *probe[2:]]) == 2
    assert "add --probe PROTOCOL" in capsys.readouterr().err
    assert main([*line, "--validate", rooms[1], *probe]) == 0
    assert "how it was judged while it trained" in capsys.readouterr().out
    told = [line for line in lines(out) if "matching-probe:epe" in line]
    assert [line["step"] for line in told] == [2, 4]
    summary = json.loads((out / "judged" / "00000004" / "summary.json").read_text())
    assert told[1]["matching-probe:epe"] == next(r for r in summary["rows"] if r["method"] == "model")["epe"]
    assert {row["method"] for row in summary["rows"]} == {"model", "zero_flow"}  # the others never change
    assert "matching-probe:epe" in (out / "report.html").read_text()


def test_split_blocks_cannot_be_judged(tmp_path):
    with pytest.raises(UserError, match=r"leave run\.shard or judging away"):
        fit(None, lambda index: None, RunConfig(shard=True), tmp_path, judge=lambda recipe, step: {})
