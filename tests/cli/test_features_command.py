"""`manyview features` and `manyview onnx` as a user types them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from manyview import zoo
from manyview.cli import main as program
from manyview.cli.features import parse_layers
from manyview.cli.main import main
from manyview.config import parse_size
from manyview.errors import UserError


@pytest.fixture(autouse=True)
def _listed(monkeypatch):
    for name in ("features", "onnx"):
        monkeypatch.setitem(program.COMMANDS, name, "")


@pytest.fixture
def model(tmp_path):
    card = {"licence": "CC BY-NC"}
    return str(zoo.save_model(zoo.build("dune-vits14-336", size="debug", seed=0), tmp_path / "model", card))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        values = np.random.default_rng(index).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((80, 60)).save(folder / f"{index}.jpg")
    return str(folder)


def test_a_folder_with_everything(model, photos, tmp_path, capsys):
    out = str(tmp_path / "out")
    words = ["features", photos, "--model", model, "-o", out, "--size", "56", "--layers", "all", "--pca", "--half"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}/" in printed
    assert "CC BY-NC" in printed
    assert "layers.1.patches" in printed
    assert "components" in printed
    assert "next:" in printed
    assert sorted(p.name for p in (tmp_path / "out" / "pca").glob("*.png")) == ["0.jpg.png", "1.jpg.png", "2.jpg.png"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 3
    assert report["first"]["arrays"]["layers.0.patches"] == [3, 4, 8]
    assert report["first"]["dtype"] == "float16"


def test_what_it_suggests_next_is_the_same_line_with_pictures(model, photos, tmp_path, capsys):
    out = str(tmp_path / "out")
    words = ["features", photos, "--model", model, "-o", out, "--project", "dinov2", "--size", "56", "--raw"]
    assert main([*words, "--json"]) == 0
    suggested = json.loads(capsys.readouterr().out)["next"][-1].split()
    assert suggested[0] == "manyview"
    assert main(suggested[1:]) == 0  # it runs, and goes on in the same folder
    assert (tmp_path / "out" / "pca.png").is_file()


def test_broken_pictures_are_named_on_stderr(model, photos, tmp_path, capsys):
    (tmp_path / "photos" / "1.jpg").write_bytes(b"no picture")
    assert main(["features", photos, "--model", model, "-o", str(tmp_path / "out"), "--size", "56"]) == 0
    assert "left out: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "first"], "--layers takes block numbers"),
        (["--layers", "7"], "no block 7"),
        (["--project", "sam"], "no projector 'sam'"),
        (["--fps", "2"], "--fps is for videos"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--batch", "0"], "from 1 up"),
    ],
)
def test_mistakes_are_one_line(model, photos, tmp_path, capsys, words, message):
    out = tmp_path / "out"
    assert main(["features", photos, "--model", model, "-o", str(out), "--size", "56", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_folder_and_other_settings(model, photos, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["features", str(tmp_path / "nowhere"), "--model", model, "-o", out]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["features", photos, "--model", model, "-o", out, "--size", "56"]) == 0
    assert main(["features", photos, "--model", model, "-o", out, "--size", "56", "--raw"]) == 2
    error = capsys.readouterr().err
    assert "norm = True, not False" in error
    assert "--overwrite" not in error  # there is no such option for the folder of features


def test_layers_and_sizes_are_read_from_words():
    assert parse_layers(None) is None
    assert parse_layers("all") == "all"
    assert parse_layers("2,5,-1") == [2, 5, -1]
    assert parse_size("224x308", "--size") == (224, 308)
    with pytest.raises(UserError, match="rows x columns"):
        parse_size("224", "--size")


def test_onnx_says_what_is_wrong_before_it_works(model, tmp_path, capsys):
    assert main(["onnx", model, "-o", str(tmp_path / "m.bin")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
    assert main(["onnx", model, "-o", str(tmp_path / "m.onnx"), "--size", "big"]) == 2
    assert "--size is 'big'" in capsys.readouterr().err
