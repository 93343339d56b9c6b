"""`manyview models` and `manyview convert` as a user types them."""

from __future__ import annotations

import json

import pytest
import torch

import manyview as mv
from manyview import zoo
from manyview.cli.main import main


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path / "home"))


@pytest.fixture
def checkpoint(tmp_path):
    state = zoo.export_official(zoo.build("distill3r", size="debug", seed=0))
    path = tmp_path / "student.ckpt"
    torch.save({"state_dict": {f"student.{k}": v for k, v in state.items()}}, path)
    return path


def test_models_lists_every_name(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in zoo.names())
    assert "next: " in out


def test_a_card_says_licence_and_how_to_get_it(capsys):
    assert main(["models", "distill3r"]) == 0
    out = capsys.readouterr().out
    assert "71,969,288" in out
    assert "licence" in out
    assert "manyview convert FILE --arch distill3r" in out


def test_models_as_json(capsys):
    assert main(["models", "dune-vits14-336", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert cards["dune-vits14-336"]["parameters"] == 28_262_016
    assert cards["dune-vits14-336"]["here"] is False


def test_an_unknown_model_exits_with_two(capsys):
    assert main(["models", "dune-vits14"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_convert_writes_a_directory_that_loads(checkpoint, tmp_path, capsys):
    out = tmp_path / "m"
    sets = ["--set", "taps=[0, 1, 2, 2]", "--set", "heads=2", "--set", "decoder_heads=2"]
    assert main(["convert", str(checkpoint), "--arch", "distill3r", "-o", str(out), *sets]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}" in printed
    assert "manyview reconstruct" in printed
    assert mv.load(out).config.taps == (0, 1, 2, 2)
    assert main(["convert", str(checkpoint), "--arch", "distill3r", "-o", str(out), *sets, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(out)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["wings=2"], "unknown option 'wings'"),
        (["heads"], "key=value"),
        (["taps=[1"], "cannot read"),
        (["dim=x"], "dim"),
    ],
)
def test_overrides_that_do_not_fit_exit_with_two(checkpoint, tmp_path, capsys, sets, message):
    arguments = [word for value in sets for word in ("--set", value)]
    assert (
        main(["convert", str(checkpoint), "--arch", "distill3r", "-o", str(tmp_path / "m"), *arguments]) == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
