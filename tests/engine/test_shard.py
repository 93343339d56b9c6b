"""Blocks split over two processes: the same training, half of the memory, checkpoints that anyone can read."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shard_ranks import CASES, case, train
from torch import nn
from toy import RUN, Block, Toy, ToyConfig, views

import manyview
from manyview.engine import checkpoint, shard
from manyview.engine.loop import fit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a meeting in a file, and gloo")


@pytest.fixture(autouse=True)
def no_board(monkeypatch):
    monkeypatch.setattr("manyview.engine.track._board", lambda run_dir, step: None)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder in which two processes have trained every case."""
    out = tmp_path_factory.mktemp("shard")
    path = os.pathsep.join([str(Path(manyview.__file__).parents[1]), str(Path(__file__).parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("shard_ranks.py")), out, out / "meeting", str(rank)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return out


def newest(out: Path) -> checkpoint.Checkpoint:
    found = checkpoint.latest(out)
    assert found is not None
    return found


def furthest(a: Path, b: Path) -> float:
    """The largest difference between the weights, or the moments, of two runs' newest checkpoints."""
    one, two = newest(a), newest(b)
    assert one.step == two.step
    ours, theirs = one.weights(), two.weights()
    assert ours.keys() == theirs.keys()
    differences = [(ours[name] - theirs[name]).abs().max() for name in ours]
    state, other = one.moments(), two.moments()
    assert {i: s.keys() for i, s in state.items()} == {i: s.keys() for i, s in other.items()}
    for index, named in state.items():
        differences += [(value - other[index][name]).abs().max() for name, value in named.items()]
    return float(torch.stack(differences).max())


@pytest.mark.parametrize("name", CASES)
def test_two_that_share_equal_two_that_hold_all(done, name):
    split, whole = done / f"{name}-split", done / f"{name}-whole"
    assert newest(split).step == 12
    assert furthest(split, whole) <= 1e-6
    lines = [json.loads((path / "metrics.jsonl").read_text().splitlines()[0]) for path in (split, whole)]
    assert [line["skipped"] for line in lines] == [1, 1]
    assert lines[0]["grad_norm"] == pytest.approx(lines[1]["grad_norm"], rel=1e-5)
    assert lines[0]["grad_norm"] > 0.1  # so that clipping had something to do
    start, end = Toy(case(name)[0].config).state_dict(), newest(split).weights()
    moved = [key for key in end if "blocks" in key and (end[key] - start[key]).abs().max() > 1e-2]
    assert {key.split(".")[1] for key in moved} == {"0", "1", "2"}


def test_each_holds_half_of_the_blocks_and_of_their_moments(done):
    recipe = Toy(ToyConfig(blocks=3))
    blocks = [p for p in recipe.blocks.parameters() if p.requires_grad]
    rest = sum(p.numel() for p in recipe.parameters() if p.requires_grad) - sum(p.numel() for p in blocks)
    reports = [json.loads((done / f"report-{rank}.json").read_text()) for rank in range(2)]
    weights = [report["together-split"][0] - rest for report in reports]
    assert sum(weights) == sum(p.numel() for p in blocks)
    assert max(weights) <= 0.52 * sum(weights)
    used = rest - recipe.unused.numel()  # AdamW keeps nothing of what never has a gradient
    moments = [report["together-split"][1] - 2 * used for report in reports]
    assert sum(moments) == 2 * sum(p.numel() for p in blocks if p.shape != (2, 2))
    assert max(moments) <= 0.52 * sum(moments)
    assert [report["together-whole"][0] for report in reports] == [sum(weights) + rest] * 2


def test_resumed_at_the_same_number_of_ranks_it_is_the_same_bits(done):
    assert furthest(done / "resumed", done / "together-split") == 0
    lines = [
        [json.loads(line) for line in (done / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("resumed", "together-split")
    ]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_a_whole_run_can_go_on_split(done):
    assert furthest(done / "to-split", done / "together-whole") <= 1e-6


def test_a_split_run_can_go_on_whole_in_one_process(done, tmp_path, caplog):
    for kind in ("split", "whole"):
        shutil.copytree(done / f"together-{kind}", tmp_path / kind)
    with caplog.at_level(logging.INFO):
        train(tmp_path / "split", "together", resume=True, shard=True, steps=16)
    assert "run.shard has no effect: there is one process" in caplog.text
    train(tmp_path / "whole", "together", resume=True, steps=16)
    assert newest(tmp_path / "split").step == 16
    assert furthest(tmp_path / "split", tmp_path / "whole") <= 1e-5
    assert furthest(done / "together-split", done / "together-whole") < 1e-5


def test_afterwards_the_recipe_is_whole_and_its_old_self(done):
    recipe = Toy(ToyConfig(blocks=3))
    joined = torch.load(done / "joined.pt", weights_only=True)
    end = newest(done / "resumed").weights()
    assert {name: type(value) for name, value in joined.items()} == dict.fromkeys(end, torch.Tensor)
    assert all(torch.equal(joined[name], end[name]) for name in end)
    report = json.loads((done / "report-0.json").read_text())
    assert report["classes"] == sorted({type(module).__name__ for module in recipe.modules()})
    recipe.load_state_dict(joined)
    torch.testing.assert_close(torch.tensor(report["says"]), recipe.eval().say(torch.ones(2, 6)).detach())


def test_one_process_is_not_changed_by_the_option(tmp_path):
    runs = []
    for kind in (False, True):
        recipe = Toy(ToyConfig(blocks=2))
        run = replace(RUN, steps=8, warmup=1, shard=kind)
        fit(recipe, views, run, tmp_path / str(kind), device="cpu")
        runs.append(recipe.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_blocks_are_found_not_named():
    def linear() -> nn.Linear:
        return nn.Linear(4, 4)

    frozen, tied, odd = Block(4).requires_grad_(False), linear(), linear()
    odd.register_parameter("scalar", nn.Parameter(torch.tensor(1.0)))
    inner = nn.ModuleList([linear(), linear()])
    outer = Block(4)
    outer.inside = nn.ModuleList([linear()])  # already part of a block
    net = nn.ModuleDict(
        {
            "listed": nn.ModuleList([outer, frozen, tied, odd, inner, nn.Linear(2, 1), nn.ModuleDict({"a": linear()})]),
            "loose": linear(),
            "sequence": nn.Sequential(linear()),
        }
    )
    net["loose"].weight = tied.weight
    assert shard.blocks(net, least=10) == [outer, *inner]
    assert shard.blocks(net, least=10**6) == []
