"""The package that CONTRIBUTING.md shows is built, installed and used; a broken one harms nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyview
from manyview.scene.scene import Scene, SceneView, Source

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
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(target), str(folder)], check=True)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """A folder that holds the page's package, installed by pip."""
    root = tmp_path_factory.mktemp("lab")
    install(root / "site", root / "source", files_of_the_page())
    return root / "site"


def run(*words: object, path: Path, code: int = 0) -> str:
    """What a command prints, on both streams, with `path` among the installed packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(SRC)])}
    command = [sys.executable, "-m", "manyview", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


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
    assert "Our lab's lists of pictures" in run("data", "scan", "--format", "shots", "--help", path=target)
    scan = ["data", "scan", tmp_path / "walk.txt", "--format", "shots", "-o", tmp_path / "m.parquet"]
    assert "2 frames, 1 scene, images only" in run(*scan, path=target)
    assert "did you mean 'shots'" in run(*scan[:4], "shot", *scan[5:], path=target, code=2)


def test_its_exporter_writes_and_shows_its_options(target, tmp_path):
    scene().save(tmp_path / "scene")
    text = run("export", "--to", "xyz", "--help", path=target)
    assert "plain text: x y z" in text
    assert len(re.findall(r"--digits N\s+Digits after the decimal point. \(int; default 4\)", text)) == 1
    export = [
        "export",
        tmp_path / "scene",
        "--to",
        "xyz",
        "--digits",
        1,
        "--quantile",
        0,
        "-o",
        tmp_path / "points",
    ]
    assert f"wrote {tmp_path / 'points.xyz'}" in run(*export, path=target)
    assert (tmp_path / "points.xyz").read_text().splitlines()[0] == "0.5 0.5 1.0"


def test_a_broken_package_is_one_line(target, tmp_path):
    files = files_of_the_page()
    files["pyproject.toml"] = (
        files["pyproject.toml"].replace("manyview-lab", "broken-lab").replace("xyz", "glb")
    )
    files["manyview_lab.py"] = "import a_module_that_is_not_there\n"
    install(tmp_path / "site", tmp_path / "source", files)
    printed = run("export", "--help", path=tmp_path / "site")
    assert "glb: points and cameras" in printed
    lines = [line for line in printed.splitlines() if "broken-lab" in line]
    assert lines == ["broken-lab: export format 'glb' is left out: the name is taken"]
    printed = run("data", "scan", "--help", path=tmp_path / "site")
    assert "nerfstudio" in printed
    assert (
        len([line for line in printed.splitlines() if line.startswith("broken-lab: source format 'shots'")])
        == 1
    )
