"""What is installed: one version, every file that is no module, no dependency that nothing imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import manyview
from manyview.cli.main import main
from manyview.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Distribution -> what is imported, where the two differ.
IMPORTED_AS = {"pillow": "PIL", "opencv-python-headless": "cv2", "pyyaml": "yaml"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built offline from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src/manyview", folder / "src/manyview", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "-w", str(folder / "out"), str(folder)], check=True)
    return zipfile.ZipFile(next((folder / "out").glob("*.whl")))


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src/manyview").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - set(wheel.namelist()) == set()
    assert {
        "manyview/py.typed",
        *(f"manyview/assets/manyview-{size}/model.safetensors" for size in ("tiny", "small", "small-words")),
    } <= files


def test_one_version(wheel, capsys):
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    assert f"\nVersion: {__version__}\n" in wheel.read(metadata).decode()
    assert manyview.__version__ == __version__
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"manyview {__version__}\n"


def test_the_script_and_the_module_are_the_same_program():
    assert PROJECT["scripts"] == {"manyview": "manyview.cli.main:main"}
    text = (ROOT / "src/manyview/__main__.py").read_text(encoding="utf-8")
    assert "from manyview.cli.main import main" in text


def test_every_dependency_is_imported_somewhere():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for requirement in PROJECT["dependencies"]:
        name = re.match(r"[\w.-]+", requirement)[0]
        module = IMPORTED_AS.get(name, name)
        assert re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE), name
