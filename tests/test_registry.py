"""Registries: nearest names, duplicates, and entries of other installed packages through entry points."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from manyview.errors import UserError
from manyview.registry import Registry


class Base:
    pass


class Ours(Base):
    pass


def installed(folder: Path, name: str, entries: dict[str, str], module: str) -> None:
    """A package as pip leaves it: one module and the metadata that names its entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{entry} = {value}" for entry, value in entries.items())
    (info / "entry_points.txt").write_text(f"[tests.things]\n{lines}\n")
    (folder / f"{name}.py").write_text(textwrap.dedent(module))


def test_guesses_and_refuses_duplicates():
    things: Registry[int] = Registry("thing")
    things.add("alpha")(1)
    assert things.get("alpha") == 1
    with pytest.raises(UserError, match=r"no thing 'alhpa'; did you mean 'alpha'"):
        things.get("alhpa")
    with pytest.raises(KeyError):
        things.add("alpha")(2)


def test_another_package_brings_entries(tmp_path, monkeypatch):
    installed(tmp_path, "lab_good", {"theirs": "lab_good:make"}, "def make():\n    return 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry = Registry("thing", group="tests.things")
    things.add("ours")(print)
    assert things.names() == ["ours", "theirs"]
    assert things.get("theirs")() == 3


def test_what_cannot_be_used_is_left_out_with_one_line_that_names_the_package(tmp_path, monkeypatch, caplog):
    entries = {
        "fine": "lab_mixed:Fine",
        "ours": "lab_mixed:Fine",
        "number": "lab_mixed:NUMBER",
        "instance": "lab_mixed:AN_INSTANCE",
        "missing": "lab_mixed:Nothing",
        "module": "lab_absent:Thing",
    }
    module = "import test_registry\nclass Fine(test_registry.Base): pass\nNUMBER = 3\nAN_INSTANCE = Fine()\n"
    installed(tmp_path, "lab_mixed", entries, module)
    installed(tmp_path, "lab_broken", {"broken": "lab_broken:Thing"}, "raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])
    things: Registry = Registry("thing", group="tests.things", subclass_of=Base)
    things.add("ours")(Ours)
    with caplog.at_level(logging.WARNING):
        assert things.names() == ["fine", "ours"]
    assert things.get("ours") is Ours
    said = {record.args[2]: record.getMessage() for record in caplog.records}
    assert sorted(said) == ["broken", "instance", "missing", "module", "number", "ours"]
    assert said["ours"] == "lab_mixed: thing 'ours' is left out: the name is taken"
    assert "no subclass of Base" in said["number"]
    assert "no subclass of Base" in said["instance"]
    assert said["broken"].startswith("lab_broken: thing 'broken'")
    assert said["broken"].endswith("RuntimeError: two lines")
    assert "Nothing" in said["missing"]
    assert "lab_absent" in said["module"]
    caplog.clear()
    things.names()
    assert not caplog.records  # said once


def test_a_broken_package_is_one_line_on_stderr_of_a_command(tmp_path):
    installed(tmp_path, "lab_broken", {}, "")
    (tmp_path / "lab_broken-1.0.dist-info/entry_points.txt").write_text("[manyview.readers]\nours = lab_absent:scan\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from manyview.cli.main import main; main()"
    command = [sys.executable, "-c", code, "data", "scan", str(tmp_path), "--format", "floder", "-o", "m.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    warning, error = done.stderr.strip().splitlines()
    assert warning.startswith("lab_broken: source format 'ours' is left out: lab_absent:scan cannot be imported")
    assert "did you mean 'folder'" in error
