"""The files of an evaluation: settings.json, one npz per view, results.jsonl, summary.json. Whole or not
there.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.files import write_atomically
from manyview.errors import UserError

SETTINGS = "settings.json"


def claim(out: Path, settings: dict[str, Any], names: dict[str, str], *, overwrite: bool) -> None:
    """Make `out` the folder of these settings. Raises UserError when it belongs to others, or to something
    else.
    """
    file = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder with -o")
    if file.is_file():
        known = read_json(file).get("settings", {})
        different = sorted(key for key in {*known, *settings} if known.get(key) != settings.get(key))
        if different and not overwrite:
            raise UserError(
                f"{out} holds an evaluation with another {', '.join(different)}; "
                "choose another folder with -o, or --overwrite"
            )
        if different or overwrite:
            _clear(out)
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no evaluation; choose another folder with -o")
    write_json(file, {"settings": settings, "names": names})


def _clear(out: Path) -> None:
    """Remove what an evaluation writes, and nothing else."""
    for folder in ("measured", "predictions", "training", "panels"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in (
        SETTINGS,
        "items.json",
        "results.jsonl",
        "summary.json",
        "summary.md",
        "report.html",
        "layers.svg",
    ):
        (out / name).unlink(missing_ok=True)


def read_settings(out: Path) -> dict[str, Any]:
    """{"settings", "names"} of the evaluation in `out`."""
    file = out / SETTINGS
    if not file.is_file():
        raise UserError(f"{out} holds no evaluation (no {SETTINGS}); export one first")
    return read_json(file)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A compressed npz, without pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getbuffer())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote. Raises UserError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise UserError(f"{path} is missing or damaged; delete it and run the same line again") from error


def write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(finite(value), indent=2) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged; run the evaluation again with --overwrite") from error


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line."""
    write_text(path, "".join(json.dumps(finite(row)) + "\n" for row in rows))


def finite(value: Any) -> Any:
    """NaN and infinities as null: JSON knows neither."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
