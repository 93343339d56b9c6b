"""A protocol that is asked again and again while a run trains (MuM, Figure 2)."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from manyview.data.manifest import Manifest
from manyview.evaluation.base import Protocol, evaluate


class Probed:
    """The first of a protocol's numbers for the recipe's student, as `PROTOCOL:NUMBER`, each time in its own folder.

    What needs no training is left out: it would be the same every time.
    """

    def __init__(self, protocol: Protocol, data: Manifest, folder: Path) -> None:
        options = {field.name for field in fields(protocol)}  # type: ignore[arg-type]
        self.protocol: Any = replace(protocol, baselines=False) if "baselines" in options else protocol  # type: ignore[call-arg, type-var]
        self.data, self.folder = data, folder

    def __call__(self, recipe: Any, step: int) -> dict[str, float]:
        student, number = recipe.student.eval(), self.protocol.numbers[0].key
        summary = evaluate(self.protocol, student, self.data, self.folder / f"{step:08d}", overwrite=True)
        row = next(row for row in summary["rows"] if row["method"].startswith("model"))
        return {f"{self.protocol.name}:{number}": row[number]}
