"""What is printed is safe, what is written is asked for, and an interrupted or failed command says so in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.cli import main as cli
from manyview.cli.main import main
from manyview.cli.output import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mred.jpg", r"a\x1b[31mred.jpg"),
        ("a\x9b2J.jpg", r"a\x9b2J.jpg"),
        ("a\rb\x08.jpg", r"a\x0db\x08.jpg"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("Küche 台所 👁.jpg", "Küche 台所 👁.jpg"),
    ],
)
def test_names_never_steer_the_terminal(tmp_path, capsys, name, shown):
    assert printable(name) == shown
    assert printable("a\nb", one_line=True) == r"a\nb"
    assert main(["data", "scan", str(tmp_path / name), "--format", "folder", "-o", str(tmp_path / "m.parquet")]) == 2
    err = capsys.readouterr().err
    assert shown in err
    assert name == shown or name not in err
    assert len(err.splitlines()) == 1


def test_a_scan_of_odd_names_prints_them_safely_and_its_json_reads_back(tmp_path, capsys):
    folder = tmp_path / "fotos \x1b]0;mine\x07"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    (folder / "b\x1b[2J.jpg").write_bytes(b"no picture")
    line = ["data", "scan", str(folder), "--format", "folder", "-o", str(folder / "m.parquet")]
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert r"b\x1b[2J.jpg" in out + err
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"] == str(folder / "m.parquet")


@pytest.mark.parametrize("error", [OSError("17248 requested and 6112 written"), OSError(28, "No space left on device")])
def test_a_full_disk_is_one_line_that_names_the_place(tmp_path, capsys, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("manyview.data.sources.scan", full)
    monkeypatch.setattr(cli, "check_place", lambda _: None)
    place = tmp_path / "m.parquet"
    assert main(["data", "scan", str(tmp_path), "--format", "folder", "-o", str(place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"manyview data: {place}: no space left on the disk;")


@pytest.mark.parametrize("number", [5, 40, 116])
def test_any_error_of_the_system_is_one_line(tmp_path, capsys, monkeypatch, number):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number), "/somewhere/a.jpg")

    monkeypatch.setattr("manyview.data.sources.scan", fails)
    assert main(["data", "scan", str(tmp_path), "--format", "folder", "-o", str(tmp_path / "m.parquet")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "/somewhere/a.jpg" in line
    assert os.strerror(number).lower() in line


@pytest.mark.parametrize(
    "words",
    [
        "data synth OUT --scenes 0",
        "data synth OUT --views -3",
        "data synth OUT --workers 0",
        "eval linear-depth --model manyview-tiny --data m.parquet --workers -1",
        "features a.jpg --model manyview-tiny --size 0 -o OUT",
        "onnx manyview-tiny --batch -1 -o OUT.onnx",
        "train distill3r --steps 0 -o OUT",
        "train distill3r --seconds inf -o OUT",
        "train distill3r --seconds nan -o OUT",
        "study mum --minutes -5 -o OUT",
    ],
)
def test_numbers_out_of_range_are_refused_where_they_are_given(tmp_path, capsys, words):
    assert main([word.replace("OUT", str(tmp_path / "out")) for word in words.split()]) == 2
    assert "is out of range" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


STOPPED = """
import os, signal, sys
from manyview.cli import main
from manyview.data import sources
name = sys.argv.pop()
sources.scan = lambda *_, **__: os.kill(os.getpid(), getattr(signal, name))
raise SystemExit(main.main())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_any_command_with_one_line(tmp_path, name):
    words = ["data", "scan", str(tmp_path), "--format", "folder", "-o", str(tmp_path / "m.parquet"), name]
    done = subprocess.run([sys.executable, "-c", STOPPED, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130
    (line,) = done.stderr.splitlines()
    assert (
        line
        == "manyview data: interrupted; what was finished is kept, nothing is half written; run the same line again"
    )
    assert list(tmp_path.iterdir()) == []


def test_training_takes_no_folder_with_files_of_others(tmp_path, capsys):
    for name, text in (("config.json", '{"architectures": ["BertModel"]}'), ("thesis.tex", "years")):
        folder = tmp_path / Path(name).stem
        folder.mkdir()
        (folder / name).write_text(text)
        from manyview.config import RunConfig
        from manyview.engine.rundir import start
        from manyview.errors import UserError

        with pytest.raises(UserError, match="holds no run"):
            start(folder, RunConfig(), {"recipe": "toy"}, None)
        assert [path.read_text() for path in folder.iterdir()] == [text]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_names_that_are_no_text_go_through_every_command(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    zoo.save_model(zoo.build("manyview-tiny", size="debug"), tmp_path / "m")
    folder, scene = Path(os.fsdecode(b"odd\xff")), os.fsdecode(b"s\xfe")
    folder.mkdir()
    for seed, name in enumerate((b"a\xe9.png", "ü 日.png".encode(), b"-flag.png", b"a;b'\".png", b"new\nline.png")):
        pixels = np.random.default_rng(seed).integers(0, 255, (56, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / os.fsdecode(name))
    assert main(["reconstruct", str(folder), "-o", scene, "--model", "m", "--cameras", "model"]) == 0
    assert (Path(scene) / "report.html").is_file()
    for to in ("ply", "glb", "colmap", "nerfstudio"):
        assert main(["export", scene, "--to", to, "-o", os.fsdecode(b"e\xfd-") + to]) == 0, capsys.readouterr().err
    assert main(["features", str(folder), "--model", "m", "-o", "f"]) == 0
    assert main(["data", "scan", str(folder), "--format", "folder", "-o", "m.parquet"]) == 0
    assert "its name is not text in UTF-8; rename it" in capsys.readouterr().out
    assert main(["data", "check", "m.parquet"]) == 0
