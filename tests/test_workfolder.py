"""Folders that belong to one piece of work, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from manyview import files
from manyview.errors import UserError
from manyview.workfolder import WorkFolder, differences


def folder(path, **changes):
    return WorkFolder(path, "evaluation", "settings.json", ("results.jsonl", "maps*"), **changes)


def test_the_same_settings_go_on_and_others_are_refused_by_name_and_value(tmp_path):
    work = folder(tmp_path / "out")
    assert work.claim({"views": 2, "size": (3, 4)}) is False
    assert work.claim({"views": 2, "size": [3, 4]}) is True
    assert work.claim({"views": 3, "size": [3, 4]}) is False  # nothing has been done yet
    assert work.claim({"views": 2, "size": [3, 4]}) is False
    (tmp_path / "out/results.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"holds an evaluation with another views \(views = 2, not 5\).*--overwrite"):
        work.claim({"views": 5, "size": [3, 4]}, overwrite=False)
    with pytest.raises(UserError, match=r"choose another folder with -o$"):
        work.claim({"views": 5, "size": [3, 4]})
    assert work.read() == {"views": 2, "size": [3, 4]}


def test_overwriting_removes_what_the_work_wrote_and_nothing_else(tmp_path):
    work = folder(tmp_path)
    work.claim({"views": 2})
    (tmp_path / "results.jsonl").write_text("{}")
    (tmp_path / "maps-1").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert work.claim({"views": 3}, overwrite=True) is False
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "settings.json"]


def test_a_folder_of_somebody_else_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"not empty \(thesis.tex\) and holds no evaluation"):
        folder(tmp_path).claim({"views": 2}, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        folder(tmp_path / "thesis.tex").claim({"views": 2})


def test_a_damaged_record_is_told_and_kept(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="missing or damaged"):
        folder(tmp_path).claim({"views": 2})
    assert (tmp_path / "settings.json").read_text() == "{"


def test_settings_may_lie_beside_other_things_in_the_record(tmp_path):
    work = folder(tmp_path)
    work.claim({"views": 2}, part="settings", extra={"names": {"model": "a"}})
    assert work.claim({"views": 2}, part="settings", extra={"names": {"model": "b"}}) is True
    assert work.read() == {"settings": {"views": 2}, "names": {"model": "b"}}


def test_differences_are_dotted_and_some_may_differ():
    before = {"a": {"x": 1, "y": [1, 2]}, "b": 3, "place": "here"}
    assert differences(before, {"a": {"x": 1, "y": [1, 3]}, "b": 3, "place": "there"}, ("place",)) == ["a.y"]
    assert differences(before, {**before, "new": 1}) == ["new"]
    assert differences(before, {**before, "new": 1, "b": 4}, common=True) == ["b"]
    assert differences(before, {**before, "a": {"x": 2, "y": [1]}}, ("a.x",)) == ["a.y"]


HOLD = (
    "import sys, pathlib; from manyview.workfolder import WorkFolder as W\n"
    "with W(pathlib.Path(sys.argv[1]), 'run', 'r.json').lock():\n    print('held', flush=True); sys.stdin.read()"
)


def test_a_lock_keeps_a_second_process_out_until_the_first_one_is_killed(tmp_path):
    work = WorkFolder(tmp_path, "run", "r.json")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is at work"), work.lock():
        pass
    process.kill()
    process.wait()
    with work.lock():
        pass


def test_a_file_that_cannot_be_replaced_keeps_its_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"x": None}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        files.write_json(path, {"x": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == {"x": None}


def test_a_folder_whose_clearing_was_cut_off_is_still_ours(tmp_path, monkeypatch):
    work = folder(tmp_path)
    work.claim({"views": 2})
    (tmp_path / "maps-1").mkdir()

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            work.claim({"views": 3}, overwrite=True)
    assert work.claim({"views": 3}, overwrite=True) is False
    assert sorted(p.name for p in tmp_path.iterdir()) == ["settings.json"]


def test_a_folder_that_is_taken_loses_what_other_settings_made_and_keeps_its_own(tmp_path):
    work = folder(tmp_path)
    work.take({"source": "a"})
    (tmp_path / "maps-1").mkdir()
    work.take({"source": "a"})
    assert (tmp_path / "maps-1").is_dir()
    work.take({"source": "b"})
    assert not (tmp_path / "maps-1").exists()
    assert work.read() == {"source": "b"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("")
    with pytest.raises(UserError, match="holds no evaluation"):
        folder(tmp_path / "mine").take({"source": "a"})
