"""The loop: it learns, it is deterministic, it tells, it survives bad steps, it refuses bad input."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from toy import RUN, Toy, ToyConfig, target, views

from manyview.engine import checkpoint
from manyview.engine.loop import PATIENCE, fit
from manyview.engine.track import TIMINGS
from manyview.errors import UserError
from manyview.types import StepResult


@pytest.fixture(autouse=True)
def no_board(monkeypatch):
    """TensorBoard takes seconds to import; its own test has it."""
    monkeypatch.setattr("manyview.engine.track._board", lambda run_dir, step: None)


def train(out: Path, *, run=RUN, recipe=None, batches=views, **options):
    recipe = recipe or Toy(ToyConfig())
    return recipe, fit(recipe, batches, run, out, device="cpu", **options)


def lines(out: Path) -> list[dict]:
    text = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in text]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_beats_the_average_target(tmp_path):
    run = replace(RUN, steps=300, checkpoint_every=100)
    recipe, result = train(tmp_path / "run", run=run)
    unseen = views(10**6, scenes=512)
    recipe.eval()
    with torch.no_grad():
        error = (recipe.student(unseen.images.mean((-1, -2)).flatten(1)) - target(unseen)).square().mean()
    trivial = target(unseen).var()
    assert error < 0.2 * trivial  # measured: 0.05
    assert result.steps == 300
    assert not result.stopped


def test_same_seed_same_bits_and_another_seed_others(tmp_path):
    first, _ = train(tmp_path / "a")
    second, _ = train(tmp_path / "b")
    other, _ = train(tmp_path / "c", run=replace(RUN, seed=1))
    assert same_weights(first, second)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert not same_weights(first, other)


def test_resume_in_process_is_bit_for_bit(tmp_path):
    whole, _ = train(tmp_path / "whole")
    crashed = Toy(ToyConfig())

    def failing(index):
        if index == 2 * 33:  # in step 34, between the checkpoints of steps 28 and 35
            raise OSError("the data went away")
        return views(index)

    with pytest.raises(OSError, match="went away"):
        train(tmp_path / "cut", recipe=crashed, batches=failing)
    torch.manual_seed(12345)  # whatever the process did in between
    resumed, result = train(tmp_path / "cut", resume=True)
    assert same_weights(whole, resumed)
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert result.steps == 60


def test_accumulation_equals_a_larger_batch(tmp_path):
    config = ToyConfig(noise=0.0, dropout=0.0)
    run = replace(RUN, steps=20, precision="fp32")

    def joined(index):
        parts = [views(2 * index + k).images for k in range(2)]
        return replace(views(0), images=torch.cat(parts))

    halves, _ = train(tmp_path / "halves", run=run, recipe=Toy(config))
    wholes, _ = train(tmp_path / "wholes", run=replace(run, accumulate=1), recipe=Toy(config), batches=joined)
    for a, b in zip(halves.parameters(), wholes.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_lines_are_means_since_the_last_line(tmp_path):
    seen = []

    class Recorder(Toy):
        def step(self, views, *, progress, generator):
            result = super().step(views, progress=progress, generator=generator)
            seen.append(result.loss.item())
            return result

    told = []
    train(tmp_path / "run", recipe=Recorder(ToyConfig()), on_log=told.append)
    written = lines(tmp_path / "run")
    assert [line["step"] for line in written] == list(range(5, 61, 5))
    assert [line["step"] for line in told] == list(range(5, 61, 5))
    assert written[3]["loss"] == pytest.approx(sum(seen[30:40]) / 10, rel=1e-9)
    assert written[3]["error"] == written[3]["loss"]
    assert 0 <= json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["data_share"] <= 1


def test_the_global_random_state_is_left_alone(tmp_path):
    recipe = Toy(ToyConfig())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(tmp_path / "run", recipe=recipe, run=replace(RUN, steps=2, warmup=1))
    assert torch.equal(torch.rand(3), expected)


class Poisoned(Toy):
    """Its loss (or only its gradient) is not finite on some passes."""

    bad: range = range(0)
    how = "loss"

    def step(self, views, *, progress, generator):
        result = super().step(views, progress=progress, generator=generator)
        self.passes = getattr(self, "passes", -1) + 1
        if self.passes not in self.bad:
            return result
        if self.how == "loss":
            return StepResult(result.loss * math.nan, result.logs)
        weight = self.student[0].weight
        return StepResult(result.loss + torch.sqrt((weight - weight.detach()).square().sum()), result.logs)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_told(tmp_path, caplog, how):
    recipe = Poisoned(ToyConfig())
    recipe.bad, recipe.how = range(21, 26), how  # second half of step 11, steps 12 and 13
    recipe, result = train(tmp_path / "run", recipe=recipe)
    assert all(torch.isfinite(p).all() for p in recipe.parameters())
    told = [record.message for record in caplog.records if "skipped" in record.message]
    assert [message.split()[1] for message in told] == ["11", "12", "13"]
    assert [line["skipped"] for line in lines(tmp_path / "run")] == [0, 0, 3] + [0] * 9
    assert math.isfinite(result.final_loss)


def test_bad_steps_between_good_ones_do_not_end_the_run(tmp_path):
    recipe = Poisoned(ToyConfig())
    recipe.bad = range(0, 120, 4)  # every other step
    _, result = train(tmp_path / "run", recipe=recipe)
    assert result.steps == 60
    assert sum(line["skipped"] for line in lines(tmp_path / "run")) == 30


class Running(Poisoned):
    """Keeps running statistics of what it sees, the bad numbers too."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def step(self, views, *, progress, generator):
        result = super().step(views, progress=progress, generator=generator)
        self.seen.lerp_(result.loss.detach().expand(2), 0.1)
        self.count += 1
        return result


