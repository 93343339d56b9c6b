"""The learning rate of every step, devices, and which numbers of a run are refused."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import pytest
import torch

from manyview.config import RunConfig
from manyview.engine.device import autocast, pick_device
from manyview.engine.optim import adamw
from manyview.engine.schedule import check, learning_rate, warmup_steps
from manyview.errors import UserError

RUN = RunConfig(steps=1000, lr=1e-3, min_lr=1e-5, warmup=100)


def test_warm_up_is_linear_and_the_end_is_the_end_of_the_run():
    assert learning_rate(0, RUN) == pytest.approx(1e-5)
    assert learning_rate(49, RUN) == pytest.approx(5e-4)
    assert learning_rate(99, RUN) == pytest.approx(1e-3)
    assert learning_rate(549, RUN) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(999, RUN) == pytest.approx(1e-5)
    rates = [learning_rate(step, RUN) for step in range(99, 1000)]
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_warm_up_as_a_share_counts_the_steps_of_this_run():
    assert warmup_steps(replace(RUN, warmup=0.08)) == 80
    assert warmup_steps(replace(RUN, warmup=0.08, steps=100)) == 8
    assert learning_rate(0, replace(RUN, warmup=0)) == pytest.approx(1e-3, rel=1e-4)
    short = replace(RUN, steps=1, warmup=0.05)
    assert learning_rate(0, short) == pytest.approx(short.min_lr)


def test_accumulation_does_not_stretch_the_schedule():
    # Counting forward passes, or forgetting the ranks, is how schedules never reach their end.
    assert learning_rate(999, replace(RUN, accumulate=8)) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"run\.steps is 0"),
        ({"accumulate": 0}, r"run\.accumulate"),
        ({"lr": 0.0}, r"run\.lr is 0\.0"),
        ({"lr": float("nan")}, r"run\.lr is nan"),
        ({"min_lr": 1.0}, r"run\.min_lr"),
        ({"clip": -1.0}, r"run\.clip"),
        ({"steps": 50}, r"run\.warmup is 100 steps but the run has only 50"),
    ],
)
def test_refuses_numbers_that_make_no_sense(change, message):
    check(RUN)
    with pytest.raises(UserError, match=message):
        check(replace(RUN, **change))


def test_weight_decay_falls_on_everything_or_spares_vectors():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    (group,) = adamw(net, RUN).param_groups
    assert len(group["params"]) == 4
    decayed, spared = adamw(net, replace(RUN, decay_vectors=False)).param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert {p.ndim for p in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (RUN.weight_decay, 0.0)


def test_devices_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(UserError, match=f"{name!r}.*--device auto|no device {name!r}"):
            pick_device(name)


def test_precision_auto_is_fp32_on_a_cpu_without_bf16_and_bf16_when_asked():
    cpu = torch.device("cpu")
    assert isinstance(autocast(cpu, "auto"), contextlib.nullcontext)
    with autocast(cpu, "bf16"):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
