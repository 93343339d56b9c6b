"""Weight files of others: containers, damage, and pickles that want to run code."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import manyview as mv
from manyview import UserError, zoo
from manyview.zoo.reading import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def equal(checkpoint) -> bool:
    state = checkpoint.weights
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
        {"module": STATE, "ds_config": {"zero": 2}, "global_steps": 4},
        {"model": {"state_dict": STATE}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    ],
)
def test_containers_are_unwrapped(container, tmp_path):
    torch.save(container, tmp_path / "w.pth")
    assert equal(read_checkpoint(tmp_path / "w.pth", ("student.",)))


def test_a_container_that_holds_itself_ends(tmp_path):
    container: dict = {"epoch": 1}
    container["model"] = container
    torch.save(container, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_checkpoint(tmp_path / "w.pth")


def test_other_weights_beside_the_prefix_keep_their_names(tmp_path):
    torch.save({"student.a": torch.ones(1), "teacher.b": torch.ones(1)}, tmp_path / "w.ckpt")
    assert sorted(read_checkpoint(tmp_path / "w.ckpt", ("student.",)).weights) == ["a", "teacher.b"]


def test_safetensors_and_a_folder_with_one_file(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert equal(read_checkpoint(tmp_path / "w.safetensors"))
    assert equal(read_checkpoint(tmp_path))
    torch.save(STATE, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds 2 weight files"):
        read_checkpoint(tmp_path)


class Malicious:
    """Unpickling it would create a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path, legacy):
    victim = tmp_path / "owned"
    torch.save({**STATE, "x": Malicious(victim)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(tmp_path / "w.pth")
    assert not victim.exists()


def test_a_namespace_cannot_smuggle_code(tmp_path):
    victim = tmp_path / "owned"
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"args": Namespace(x=Malicious(victim)), "model": 1}))
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "w.pth")
    assert not victim.exists()


class HiddenInState:
    """Unpickles through a harmless class whose state holds the call."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Namespace, (), {"model": "x", "run": Malicious(self.victim)}


class Evaluates:
    """Reaches for eval through an allowed name's attributes."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.victim)!r})",)


@pytest.mark.parametrize("make", [Malicious, HiddenInState, Evaluates])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: {"model": STATE, "args": m},
        lambda m: {"model": {**STATE, "deep": {"er": [(m,)]}}},
        lambda m: {"model": STATE, "args": Namespace(inner=Namespace(innermost=m))},
        lambda m: {"state_dict": STATE, "hyper_parameters": {m.__class__.__name__: {1: m}}},
    ],
)
def test_code_is_found_wherever_it_hides(tmp_path, make, wrap):
    victim = tmp_path / "owned"
    torch.save(wrap(make(victim)), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth is refused") as caught:
        read_checkpoint(tmp_path / "w.pth")
    assert not victim.exists()
    assert "\n" not in str(caught.value)


def test_what_only_holds_values_comes_along_harmlessly(tmp_path):
    told = Namespace(
        output=Path("/some/where"),
        lr=np.float64(0.5),
        big=np.array([7], dtype=">i4")[0],
        on=np.bool_(True),
        size=torch.Size([2, 3]),
        order=OrderedDict(a=1),
        nothing=None,
        members={1, 2},
    )
    torch.save({"model": STATE, "args": told, "epoch": 3, "dune_backbone_name": "x"}, tmp_path / "w.pth")
    checkpoint = read_checkpoint(tmp_path / "w.pth")
    assert equal(checkpoint)
    assert checkpoint.about["epoch"] == 3
    assert checkpoint.about["dune_backbone_name"] == "x"
    found = checkpoint.about["args"]
    assert found.output == PurePosixPath("/some/where")
    assert (found.lr, found.big, found.on, found.size) == (0.5, 7, True, (2, 3))
    assert (type(found.lr), type(found.on)) == (float, bool)
    assert (found.order, found.nothing, found.members) == ({"a": 1}, None, {1, 2})


def test_numpy_objects_stay_out(tmp_path):
    torch.save({"model": STATE, "x": np.array([object()], dtype=object)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_hub_directory_says_its_config_and_names_a_missing_part(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path).about == {}
    (tmp_path / "config.json").write_text('{"encoder_args": {"depth": 24}}')
    torch.save(STATE, tmp_path / "pytorch_model.bin")  # the safetensors file is preferred
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert read_checkpoint(path).about["config"]["encoder_args"] == {"depth": 24}
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not an object"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a.weight": "one.safetensors", "z": "two.safetensors"}}, "'two.safetensors'"),
        ({"weight_map": {"a.weight": "../one.safetensors"}}, "not beside it"),
        ({"weight_map": {"a.weight": "one.safetensors", "z": "one.safetensors"}}, r"in no file, first \['z'\]"),
        ({"weight_map": 3}, "says not which"),
        ({}, "says not which"),
    ],
)
def test_a_torn_index_is_one_clear_line(tmp_path, index, message):
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(STATE, folder / "one.safetensors")
    save_file(STATE, tmp_path / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


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
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_tensors_or_no_file_at_all(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"holds no weights; its entries are \['epoch'\]"):
        read_checkpoint(tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(tmp_path / "missing.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file of weights"):
        read_checkpoint(tmp_path / "empty")


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("w.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def saved(how) -> bytes:
    buffer = io.BytesIO()
    how(buffer)
    return buffer.getvalue()


PICKLED = saved(lambda file: torch.save({"a": torch.ones(2)}, file))
MAPPED = save({"a": torch.ones(2)})
ARRAYS = saved(lambda file: np.savez(file, a=np.ones(2)))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "pytorch_model.bin", "w.pth.tar", "weights"])
@pytest.mark.parametrize("content", [PICKLED, MAPPED])
def test_a_file_is_read_by_what_it_holds(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert torch.equal(read_checkpoint(tmp_path / name).weights["a"], torch.ones(2))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "is a web page"),
        ("<html>".encode("utf-16"), "is a web page"),
        (b"<Error><Code>AccessDenied</Code></Error>", "is a web page"),
        (b"/annex/objects/SHA256E-s12--ab.pth\n", "is a git-annex pointer"),
        (b'{"error": "Repository not found"}', "is text, not the weights"),
        (b"Access to this model is restricted.", "is text, not the weights"),
        (gzip.compress(PICKLED), "compressed by gzip"),
        (tarred(PICKLED), "is a tar archive"),
        (zipped("model/w.pth", PICKLED), r"zip archive of other files \(model/w.pth"),
        (ARRAYS, "numpy arrays"),
        (b"GGUF\x03" + bytes(40), "GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5 file"),
        (PICKLED[: len(PICKLED) // 2], "cut off or damaged"),
    ],
)
def test_what_people_take_for_weights_is_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_of_shards_says_how_to_make_one_file(tmp_path):
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="dcp_to_torch"):
        read_checkpoint(tmp_path)


def test_a_model_directory_that_git_did_not_fill(tmp_path):
    zoo.save_model(zoo.build("dinov2-vits14", size="debug"), tmp_path / "m")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "m" / name).write_bytes(pointer)
        with pytest.raises(UserError, match=f"{name} is a Git LFS pointer"):
            mv.load(tmp_path / "m")