def test_a_skipped_step_leaves_nothing_behind_in_running_statistics(tmp_path):
    recipe = Running(ToyConfig())
    recipe.bad = [20]  # the first of the two passes of step 11
    train(tmp_path / "run", recipe=recipe)
    assert torch.isfinite(recipe.seen).all()
    assert int(recipe.count) == 2 * 59
    for step in checkpoint.steps(tmp_path / "run"):
        weights = checkpoint.at(tmp_path / "run", step).weights()
        assert torch.isfinite(weights["seen"]).all()
    poisoned = {**weights, "seen": torch.tensor([0.0, float("nan")])}
    checkpoint.save(tmp_path / "run", 61, poisoned, {}, meta={}, keep=9)
    with pytest.raises(UserError, match=r"00000061 is poisoned: seen holds NaN .* the checkpoint before it"):
        checkpoint.load_weights(recipe, checkpoint.at(tmp_path / "run", 61))


def test_gives_up_after_many_bad_steps_and_keeps_the_good_checkpoint(tmp_path):
    recipe = Poisoned(ToyConfig())
    recipe.bad = range(40, 10_000)
    with pytest.raises(UserError, match=rf"not finite for {PATIENCE} steps in a row.*00000035 is kept.*run\.lr"):
        train(tmp_path / "run", recipe=recipe)
    found = checkpoint.latest(tmp_path / "run")
    assert found is not None
    assert all(torch.isfinite(value).all() for value in found.weights().values())


def test_refuses_a_folder_that_holds_a_run(tmp_path):
    train(tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"already holds a run; go on with it with --resume"):
        train(tmp_path / "run")
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("recipe", "run", "describe", "message"),
    [
        (Toy(ToyConfig(width=8)), RUN, {}, r"another architecture.*student\.0\.bias.*\(16,\).*\(8,\)"),
        (torch.nn.ModuleDict({"net": torch.nn.Linear(1, 1)}), RUN, {"recipe": "Toy"}, "another architecture"),
        (Toy(ToyConfig()), RUN, {"recipe": "mum"}, "is a run of recipe 'Toy', not 'mum'"),
        (Toy(ToyConfig()), replace(RUN, lr=1.0), {}, r"run\.lr = 0\.01, not 1\.0"),
        (Toy(ToyConfig()), RUN, {"method": {"noise": 9}}, r"method\.noise = 0\.05, not 9"),
        (Toy(ToyConfig()), replace(RUN, steps=30), {}, "already at step 60, past the 30 asked for"),
    ],
)
def test_resume_refuses_another_run(tmp_path, recipe, run, describe, message):
    out = tmp_path / "run"
    train(out, describe={"method": asdict(ToyConfig())})
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=message):
        train(out, recipe=recipe, run=run, resume=True, describe=describe)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_resume_without_a_run_or_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"holds no run to resume"):
        train(tmp_path / "none", resume=True)
    train(tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").iterdir():
        (path / "meta.json").unlink()
    with pytest.raises(UserError, match=r"holds no intact checkpoint"):
        train(tmp_path / "run", resume=True)


def test_a_finished_run_can_be_prolonged(tmp_path):
    train(tmp_path / "run", run=replace(RUN, steps=30))
    _, again = train(tmp_path / "run", run=replace(RUN, steps=30), resume=True)
    assert again.steps == 30
    _, longer = train(tmp_path / "run", resume=True)
    assert longer.steps == 60
    assert json.loads((tmp_path / "run/config.json").read_text())["run"]["steps"] == 60


def test_nothing_to_train(tmp_path):
    recipe = Toy(ToyConfig()).requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        train(tmp_path / "run", recipe=recipe)
