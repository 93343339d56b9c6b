"""One thread per test process (two run side by side), no network, and where the optional real data lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manyview import hardware

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MANYVIEW_OFFLINE", "1")

# The same numbers on every machine: what computes natively in bfloat16 is told so where a test is about that.
hardware._cpu_bf16 = lambda: False

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """The optional folder with real data and golden cases: $MANYVIEW_SHARED or ../shared."""
    path = Path(os.environ.get("MANYVIEW_SHARED", ROOT.parent / "shared"))
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    path = shared_folder()
    if path is None:
        pytest.skip("needs the folder of real data (set MANYVIEW_SHARED)")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, with WebGL in software; $MANYVIEW_BROWSER=required makes its absence a failure."""
    missing = pytest.fail if os.environ.get("MANYVIEW_BROWSER") == "required" else pytest.skip
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("needs a browser: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("needs playwright, which drives the browser: pip install 'manyview[dev]'")
    flags = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()
