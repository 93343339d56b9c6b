"""`manyview doctor`: true of this machine, readable by a program, and not content where a package is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import tomllib
from pathlib import Path

import pytest
import torch

import manyview
from manyview.cli import doctor
from manyview.cli.main import main

NOT_LISTED = {"dev"}  # extras for those who work on the package


def report(capsys) -> tuple[int, dict]:
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_it_says_is_true(capsys):
    code, words = report(capsys)
    assert code == 0
    assert words["manyview"] == manyview.__version__
    assert words["python"] == platform.python_version()
    assert words["threads"] == torch.get_num_threads()
    assert len(words["gpus"]) == torch.cuda.device_count()
    assert words["versions"]["torch"] == importlib.metadata.version("torch")
    assert "missing" not in words["versions"].values()
    assert words["optional"]["pycolmap"] == (importlib.util.find_spec("pycolmap") is not None)
    assert "manyview-tiny" in words["models_here"]
    assert words["free_disk_gb"] > 0
    assert Path(words["bundled_model"]).stat().st_size > 1e6


def test_the_page_for_people_says_the_same(capsys):
    _, words = report(capsys)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "next: manyview quickstart"
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[:-1]}
    assert said["manyview"] == words["manyview"]
    assert said["scipy"] == words["versions"]["scipy"]
    assert all((said[name] == "yes") == here for name, here in words["optional"].items())


@pytest.fixture
def without_scipy(monkeypatch) -> None:
    version = importlib.metadata.version

    def asked(name: str) -> str:
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", asked)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_missing_package_is_named_and_is_a_failure(without_scipy, capsys, options):
    assert main(["doctor", *options]) == 1
    out = capsys.readouterr().out
    if options:
        assert json.loads(out)["versions"]["scipy"] == "missing"
    else:
        assert [line.split() for line in out.splitlines() if "scipy" in line] == [["scipy", "missing"]]
        assert "quickstart" not in out


def test_an_optional_package_that_is_missing_comes_with_the_command_that_installs_it(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "pycolmap" else find(name))
    assert main(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "pycolmap" in line]
    assert line.split()[:2] == ["pycolmap", "no:"]
    assert "pip install 'manyview[sfm]'" in line


def test_a_package_without_its_bundled_model_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(manyview, "__file__", str(tmp_path / "__init__.py"))
    _, words = report(capsys)
    assert words["bundled_model"] is None


def test_every_extra_is_in_its_list():
    """A new extra in pyproject.toml must be told here, and what is told must be an extra."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    told = {text.partition("manyview[")[2].partition("]")[0] for text in doctor.OPTIONAL.values()}
    assert told == set(extras) - NOT_LISTED
