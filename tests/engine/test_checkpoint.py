"""Checkpoints are whole or not there, damaged ones are passed over, good ones are never deleted too early."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from manyview.engine import checkpoint
from manyview.errors import UserError


class Tied(nn.Module):
    """Two names for one weight, a buffer that is no contiguous memory, an integer buffer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("count", torch.tensor(7))


def trained(width: int = 4) -> tuple[Tied, torch.optim.AdamW]:
    torch.manual_seed(0)
    module = Tied(width)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module.second(module.first(torch.randn(3, width))).square().sum().backward()
    optimizer.step()
    return module, optimizer


def save(out, step, keep=2):
    module, optimizer = trained()
    weights, moments = module.state_dict(), optimizer.state_dict()["state"]
    checkpoint.save(out, step, weights, moments, meta={"means": {"loss": [0.1 + 0.2, 3]}}, keep=keep)
    return module, optimizer


def test_round_trip_is_exact(tmp_path):
    module, optimizer = save(tmp_path, 5)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert (found.step, found.meta) == (5, {"means": {"loss": [0.1 + 0.2, 3]}})
    other = Tied()
    checkpoint.load_weights(other, found)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert other.first.weight is other.second.weight
    moments = optimizer.state_dict()["state"]
    for index, state in found.moments().items():
        for name, value in state.items():
            assert torch.equal(value, moments[index][name])


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [3, 10]
    save(tmp_path, 11, keep=1)
    assert checkpoint.steps(tmp_path) == [11]
    save(tmp_path, 11, keep=1)  # the same step again
    assert checkpoint.steps(tmp_path) == [11]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000011"]


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "meta.json"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog, name, how):
    save(tmp_path, 10)
    save(tmp_path, 20)
    victim = tmp_path / "checkpoints/00000020" / name
    content = victim.read_bytes()
    if how == "gone":
        victim.unlink()
    elif how == "cut":
        victim.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        victim.write_bytes(content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :])
    with caplog.at_level(logging.WARNING):
        found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert "00000020" in caplog.text


def test_damaged_newer_ones_never_push_out_a_good_one(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        (tmp_path / f"checkpoints/{step:08d}/meta.json").unlink()
    save(tmp_path, 15, keep=2)  # what a run resumed from 10 writes next
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.step == 15
    assert 10 in checkpoint.steps(tmp_path)
    checkpoint.set_aside(tmp_path, 15)
    assert checkpoint.steps(tmp_path) == [10, 15]


def test_a_failed_write_leaves_the_last_one_and_no_rubbish(tmp_path, monkeypatch):
    save(tmp_path, 10, keep=1)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"00000020.*No space left on device.*step 10 is kept"):
        save(tmp_path, 20, keep=1)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000010"]
    assert checkpoint.latest(tmp_path) is not None


def test_half_written_folders_are_ignored_then_removed(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "checkpoints/.00000020.123.tmp").mkdir()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.step == 10
    checkpoint.clean(tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000010"]


def test_another_architecture_changes_nothing(tmp_path):
    save(tmp_path, 1)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    module, _ = trained(width=5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=r"another architecture: 4 differ in shape \(first\.bias"):
        checkpoint.load_weights(module, found)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with pytest.raises(UserError, match=r"lacks 2 \(bias, weight\).*has 6 \(count, first\.bias, …\)"):
        checkpoint.load_weights(nn.Linear(2, 2), found)


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    save(tmp_path, 1)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    torch.save({"optimizer": Evil()}, found.path / "state.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        found.moments()
    assert not (tmp_path / "ran").exists()


def test_nothing_there(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.steps(tmp_path / "missing") == []
