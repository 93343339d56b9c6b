"""Weight files of others: containers, damage, and pickles that want to run code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manyview import UserError
from manyview.zoo.reading import read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def equal(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize(
    "container",
    [
        STATE,
        {"model": STATE, "args": Namespace(model="anything", epochs=3)},
        {"model_state_dict": STATE, "args": Namespace()},
        {"state_dict": {f"student.{k}": v for k, v in STATE.items()}, "hyper_parameters": {"lr": 1.0}},
        {"module._orig_mod." + k: v for k, v in STATE.items()},
        {"_orig_mod.module." + k: v for k, v in STATE.items()},
    ],
)
def test_containers_are_unwrapped(container, tmp_path):
    torch.save(container, tmp_path / "w.pth")
    assert equal(read_weights(tmp_path / "w.pth", ("student.",)))


def test_other_weights_beside_the_prefix_keep_their_names(tmp_path):
    torch.save({"student.a": torch.ones(1), "teacher.b": torch.ones(1)}, tmp_path / "w.ckpt")
    assert sorted(read_weights(tmp_path / "w.ckpt", ("student.",))) == ["a", "teacher.b"]


def test_safetensors_and_a_folder_with_one_file(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert equal(read_weights(tmp_path / "w.safetensors"))
    assert equal(read_weights(tmp_path))
    torch.save(STATE, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds 2 weight files"):
        read_weights(tmp_path)


class Malicious:
    """Unpickling it would create a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path, legacy):
    victim = tmp_path / "owned"
    torch.save(
        {**STATE, "x": Malicious(victim)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(UserError, match="refused"):
        read_weights(tmp_path / "w.pth")
    assert not victim.exists()


def test_a_namespace_cannot_smuggle_code(tmp_path):
    victim = tmp_path / "owned"
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"args": Namespace(x=Malicious(victim)), "model": 1}))
    with pytest.raises(UserError):
        read_weights(tmp_path / "w.pth")
    assert not victim.exists()


def _truncated() -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()[:300]


def _empty_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"hello world", _truncated(), _empty_zip(), pickle.dumps([1, 2])])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_one_clear_line(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="w\\.") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_tensors_or_no_file_at_all(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"holds no weights; its entries are \['epoch'\]"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not exist"):
        read_weights(tmp_path / "missing.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds 0 weight files"):
        read_weights(tmp_path / "empty")
