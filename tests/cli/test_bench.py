"""`manyview bench`: lists, runs and writes the benchmarks of a checkout; what cannot be is said before measuring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manyview import written
from manyview.cli import bench
from manyview.cli.main import main

STEADY = '''"""Steps per second of a march.

More words.
"""
from pathlib import Path


def run(json_path=None):
    (Path(__file__).parent / "ran").touch()
    return {"steps": [1.5, 2.5], "ratio": 2}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of two benchmarks: one to run, one with arguments of its own that must not run to be listed."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/steady.py").write_text(STEADY)
    (tmp_path / "benchmarks/alone.py").write_text('"""A page.\n"""\nraise SystemExit("it ran")\n')
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "benchmarks")
    return tmp_path / "benchmarks"


def refused(capsys, *words: str) -> str:
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("manyview bench: ")
    return line


def test_it_lists_them_without_running_any(folder, capsys):
    assert main(["bench"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert rows.pop(0) == ["benchmark", "what it measures"]
    assert rows == [["alone", "A page."], ["steady", "Steps per second of a march."], ["next:", "manyview bench NAME"]]
    assert not (folder / "ran").exists()


def test_numbers_go_to_stdout_and_into_a_file(folder, tmp_path, capsys):
    for words in (["steady"], ["steady", "--json"]):
        assert main(["bench", *words]) == 0
        assert json.loads(capsys.readouterr().out)["ratio"] == 2
    assert main(["bench", "steady", "--json", str(tmp_path / "new/numbers.json")]) == 0
    assert json.loads((tmp_path / "new/numbers.json").read_text()) == {"steps": [1.5, 2.5], "ratio": 2}


def test_an_unknown_one_is_answered_with_the_nearest(folder, capsys):
    assert "steady" in refused(capsys, "stedy")


def test_a_script_with_arguments_of_its_own_is_said_to_be_one(folder, capsys):
    (folder / "alone.py").write_text('"""A page."""\n')
    assert f"python {folder / 'alone.py'} --help" in refused(capsys, "alone")


@pytest.mark.parametrize("place", ["", "benchmarks/steady.py/numbers.json"])
def test_a_place_that_cannot_be_written_is_refused_before_measuring(folder, tmp_path, capsys, place):
    assert "--json" in refused(capsys, "steady", "--json", str(tmp_path / place))
    assert not (folder / "ran").exists()


def test_a_closed_folder_is_refused_before_measuring(folder, tmp_path, monkeypatch, capsys):
    """The superuser may write everywhere, so the system's answer is given here."""

    def closed(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(written.tempfile, "TemporaryFile", closed)
    assert "--json" in refused(capsys, "steady", "--json", str(tmp_path / "numbers.json"))
    assert not (folder / "ran").exists()


def test_a_file_that_holds_something_else_is_kept_and_told_before_measuring(folder, tmp_path, capsys):
    (tmp_path / "notes.json").write_text('["mine"]')
    assert "--overwrite" in refused(capsys, "steady", "--json", str(tmp_path / "notes.json"))
    assert not (folder / "ran").exists()
    assert (tmp_path / "notes.json").read_text() == '["mine"]'
    assert main(["bench", "steady", "--json", str(tmp_path / "notes.json"), "--overwrite"]) == 0


def test_the_list_is_readable_by_a_program(folder, capsys):
    assert main(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"alone": "A page.", "steady": "Steps per second of a march."}


def test_without_a_checkout_there_are_none(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "nothing")
    assert "checkout" in refused(capsys, "steady")


def test_those_of_this_checkout_are_listed(capsys):
    assert main(["bench"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["render"].startswith("Speed of the procedural renderer")
    assert set(rows) == {"benchmark", "next:", *(path.stem for path in bench.FOLDER.glob("*.py"))}
