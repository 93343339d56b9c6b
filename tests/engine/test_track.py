"""What a run tells: lines, means, TensorBoard, progress; and batches made ahead of time."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from manyview.engine import track
from manyview.progress import clock


def test_means_survive_a_checkpoint_exactly():
    values = torch.rand(10, generator=torch.Generator().manual_seed(0))
    whole = track.Means()
    for value in values:
        whole.add({"loss": value, "b": 0.1})
    first = track.Means()
    for value in values[:4]:
        first.add({"loss": value, "b": 0.1})
    second = track.Means(json.loads(json.dumps(first.collect())))
    for value in values[4:]:
        second.add({"loss": value, "b": 0.1})
    means = second.flush()
    assert means == whole.flush()
    assert means["loss"] == pytest.approx(float(values.double().mean()), rel=1e-12)
    assert second.flush() == {}


def test_lines_past_the_checkpoint_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(track, "_board", lambda run_dir, step: None)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 1}\n{"step": 10, "loss": 2}\n{"step": 15, "loss": 3}\n{"ste')
    metrics = track.Metrics(tmp_path, step=10)
    metrics.write({"step": 12, "loss": float("nan"), "lr": 0.5})
    metrics.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[2] == {"step": 12, "loss": None, "lr": 0.5}  # NaN is no JSON


def test_tensorboard_gets_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    metrics = track.Metrics(tmp_path, step=0)
    for step in (5, 10):
        metrics.write({"step": step, "loss": step / 2})
    metrics.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 2.5), (10, 5.0)]


def test_without_tensorboard_there_are_only_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    metrics = track.Metrics(tmp_path, step=0)
    metrics.write({"step": 1, "loss": 1.0})
    metrics.close()
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


def test_progress_without_a_terminal_is_a_line_with_the_time_left(caplog, monkeypatch):
    clock = iter([0.0, 1.0, 40.0, 41.0, 80.0])
    monkeypatch.setattr(track.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(track.sys.stderr, "isatty", lambda: False, raising=False)
    console = track.Console(start=0, total=100)
    with caplog.at_level(logging.INFO):
        for step in (1, 20, 21, 100):
            console.update(step, loss=0.25, lr=1e-3, total=100, waited=0.04 if step < 100 else 0.4)
    console.close()
    assert [record.message for record in caplog.records] == [
        "step 20/100  loss 0.25  lr 1.00e-03  2.00 s/step  0:02:40 left",
        "step 100/100  loss 0.25  lr 1.00e-03  0.50 s/step, 40% of it without data  0:00:00 left",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (3725, "1:02:05"), (59.6, "0:01:00")])
def test_duration(seconds, text):
    assert clock(seconds) == text
