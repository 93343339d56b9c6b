"""Training in a process of its own that is killed, stopped, robbed of its disk or run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toy import RUN, Toy, ToyConfig, views

import manyview
from manyview.config import RunConfig
from manyview.engine import checkpoint
from manyview.engine.loop import FitResult, fit
from manyview.engine.track import TIMINGS
from manyview.errors import UserError

TOY = Path(__file__).with_name("toy.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def start(*arguments: object) -> subprocess.Popen[str]:
    path = str(Path(manyview.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, str(TOY), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == text:
            return
    raise AssertionError(f"ended without {text!r}: {process.stderr and process.stderr.read()}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def result_of(out: Path) -> tuple[dict[str, bytes], list[dict]]:
    """The final weights, bit for bit, and the lines of metrics.jsonl without timings."""
    weights = load_file(out / f"checkpoints/{RUN.steps:08d}/model.safetensors")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    bits = {name: value.numpy().tobytes() for name, value in weights.items()}
    return bits, [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def train_here(out: Path, *, run: RunConfig = RUN, resume: bool = False, batches=views) -> FitResult:
    """The same training in this process."""
    describe = {"recipe": "toy", "method": ToyConfig()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manyview.engine.track._board", lambda run_dir, step: None)
        return fit(Toy(ToyConfig()), batches, run, out, device="cpu", resume=resume, describe=describe)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train_here(out)
    return result_of(out)


def test_kill_dash_nine_loses_at_most_an_interval(tmp_path, uninterrupted):
    out = tmp_path / "run"
    seen = 0
    for attempt, line in enumerate((10, 35)):
        process = start(out, "--slow", 0.01, *(["--resume"] if attempt else []))
        wait_for(process, f"line {line}")
        time.sleep(0.03 * attempt)
        process.kill()
        finish(process)
        found = checkpoint.latest(out)
        assert found is not None
        assert found.step >= line - RUN.checkpoint_every
        assert found.step >= seen
        seen = found.step
        with open(out / "metrics.jsonl", "a") as file:
            file.write('{"step": 99, "lo')  # as a line cut in two would look
    done = train_here(out, resume=True)
    assert (done.steps, done.stopped) == (60, False)
    assert result_of(out) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, uninterrupted, number):
    def signalling(index):
        if index == 2 * 17:  # made ahead of time, so it arrives up to two forward passes before step 18
            os.kill(os.getpid(), number)
        return views(index)

    before = signal.getsignal(number)
    stopped = train_here(tmp_path / "run", batches=signalling)
    assert signal.getsignal(number) is before
    assert stopped.stopped
    assert 16 <= stopped.steps <= 18
    found = checkpoint.latest(tmp_path / "run")
    assert found is not None
    assert (found.step, found.path) == (stopped.steps, stopped.checkpoint)
    assert not train_here(tmp_path / "run", resume=True).stopped
    assert result_of(tmp_path / "run") == uninterrupted


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    out = tmp_path / "run"
    process = start(out, "--slow", 1.0, "--run", '{"accumulate": 100, "log_every": 1, "steps": 200}')
    while not checkpoint.steps(out):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the step takes 100 s
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert code != 0
    assert "KeyboardInterrupt" in errors
    assert checkpoint.latest(out) is not None


def test_a_full_disk_keeps_the_good_checkpoint(tmp_path):
    out = tmp_path / "run"
    train_here(out, run=replace(RUN, steps=10, warmup=1))
    longer = json.dumps({"steps": 20, "warmup": 1})
    code, _, errors = finish(start(out, "--resume", "--run", longer, "--limit", 4000))
    assert code != 0
    assert "could not write" in errors
    assert "the checkpoint of step 10 is kept" in errors
    found = checkpoint.latest(out)
    assert found is not None
    assert found.step == 10
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    out = tmp_path / "run"
    first = start(out, "--slow", 0.2)
    wait_for(first, "line 5")
    with pytest.raises(UserError, match="another process is training in"):
        train_here(out, resume=True)
    assert first.poll() is None
    first.kill()
    finish(first)


def test_two_ranks_equal_one_that_accumulates(tmp_path):
    options = {"steps": 12, "warmup": 2, "log_every": 6}
    # Dropout and noise are drawn per forward pass, so they are the same on both roads.
    ranks = [
        start(
            tmp_path / "two",
            "--run",
            json.dumps({**options, "accumulate": 1}),
            "--ranks",
            tmp_path / "meeting",
            rank,
            2,
        )
        for rank in range(2)
    ]
    for process in ranks:
        code, _, errors = finish(process)
        assert code == 0, errors
    train_here(tmp_path / "one", run=replace(RUN, accumulate=2, **options))
    name = "checkpoints/00000012/model.safetensors"
    two, one = load_file(tmp_path / "two" / name), load_file(tmp_path / "one" / name)
    for key, value in one.items():
        assert (two[key] - value).abs().max() <= 1e-5, key
    start_weights = Toy(ToyConfig()).state_dict()
    assert max((one[k] - start_weights[k]).abs().max() for k in one) > 1e-2  # both have moved
    losses = [json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[1])["loss"] for n in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
