"""`manyview models` and `manyview convert` as a user types them."""

from __future__ import annotations

import io
import json
import sys

import pytest
import torch

import manyview as mv
from manyview import UserError, zoo
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


@pytest.fixture
def downloads(monkeypatch, tmp_path) -> list[tuple[str, bool]]:
    """Downloads are noted, with what the question was answered; nothing is fetched."""
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path))
    asked = []

    def download(name, out, *, accept):
        asked.append((name, accept(zoo.CARDS[name])))
        if not asked[-1][1]:
            raise UserError("not accepted")
        return out

    monkeypatch.setattr(zoo, "download", download)
    return asked


def test_a_download_shows_the_licence_and_asks(downloads, monkeypatch, capsys):
    for answer, accepted in (("y\n", True), ("\n", False), ("no\n", False)):
        stdin = io.StringIO(answer)
        stdin.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["models", "mast3r-vitl16", "--download"]) == (0 if accepted else 2)
        printed = capsys.readouterr()
        assert "CC BY-NC-SA 4.0: non-commercial" in printed.err
        assert downloads.pop() == ("mast3r-vitl16", accepted)
        assert ("manyview reconstruct" in printed.out) == accepted


def test_a_download_without_anybody_to_ask_needs_yes(downloads, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["models", "mast3r-vitl16", "--download"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert main(["models", "mast3r-vitl16", "--download", "--yes", "--json"]) == 0
    printed = capsys.readouterr()
    assert "CC BY-NC-SA" in printed.err
    assert json.loads(printed.out)["new"] is True


def test_what_is_here_is_not_downloaded_again(downloads, capsys):
    zoo.save_model(zoo.build("dinov2-vits14", size="debug"), zoo.models_folder() / "dinov2-vits14")
    assert main(["models", "dinov2-vits14", "--download"]) == 0
    assert "here already" in capsys.readouterr().out
    assert downloads == []
    assert main(["models", "dinov2-vits14"]) == 0
    assert "next: manyview features photos/" in capsys.readouterr().out
    assert main(["models", "--download"]) == 2
    assert "needs a name" in capsys.readouterr().err


def test_the_list_says_licence_class_and_what_is_here(capsys):
    assert main(["models"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["manyview-tiny"][1:4] == ["5.8M", "permissive", "here"]
    assert lines["mast3r-vitl16"][1:3] == ["688.6M", "restricted"]


def test_convert_puts_an_encoder_in(tmp_path, capsys):
    student = zoo.export_official(zoo.build("distill3r", size="debug", seed=0))
    file, dune = tmp_path / "headless.pth", tmp_path / "dune"
    torch.save({k: v for k, v in student.items() if not k.startswith("encoder.")}, file)
    zoo.save_model(zoo.build("dune-vits14-448", size="debug"), dune, zoo.CARDS["dune-vits14-448"])
    sets = ["--set", "taps=[0, 1, 2, 2]", "--set", "heads=2", "--set", "decoder_heads=2"]
    command = ["convert", str(file), "--arch", "distill3r", "-o", str(tmp_path / "m"), *sets]
    assert main(command) == 2
    assert "--set encoder=" in capsys.readouterr().err
    assert main([*command, "--set", f"encoder={dune}"]) == 0
    printed = capsys.readouterr().out
    assert "licence of distill3r" in printed
    assert "licence of dune-vits14-448: NAVER" in printed


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
    assert main(["convert", str(checkpoint), "--arch", "distill3r", "-o", str(tmp_path / "m"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
