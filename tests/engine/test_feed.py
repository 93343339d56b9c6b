"""Batches from other processes: the same ones in the same order, mistakes that keep their words, a clean end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from feeding import Numbers
from toy import views

import manyview
from manyview.engine.feed import Feed, LoadingEnded, workers_for
from manyview.errors import UserError
from manyview.images.reading import ImageProblem

CPU = torch.device("cpu")


def drawn(batches, indices, workers: int) -> list[torch.Tensor]:
    with Feed(batches, indices, device=CPU, workers=workers) as feed:
        images = [feed.next().images for _ in indices]
        with pytest.raises(StopIteration):
            feed.next()
    return images


def test_the_same_batches_in_the_same_order_whoever_loads_them():
    expected = [Numbers()(index).images for index in range(3, 30, 4)]
    for workers in (0, 1, 4):
        images = drawn(Numbers(), range(3, 30, 4), workers)
        assert all(torch.equal(a, b) for a, b in zip(images, expected, strict=True)), workers


def test_several_processes_load_and_this_one_finishes():
    with Feed(Numbers(), range(12), device=CPU, workers=3) as feed:
        loaders = {feed.next().names[0][0] for _ in range(12)}
    assert len(loaders) == 3
    assert str(os.getpid()) not in loaders


def test_batches_are_made_ahead_of_time(tmp_path):
    with Feed(Numbers(folder=tmp_path), range(40), device=CPU, workers=1) as feed:
        feed.next()
        for _ in range(100):
            if len(list(tmp_path.iterdir())) == 3:
                break
            time.sleep(0.1)
        time.sleep(0.2)
        assert len(list(tmp_path.iterdir())) == 3  # the one that was asked for, and two


@pytest.mark.parametrize("workers", [0, 2])
def test_a_user_s_mistake_arrives_as_it_was_made_when_its_batch_is_due(workers):
    with Feed(Numbers(broken=3), range(9), device=CPU, workers=workers) as feed:
        for _ in range(3):
            feed.next()
        with pytest.raises(ImageProblem, match=r"^frame7\.png: truncated$") as caught:
            feed.next()
    assert caught.value.path == Path("frame7.png")


def test_a_process_that_dies_is_told_in_one_line():
    with pytest.raises(LoadingEnded, match=r"run\.workers lower") as caught:
        drawn(Numbers(dead=2), range(9), workers=1)
    assert "\n" not in str(caught.value)


def test_a_plain_function_is_called_here_when_its_batch_is_due():
    made = []

    def make(index):
        made.append(index)
        return views(index)

    with Feed(make, range(5), device=CPU, workers=4) as feed:
        assert torch.equal(feed.next().images, views(0).images)
        assert made == [0]

    def broken(index):
        raise ValueError("frame 7 is broken")

    with Feed(broken, range(5), device=CPU) as feed, pytest.raises(ValueError, match="frame 7 is broken"):
        feed.next()


def test_how_many_processes_load():
    assert workers_for(CPU, None) == 0
    assert workers_for(CPU, 3) == 3
    assert 1 <= workers_for(torch.device("cuda"), None) <= 8
    assert workers_for(torch.device("cuda"), 0) == 0
    assert workers_for(torch.device("cuda"), None, ranks=10_000) == 1
    with pytest.raises(UserError, match=r"run\.workers is -1"):
        workers_for(CPU, -1)


SCRIPT = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.insert(0, {tests!r})
from feeding import Numbers
from manyview.engine.feed import Feed
print("the script runs", flush=True)
feed = Feed(Numbers(), range(1000), device=torch.device("cpu"), workers=2)
for _ in range(4):
    feed.next()  # both processes are at work
try:
    print("go", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    pass
for _ in range(20):
    feed.next()
print("done", flush=True)
if "stumbles" in sys.argv:
    raise KeyError("a mistake of the script, which closes nothing")
feed.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_script_without_a_guard_runs_once_and_ctrl_c_leaves_the_loading_alone(tmp_path):
    output, errors, code = interrupted(tmp_path / "script.py")
    assert (output, code) == ("done\n", 0), errors
    assert "Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_script_that_stumbles_with_an_open_feed_ends(tmp_path):
    output, errors, code = interrupted(tmp_path / "script.py", "stumbles")
    assert (output, code) == ("done\n", 1), errors
    assert "KeyError" in errors


def interrupted(script: Path, *arguments: str) -> tuple[str, str, int]:
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    paths = os.pathsep.join([str(Path(manyview.__file__).parents[1]), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "the script runs\n"
    assert process.stdout.readline() == "go\n"
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return output, errors, process.returncode


def test_a_process_that_does_not_end_when_asked_is_killed():
    feed = Feed(Numbers(), range(100), device=torch.device("cpu"), workers=1)
    feed.next()
    (process,) = feed._processes
    os.kill(process.pid, signal.SIGSTOP)  # as one that hangs
    feed.close()
    process.join(timeout=10)
    assert not process.is_alive()
