"""The files of an evaluation: settings.json, one npz per view, results.jsonl, summary.json. Whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manyview import files
from manyview.errors import UserError
from manyview.files import load_arrays, save_arrays, write_json, write_lines, write_text
from manyview.workfolder import WorkFolder

__all__ = [
    "claim",
    "load_arrays",
    "read_json",
    "read_settings",
    "save_arrays",
    "write_json",
    "write_lines",
    "write_text",
]

SETTINGS = "settings.json"
OWN = (
    *("measured", "predictions", "training", "panels"),
    *("items.json", "results.jsonl", "summary.json", "summary.md", "report.html", "layers.svg"),
)


def claim(out: Path, settings: dict[str, Any], names: dict[str, str], *, overwrite: bool) -> None:
    """Make `out` the folder of these settings. Raises UserError when it belongs to others, or to something else."""
    folder = WorkFolder(out, "evaluation", SETTINGS, OWN)
    folder.claim(settings, overwrite=overwrite, part="settings", extra={"names": names})


def read_settings(out: Path) -> dict[str, Any]:
    """{"settings", "names"} of the evaluation in `out`."""
    file = out / SETTINGS
    if not file.is_file():
        raise UserError(f"{out} holds no evaluation (no {SETTINGS}); export one first")
    settings: dict[str, Any] = read_json(file)
    return settings


def read_json(path: Path) -> Any:
    return files.read_json(path, mend="run the evaluation again with --overwrite")
