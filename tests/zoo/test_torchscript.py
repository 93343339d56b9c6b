"""TorchScript archives: their tensors come out as the state dict would name them, their code never runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from manyview import UserError
from manyview.zoo.reading import read_checkpoint


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("steps", torch.arange(3))
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.sizes[0]


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.blocks = nn.Sequential(Inner(), Inner())
        self.input_resolution = 224

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) * self.scale


@pytest.fixture
def archive(tmp_path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.jit.script(Outer()).half().save(str(path))
    return path


def test_an_archive_gives_what_its_state_dict_would(archive):
    checkpoint = read_checkpoint(archive)
    expected = torch.jit.load(str(archive)).state_dict()
    assert checkpoint.weights.keys() == expected.keys()
    assert all(torch.equal(checkpoint.weights[k], v) for k, v in expected.items())
    assert checkpoint.weights["blocks.0.linear.weight"].dtype == torch.float16
    assert checkpoint.about["input_resolution"] == 224


def rewritten(archive: Path, out: Path, change) -> Path:
    """The archive with `change(name, bytes)` applied to every entry; None leaves an entry out."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return out


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


class BuildsItself:
    """Unpickling calls the class, then hands it a state with the call inside."""

    def __init__(self, victim: Path) -> None:
        self.inner = Malicious(victim)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"a": [m]}])
def test_code_in_the_pickle_of_an_archive_never_runs(archive, tmp_path, wrap, protocol):
    victim = tmp_path / "owned"
    evil = pickle.dumps(wrap(Malicious(victim)), protocol=protocol)
    path = rewritten(archive, tmp_path / "evil.pt", lambda name, old: evil if name.endswith("/data.pkl") else old)
    with pytest.raises(UserError, match=r"refused.*mkdir") as caught:
        read_checkpoint(path)
    assert not victim.exists()
    assert "\n" not in str(caught.value)


def test_any_other_class_is_refused(archive, tmp_path):
    victim = tmp_path / "owned"
    evil = pickle.dumps(BuildsItself(victim), protocol=2)
    path = rewritten(archive, tmp_path / "evil.pt", lambda name, old: evil if name.endswith("/data.pkl") else old)
    with pytest.raises(UserError, match=r"refused.*BuildsItself"):
        read_checkpoint(path)
    assert not victim.exists()


def test_the_code_of_an_archive_is_not_even_looked_at(archive, tmp_path):
    garbage = rewritten(archive, tmp_path / "code.pt", lambda name, old: b"import os" if "/code/" in name else old)
    assert read_checkpoint(garbage).weights.keys() == read_checkpoint(archive).weights.keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda name, old: None if "/data/" in name else old,
        lambda name, old: old[:-2] if "/data/" in name else old,
        lambda name, old: old[:40] if name.endswith("/data.pkl") else old,
        lambda name, old: b"" if name.endswith("/data.pkl") else old,
        lambda name, old: None if name.endswith("/data.pkl") else old,
    ],
)
def test_a_damaged_archive_is_one_clear_line(archive, tmp_path, change):
    path = rewritten(archive, tmp_path / "damaged.pt", change)
    with pytest.raises(UserError, match=r"damaged\.pt") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_cannot_reach_beyond_its_storage(archive, tmp_path):
    def stretch(name: str, old: bytes) -> bytes:
        # The size (3,) of `steps` becomes (255,): BININT1 3, TUPLE1 in the arguments after the storage.
        return old.replace(b"K\x00(K\x03t", b"K\x00(K\xfft") if name.endswith("/data.pkl") else old

    with zipfile.ZipFile(archive) as content:
        entry = next(n for n in content.namelist() if n.endswith("/data.pkl"))
        assert stretch(entry, content.read(entry)) != content.read(entry)
    with pytest.raises(UserError, match="out of bounds"):
        read_checkpoint(rewritten(archive, tmp_path / "long.pt", stretch))
