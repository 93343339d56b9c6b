"""The house: imports point downwards, files stay small, importing is cheap, the public names are these."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import manyview
from import_circles import circles, imports, joined

SRC = Path(manyview.__file__).parent

# folder (or top-level file) -> what it may import beside itself and layer 0
BASE = {"errors", "hardware", "registry", "types", "config", "progress", "version", "files", "workfolder", "written"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "hardware": set(),
    "registry": set(),
    "types": set(),
    "config": set(),
    "progress": set(),
    "version": set(),
    "files": set(),
    "written": {"files"},
    "workfolder": {"files"},
    "images": set(),
    "geometry": set(),
    "layers": set(),
    "models": {"geometry", "layers"},
    "losses": {"geometry"},
    "cameras": {"geometry"},
    "pages": set(),
    "scene": {"images", "geometry", "cameras", "pages", "zoo"},
    "viewer": {"geometry", "pages", "scene"},
    "metrics": {"geometry"},
    "data": {"images", "geometry"},
    "zoo": {"geometry", "layers", "models"},
    "teachers": {"images", "geometry", "models", "data", "zoo", "cache"},
    "cache": {"images", "geometry", "data"},
    "batches": {"geometry", "images", "data", "cache"},
    "recipes": {"batches", "geometry", "models", "losses", "zoo", "data", "teachers", "cache"},
    "engine": set(),
    "pipelines": {
        "pages",
        "cameras",
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
        "cache",
        "losses",
        "models",
        "data",
        "zoo",
        "teachers",
        "recipes",
        "engine",
        "pipelines",
        "evaluation",
        "pages",
    },
    "evaluation": {
        "engine",
        "pages",
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
    return found


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


def test_the_map_of_folders_has_no_circle():
    whole = {folder: allowed & set(ALLOWED) for folder, allowed in ALLOWED.items()}
    assert [sorted(circle) for circle in circles(whole)] == []


def test_no_module_imports_itself_through_others():
    assert [sorted(circle) for circle in circles(imports(SRC, deferred=False))] == []


def test_no_import_within_a_function_hides_a_circle():
    """One that is put off until a function runs makes a circle all the same."""
    whole = joined(imports(SRC, deferred=False), imports(SRC, deferred=True))
    assert [sorted(circle) for circle in circles(whole)] == []


TOY = {
    "toy/__init__.py": "from toy.version import __version__",
    "toy/version.py": "__version__ = '1'",
    "toy/low/__init__.py": "",
    "toy/low/shape.py": "import math\n\nimport toy.version\n",
    "toy/high/__init__.py": "from toy.high.draw import draw",
    "toy/high/draw.py": "from toy.low import shape\nfrom toy.low.shape import area",
}


@pytest.mark.parametrize(
    ("file", "text", "at_once", "through_functions"),
    [
        ("toy/low/extra.py", "import toy.high", [], []),
        ("toy/low/shape.py", "from toy.high import draw", [["high.draw", "low.shape"]], []),
        ("toy/low/shape.py", "import toy.high.draw as d", [["high.draw", "low.shape"]], []),
        ("toy/low/shape.py", "import toy.high", [["high", "high.draw", "low.shape"]], []),
        ("toy/version.py", "from toy import name", [["", "version"]], []),
        (
            "toy/low/shape.py",
            "try:\n    import toy.high.draw\nexcept ImportError:\n    pass",
            [["high.draw", "low.shape"]],
            [],
        ),
        ("toy/low/shape.py", "class A:\n    from toy.high.draw import area", [["high.draw", "low.shape"]], []),
        ("toy/low/shape.py", "def f():\n    from toy.high import draw", [], [["high.draw", "low.shape"]]),
        (
            "toy/low/shape.py",
            "class A:\n    async def f(self):\n        import toy.high.draw",
            [],
            [["high.draw", "low.shape"]],
        ),
        ("toy/low/shape.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import toy.high.draw", [], []),
        (
            "toy/low/shape.py",
            "import typing\nif typing.TYPE_CHECKING:\n    x = 1\nelse:\n    import toy.high.draw",
            [["high.draw", "low.shape"]],
            [],
        ),
    ],
)
def test_the_check_sees_circles(tmp_path, file, text, at_once, through_functions):
    for name, content in {**TOY, file: text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    now, later = (imports(tmp_path / "toy", deferred=deferred) for deferred in (False, True))

    def names(groups: list[frozenset[str]]) -> list[list[str]]:
        return [sorted(name.removeprefix("toy").removeprefix(".") for name in group) for group in groups]

    assert names(circles(now)) == at_once
    assert names(circles(joined(now, later))) == at_once + through_functions


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_files_stay_under_400_lines(folder):
    root = SRC.parent.parent if folder == "src" else Path(__file__).parent.parent
    long = [(p.name, n) for p in (root / folder).rglob("*.py") if (n := len(p.read_text().splitlines())) > 400]
    assert not long


def test_what_lies_beside_the_tests_is_small():
    """No photos or weights: what a test needs it makes, or reads from a folder outside the package."""
    most = {".jpg": 2_000, ".png": 2_000, ".zip": 10_000, ".npz": 50_000}  # of old files that must still open
    most |= dict.fromkeys((".py", ".json", ".jsonl", ".csv", ".txt", ".toml", ".md", ".parquet"), 100_000)
    folder = Path(__file__).parent
    beside = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert [p.name for p in beside if p.stat().st_size > most.get(p.suffix, 0)] == []


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


OPENED_ELSEWHERE = {
    "scene/store.py": "a scene's own pictures, which it wrote itself",
    "pipelines/attention.py": "the note in a picture that it wrote itself",
    "data/depths.py": "depth maps",
}


def test_pictures_are_decoded_in_one_place():
    """What a transparent, turned or 16-bit picture shows is decided in manyview.images, and nowhere else."""
    opening = set()
    for path in SRC.rglob("*.py"):
        if folder_of(path) == "images":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        if names & {"Image.open", "cv2.imread", "cv2.VideoCapture", "cv2.imdecode"}:
            opening.add(path.relative_to(SRC).as_posix())
    assert opening == set(OPENED_ELSEWHERE)


def test_public_names():
    assert sorted(manyview.__all__) == [
        "Cache",
        "FeatureOptions",
        "FeatureSet",
        "Features",
        "Manifest",
        "ReconstructOptions",
        "Scene",
        "Signal",
        "UserError",
        "Views",
        "__version__",
        "features",
        "load",
        "localise",
        "locate",
        "metrics",
        "reconstruct",
        "train",
        "zoo",
    ]
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
