"""The package that CONTRIBUTING.md shows is built, installed and used; a broken one harms nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyview
from manyview import zoo
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
SRC = Path(manyview.__file__).parents[1]


def files_of_the_page() -> dict[str, str]:
    """Name -> text of the files in CONTRIBUTING.md."""
    page = CONTRIBUTING.read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL))


def install(target: Path, folder: Path, files: dict[str, str]) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(target), str(folder)], check=True)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """A folder that holds the page's package, installed by pip."""
    root = tmp_path_factory.mktemp("lab")
    install(root / "site", root / "source", files_of_the_page())
    return root / "site"


def run(*words: object, path: Path, code: int = 0) -> str:
    """What a command prints, on both streams, with `path` among the installed packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(SRC)]), "COLUMNS": "160"}
    command = [sys.executable, "-m", "manyview", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_package_is_short_and_complete():
    files = files_of_the_page()
    assert sorted(files) == ["manyview_lab.py", "pyproject.toml"]
    lines = [line for text in files.values() for line in text.splitlines() if line.strip()]
    assert len(lines) <= 50


def test_its_reader_scans(target, tmp_path):
    for name in "ab":
        Image.new("RGB", (4, 2)).save(tmp_path / f"{name}.png")
    (tmp_path / "walk.txt").write_text("a.png\nb.png\n")
    assert "shots" in run("data", "scan", "--help", path=target)
    assert "A text file of our lab" in run("data", "scan", "--format", "shots", "--help", path=target)
    scan = ["data", "scan", tmp_path / "walk.txt", "--format", "shots", "-o", tmp_path / "m.parquet"]
    assert "2 frames, 1 scene, images only" in run(*scan, path=target)
    assert "did you mean 'shots'" in run(*scan[:4], "shot", *scan[5:], path=target, code=2)


def test_its_protocol_judges_and_shows_its_options(target, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "walk.txt").write_text("a.png\nb.png\n")
    run("data", "scan", tmp_path / "walk.txt", "--format", "shots", "-o", tmp_path / "m.parquet", path=target)
    zoo.save_model(zoo.build("dinov2-vits14", size="debug", seed=0), tmp_path / "model")
    assert "how much an encoder's tokens differ" in run("eval", "--list", path=target)
    text = run("eval", "token-spread", "--help", path=target)
    assert len(re.findall(r"--side N\s+Side of the square that the encoder sees, in pixels", text)) == 1
    judge = ["eval", "token-spread", "--model", tmp_path / "model", "--data", tmp_path / "m.parquet"]
    printed = run(*judge, "--side", 28, "-o", tmp_path / "out", "--json", tmp_path / "n.json", path=target)
    assert "| spread |" in printed
    (row,) = json.loads((tmp_path / "n.json").read_text())["rows"]
    assert row["spread"] > 0
    assert row["items"] == 2


def test_a_broken_package_is_one_line(target, tmp_path):
    files = files_of_the_page()
    files["pyproject.toml"] = (
        files["pyproject.toml"].replace("manyview-lab", "broken-lab").replace("token-spread", "matching-probe")
    )
    files["manyview_lab.py"] = "import a_module_that_is_not_there\n"
    install(tmp_path / "site", tmp_path / "source", files)
    printed = run("eval", "--list", path=tmp_path / "site")
    assert "recon-per-view" in printed
    lines = [line for line in printed.splitlines() if "broken-lab" in line]
    assert lines == ["broken-lab: protocol 'matching-probe' is left out: the name is taken"]
    printed = run("data", "scan", "--help", path=tmp_path / "site")
    assert "nerfstudio" in printed
    assert len([line for line in printed.splitlines() if line.startswith("broken-lab: source format 'shots'")]) == 1


def scene() -> Scene:
    view = SceneView(
        "a.png",
        np.zeros((2, 3, 3), np.uint8),
        np.ones((2, 3), np.float32),
        np.ones((2, 3), np.float32),
        np.eye(3),
        np.eye(4),
        Source((2, 3), np.eye(3), np.eye(3), pixels=np.zeros((2, 3, 3), np.uint8)),
    )
    return Scene([view], info={"model": "none", "agreement": {}, "skipped": [], "warnings": []})


EVERYTHING = '''
"""A recipe, a protocol, an export format, a teacher and a model."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from manyview.config import RunConfig
from manyview.evaluation.base import Number, Protocol
from manyview.files import fresh_file
from manyview.models.family import FAMILIES
from manyview.recipes.base import Preset, Recipe
from manyview.scene.exporters import Exporter
from manyview.teachers.base import Teacher


