"""One thread per test process (two run side by side), no network, and where the optional real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MANYVIEW_OFFLINE", "1")

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
