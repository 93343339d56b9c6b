"""The house: imports point downwards, files stay small, importing is cheap, the public names are these."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import manyview

SRC = Path(manyview.__file__).parent

# folder (or top-level file) -> what it may import beside itself and layer 0
BASE = {"errors", "registry", "types", "config", "progress", "version", "files", "workfolder"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "registry": set(),
    "types": set(),
    "config": set(),
    "progress": set(),
    "version": set(),
    "files": set(),
    "workfolder": {"files"},
    "images": set(),
    "geometry": set(),
    "layers": set(),
    "models": {"geometry", "layers"},
    "losses": {"geometry"},
    "scene": {"images", "geometry"},
    "metrics": {"geometry"},
    "data": {"images", "geometry"},
    "zoo": {"geometry", "layers", "models"},
    "teachers": {"geometry", "models", "data", "zoo"},
    "cache": {"images", "geometry", "data"},
    "recipes": {"geometry", "models", "losses", "zoo", "data", "teachers", "cache"},
    "engine": set(),
    "pipelines": {
        "images",
        "geometry",
        "layers",
        "models",
        "scene",
        "metrics",
        "data",
        "zoo",
        "teachers",
        "cache",
        "recipes",
        "engine",
    },
    "studies": {
        "losses",
        "models",
        "data",
        "zoo",
        "teachers",
        "recipes",
        "engine",
        "pipelines",
        "evaluation",
    },
    "evaluation": {
        "images",
        "geometry",
        "models",
        "losses",
        "scene",
        "metrics",
        "data",
        "zoo",
        "cache",
        "pipelines",
    },
}
OF_A_FOLDER = {"__init__.py", "conftest.py"}
TOP = {"cli", "quickstart", "__init__", "__main__", "doctor"}


def folder_of(path: Path) -> str:
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def imported_folders(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "manyview":
                names = [f"manyview.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("manyview.")}
    return found - {"__version__"}


def test_every_import_points_downwards():
    wrong = []
    for path in sorted(SRC.rglob("*.py")):
        folder = folder_of(path)
        if folder in TOP:
            continue
        assert folder in ALLOWED, f"{path}: add {folder!r} to the layers of this test"
        base = BASE if folder not in BASE else {"errors", "registry"}
        extra = imported_folders(path) - ALLOWED[folder] - base - {folder}
        if extra:
            wrong.append(f"{path.relative_to(SRC)} may not import {sorted(extra)}")
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_an_upward_import(tmp_path):
    file = tmp_path / "loop.py"
    file.write_text("from manyview.recipes.base import RECIPES\nimport manyview.zoo\n")
    assert imported_folders(file) == {"recipes", "zoo"}


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_files_stay_under_400_lines(folder):
    root = SRC.parent.parent if folder == "src" else Path(__file__).parent.parent
    long = [
        (p.name, n) for p in (root / folder).rglob("*.py") if (n := len(p.read_text().splitlines())) > 400
    ]
    assert not long


def test_nothing_below_the_command_line_prints():
    printing = []
    for path in SRC.rglob("*.py"):
        if folder_of(path) in TOP:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(f"{path.relative_to(SRC)}:{node.lineno}")
    assert not printing


def test_no_evaluated_strings_or_unsafe_loads():
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path}:{node.lineno}"
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name == "torch.load":
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"


def test_public_names():
    assert sorted(manyview.__all__) == [
        "Cache", "Features", "Manifest", "Scene", "Signal", "UserError", "Views", "__version__",
        "features", "load", "metrics", "reconstruct", "train", "zoo",
    ]  # fmt: skip
    for name in manyview.__all__:
        assert getattr(manyview, name) is not None
    with pytest.raises(AttributeError):
        _ = manyview.no_such_name


def test_importing_the_package_and_help_import_nothing_heavy():
    code = "import sys, manyview, manyview.cli.main as m; m.build_parser(None); print('torch' in sys.modules)"
    start = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - start
    assert output.strip() == "False"
    assert seconds < 5  # typically 0.1; generous, because tests assert behaviour, not time


def test_every_test_file_has_a_name_of_its_own():
    """Folders of tests are no packages: two files of one name cannot be collected together."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name not in OF_A_FOLDER]
    assert sorted({name for name in names if names.count(name) > 1}) == []
