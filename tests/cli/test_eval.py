"""`manyview eval`: the list, one run, what it writes, and the user's mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from manyview import zoo
from manyview.cli.main import main
from manyview.data.manifest import Frame, Manifest


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A manifest of two posed frames with depth, and a model directory, in the current folder."""
    monkeypatch.chdir(tmp_path)
    frames = []
    for number in range(2):
        grey = np.random.default_rng(number).integers(0, 255, (56, 56), np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(tmp_path / f"{number}.png")
        Image.fromarray(grey.astype(np.uint16) + 900).save(tmp_path / f"{number}d.png")
        pose = tuple(np.eye(4).flatten().tolist())
        camera = (50.0, 50.0, 28.0, 28.0)
        frames.append(Frame("d", "s", str(number), "", f"{number}.png", 56, 56, *camera, pose, f"{number}d.png", 0.001))
    Manifest(frames, tmp_path).save(tmp_path / "test.parquet")
    zoo.save_model(zoo.build("manyview-tiny", size="debug", seed=0, image_size=56).eval(), tmp_path / "model")
    return tmp_path


RUN = ["eval", "recon-per-view", "--model", "model", "--data", "test.parquet", "--device", "cpu"]


def test_the_list_names_every_protocol(capsys):
    assert main(["eval", "--list"]) == 0
    assert "recon-per-view" in capsys.readouterr().out
    assert main(["eval", "--list", "--json"]) == 0
    assert "recon-per-view" in json.loads(capsys.readouterr().out)


def test_a_run_prints_tables_and_writes_files(place, capsys):
    assert main([*RUN, "--views", "2", "--json", "numbers.json", "-o", "out"]) == 0
    printed = capsys.readouterr().out
    assert "| model, 2 views together |" in printed
    assert "wrote out" in printed
    assert "next: " in printed
    summary = json.loads((place / "numbers.json").read_text())
    assert summary == json.loads((place / "out" / "summary.json").read_text())
    assert summary["model"] == "model"
    assert summary["scored"] == 2


def test_json_alone_goes_to_stdout_and_folders_follow_settings(place, capsys):
    for options in ([], ["--baselines"], ["--set", "views=1"]):
        assert main([*RUN, *options, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["protocol"] == "recon-per-view"
    assert len(list((place / "runs" / "eval").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "recon-per-vew", "--model", "model", "--data", "test.parquet"], "did you mean"),
        (["eval", "recon-per-view", "--data", "test.parquet"], "--model is missing"),
        (["eval", "recon-per-view", "--model", "model", "--data", "nowhere.parquet"], "does not exist"),
        ([*RUN, "--set", "vews=2"], "did you mean"),
        ([*RUN, "--views", "0"], "--views 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(place, capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
