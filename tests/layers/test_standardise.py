"""Standardisation: batch statistics in training, running ones in evaluation, the same from two ranks as from one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manyview.layers.standardise import FLOOR, Standardise

RANK = """
import sys, torch, torch.distributed as dist
from manyview.layers.standardise import Standardise
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
layer = Standardise(5)
layer(torch.load(f"{folder}/part{rank}.pt"), 0.25)
torch.save(layer.state_dict(), f"{folder}/out{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 7, 5, generator=generator) * torch.arange(1.0, 6) + 300


def test_training_uses_the_batch_and_moves_the_buffers(features):
    layer = Standardise(5)
    out = layer(features, 0.1)
    rows = features.flatten(0, 1)
    torch.testing.assert_close(out.flatten(0, 1).mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.flatten(0, 1).std(0), torch.ones(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(layer.mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(layer.std, 0.9 + 0.1 * rows.std(0))


def test_evaluation_and_momentum_zero_use_the_buffers_and_leave_them(features):
    for training, momentum in ((False, 0.5), (True, 0.0)):
        layer = Standardise(5).train(training)
        layer.mean.fill_(2.0)
        layer.std.fill_(4.0)
        torch.testing.assert_close(layer(features, momentum), (features - 2) / 4)
        assert layer.mean.eq(2).all()
        assert layer.std.eq(4).all()


def test_a_constant_channel_is_divided_by_the_floor():
    layer = Standardise(1)
    features = torch.full((4, 1), 3.0)
    assert layer(features, 1.0).abs().max() == 0
    assert layer.eval()(features + FLOOR).sub(1).abs().max() < 1e-3


def test_two_ranks_have_the_statistics_of_one_joint_batch(features, tmp_path: Path):
    for rank, part in enumerate((features[:1], features[1:])):  # of different sizes
        torch.save(part, tmp_path / f"part{rank}.pt")
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    ranks = [subprocess.Popen([sys.executable, script, str(rank), tmp_path]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    joint = Standardise(5)
    joint(features, 0.25)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"out{rank}.pt")
        torch.testing.assert_close(state["mean"], joint.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(state["std"], joint.std, rtol=1e-6, atol=1e-6)
