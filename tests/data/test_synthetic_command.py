"""`manyview data synth`: what it writes and says, and its answers to mistakes."""

from __future__ import annotations

import json

import pytest

from manyview.cli.main import main
from manyview.data.manifest import Manifest

SMALL = ["--scenes", "2", "--views", "2", "--size", "24x32"]


def test_it_writes_a_manifest_and_names_the_next_command(tmp_path, capsys):
    out = tmp_path / "scenes"
    assert main(["data", "synth", str(out), *SMALL]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out / 'manifest.parquet'}: 2 scenes, 4 frames of 24x32" in said
    assert f"next: manyview cache build {out / 'manifest.parquet'}" in said
    manifest = Manifest.load(out / "manifest.parquet")
    assert {(frame.height, frame.width) for frame in manifest.frames} == {(24, 32)}


def test_json_and_the_options_reach_the_renderer(tmp_path, capsys):
    out = tmp_path / "scenes"
    options = ["--kind", "tabletop", "--trajectory", "orbit", "--seed", "3", "--normals", "--json"]
    assert main(["data", "synth", str(out), *SMALL, *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["scenes"], answer["frames"], answer["manifest"]) == (2, 4, str(out / "manifest.parquet"))
    content = json.loads((out / "scene_000001" / "cameras.json").read_text())
    assert (content["kind"], content["trajectory"]) == ("tabletop", "orbit")
    assert content["settings"]["seed"] == 3_000_001
    assert (out / "scene_000001" / "normals" / "0001.png").exists()


def test_sheet_and_report(tmp_path, capsys, monkeypatch):
    from manyview.data.synthetic import report

    sizes = {"columns": 3, "rows": 1, "size": (24, 32)}
    sheet = report.contact_sheet
    monkeypatch.setattr(report, "contact_sheet", lambda path, *, seed: sheet(path, seed=seed, **sizes))
    assert main(["data", "synth", "--contact-sheet", str(tmp_path / "sheet.jpg")]) == 0
    assert (tmp_path / "sheet.jpg").exists()
    assert main(["data", "synth", "--report", "--scenes", "2", "--views", "1"]) == 0
    said = capsys.readouterr().out
    assert "wall" in said
    assert "chance" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no OUT given"),
        (["OUT", "--size", "224"], "--size is '224'; write rows x columns"),
        (["OUT", "--size", "4x4"], "8x8 pixels"),
        (["OUT", "--views", "0"], "argument --views: 0 is out of range"),
        (["OUT", "--scenes", "0"], "argument --scenes: 0 is out of range"),
        (["OUT", "--kind", "rom"], "did you mean 'room'"),
        (["OUT", "--trajectory", "orbits"], "did you mean 'orbit'"),
        (["OUT", "--device", "abacus"], "use auto, cpu"),
        (["--contact-sheet", "OUT/sheet.gif"], ".jpg or .png"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, words, message):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    assert main(["data", "synth", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out" / "scene_000000").exists()