@dataclass(frozen=True, kw_only=True)
class Config:
    colours: int = 3
    """How many colours it learns."""


class Painting(Recipe):
    Config = Config

    @staticmethod
    def presets():
        """`short`: a try."""
        return {"short": Preset(method=Config(), run=RunConfig(steps=7))}


@dataclass(frozen=True, kw_only=True)
class Beauty(Protocol):
    name: ClassVar[str] = "beauty"
    line: ClassVar[str] = "how beautiful the answers are"
    numbers: ClassVar[tuple[Number, ...]] = ()
    eyes: int = 2
    """Eyes of the beholder."""

    def choose(self, model, data, work):
        return []

    def judge(self, item, answer, truth):
        return {}


@dataclass(frozen=True, kw_only=True)
class Xyz(Exporter):
    line: ClassVar[str] = "plain text: x y z of one point a line"
    suffix: ClassVar[str] = ".xyz"
    digits: int = 4
    """Digits after the decimal point."""

    def write(self, scene, path):
        xyz, _ = scene.points(min_confidence=self.min_confidence, quantile=self.quantile)
        with fresh_file(path) as temporary:
            np.savetxt(temporary, xyz, fmt=f"%.{self.digits}f")
        return path


class Oracle(Teacher):
    name = "oracle"
    licence = "free"

    def __call__(self, views):
        return {}


FAMILY = replace(FAMILIES.get("dinov2"), presets={"lab-vit": FAMILIES.get("dinov2").presets["dinov2-vits14"]}, cards="")
THIEF = replace(FAMILIES.get("dinov2"), presets={"dinov2-vits14": FAMILY.presets["lab-vit"]}, cards="")
NO_CARD = replace(FAMILY, presets={"lab-vit-b": FAMILY.presets["lab-vit"]}, cards="lab_all")
'''


def registered(site: Path, module: str, points: dict[str, dict[str, str]]) -> Path:
    """A package as it lies there when pip is done with it."""
    info = site / "lab_all-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "lab_all.py").write_text(module, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-all\nVersion: 1.0\n")
    groups = [
        "\n".join([f"[manyview.{group}]", *(f"{name} = lab_all:{value}" for name, value in entries.items())])
        for group, entries in points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return site


def test_every_kind_shows_up_in_lists_and_help(tmp_path):
    points = {
        "recipes": {"painting": "Painting"},
        "protocols": {"beauty": "Beauty"},
        "exporters": {"xyz": "Xyz"},
        "teachers": {"oracle": "Oracle"},
        "models": {"lab": "FAMILY", "thief": "THIEF", "no-card": "NO_CARD"},
    }
    site = registered(tmp_path / "site", EVERYTHING, points)
    listed = run("train", "--list", path=site)
    assert "painting: A recipe, a protocol, an export format, a teacher and a model." in listed
    assert "distill3r: " in listed
    text = run("train", "painting", "--help", path=site)
    assert "`short`: a try." in text
    assert len(re.findall(r"--method.colours N\s+How many colours it learns. \(int; default 3\)", text)) == 1
    assert re.search(r"^beauty +how beautiful the answers are$", run("eval", "--list", path=site), re.MULTILINE)
    assert "Eyes of the beholder. (int; default 2)" in run("eval", "beauty", "--help", path=site)
    error = run("cache", "build", "m.parquet", "--teacher", "oracel", "-o", tmp_path / "c", path=site, code=2)
    assert "did you mean 'oracle'" in error
    models = run("models", path=site)
    assert re.search(r"^lab-vit .* a lab network$", models, re.MULTILINE)
    assert re.search(r"^lab-vit-b ", models, re.MULTILINE)
    assert re.search(r"^dinov2-vits14 +22.1M +permissive", models, re.MULTILINE)
    assert "lab-all: model family 'thief' is left out: the name 'dinov2-vits14' is taken" in models
    assert "lab_all: its card.toml cannot be read" in models
    assert "licence" in run("models", "lab-vit", path=site)
    scene().save(tmp_path / "scene")
    assert "--digits N" in run("export", "--to", "xyz", "--help", path=site)
    export = ["export", tmp_path / "scene", "--to", "xyz", "--digits", 1, "--quantile", 0, "-o", tmp_path / "points"]
    assert f"wrote {tmp_path / 'points.xyz'}" in run(*export, path=site)
    assert (tmp_path / "points.xyz").read_text().splitlines()[0] == "0.5 0.5 1.0"
