"""The folder of an evaluation: what was asked about, the answers, and what judging found; each file whole or not there.

settings.json     whose folder it is: protocol, options, digests of model and data
items.json        what is asked about, and the methods once all of them have answered; with a checksum
measured/         what answers are judged against
predictions/      METHOD/ITEM.npz, one answer each
training/         what methods learned, where they learn
results.jsonl     a line per method and item; summary.json, summary.md: the tables
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.files import checksum, finite, load_arrays, read_object, save_arrays, write_json
from manyview.workfolder import WorkFolder

FORMAT = 2
AGAIN = "run the evaluation again with --overwrite"
OWN = (
    *("measured", "predictions", "training", "scratch", "panels", "items.json", "results.jsonl"),
    *("summary.json", "summary.md", "report.html", "layers.svg", "submission.zip"),
)


@dataclass(frozen=True)
class Item:
    """What a model is asked about once and judged on."""

    key: str
    """Names its files; no two items of an evaluation share one."""
    scene: str
    """Intervals come from drawing scenes anew: items of one scene are no independent trials."""
    names: dict[str, Any] = field(default_factory=dict)
    """What every line of the results says about it, as JSON."""
    about: dict[str, Any] = field(default_factory=dict)
    """What asking and judging need to know, as JSON."""
    skipped: str | None = None
    """Why it has no score; it is asked about all the same only if a protocol wants that."""


@dataclass(frozen=True)
class Skipped:
    """An answer that could not be had, and why: nobody is judged on this item."""

    reason: str


Answer = dict[str, np.ndarray]
"""Arrays by name."""


@dataclass(frozen=True)
class Work:
    """The folder of one evaluation, opened."""

    path: Path
    workers: int | None = None
    """Processes that read pictures for a probe; none: by the device."""

    @staticmethod
    def folder(path: Path) -> WorkFolder:
        return WorkFolder(path, "evaluation", "settings.json", OWN, needs=("settings",))

    @classmethod
    def open(cls, path: Path) -> Work:
        """Raises UserError when there is no evaluation, or one that an earlier version wrote."""
        record = cls.folder(path).read()
        if record is None:
            raise UserError(f"{path} holds no evaluation (no settings.json); export one first")
        if record.get("format") != FORMAT:
            raise UserError(f"{path} holds an evaluation of an earlier version of manyview; remove it, or {AGAIN}")
        return cls(path)

    @classmethod
    def claim(
        cls, path: Path, settings: Mapping[str, Any], names: Mapping[str, str], *, overwrite: bool = False
    ) -> Work:
        """Make `path` the folder of these settings. Raises UserError when it is another's, unless `overwrite`."""
        folder = cls.folder(path)
        if folder.read() is not None and not overwrite:
            cls.open(path)
        extra = {"names": dict(names), "format": FORMAT}
        folder.claim(settings, overwrite=overwrite, part="settings", extra=extra)
        return cls(path)

    @cached_property
    def record(self) -> dict[str, Any]:
        return self.folder(self.path).read() or {}

    @property
    def settings(self) -> dict[str, Any]:
        """The options and digests that decide the answers."""
        return dict(self.record["settings"])

    @property
    def names(self) -> dict[str, str]:
        """What reports call the model and the data."""
        return dict(self.record["names"])

    @property
    def scratch(self) -> Path:
        """What only the first loop needs: large, quickly made again, and removed at its end."""
        return self.path / "scratch"

    def _plan(self) -> dict[str, Any]:
        file = self.path / "items.json"
        if not file.is_file():
            return {"about": {}, "methods": [], "items": []}
        plan = read_object(file, mend=AGAIN)
        kinds = {"about": dict, "methods": list, "items": list}
        whole = plan.pop("sha256", None) in (None, checksum(plan))
        named = all(isinstance(method, str) for method in plan.get("methods") or ())
        if not (whole and named) or any(not isinstance(plan.get(name), kind) for name, kind in kinds.items()):
            raise UserError(f"{file} is damaged; {AGAIN}")
        return plan

    def _keep_plan(self, plan: dict[str, Any]) -> None:
        plain = json.loads(json.dumps(finite(plan)))
        write_json(self.path / "items.json", {**plain, "sha256": checksum(plain)})

    @cached_property
    def items(self) -> list[Item]:
        damaged = UserError(f"{self.path / 'items.json'} is damaged; {AGAIN}")
        try:
            items = [Item(**item) for item in self._plan()["items"]]
        except TypeError:
            raise damaged from None
        if any(type(item.key) is not str or not item.key or type(item.scene) is not str for item in items):
            raise damaged
        return items

    @property
    def methods(self) -> list[str]:
        """In the order of the tables; empty until all of them have answered."""
        return list(self._plan()["methods"])

    @property
    def about(self) -> dict[str, Any]:
        """What holds for all items: sizes, counts of training examples, and the like."""
        return dict(self._plan()["about"])

    def keep_items(self, items: Sequence[Item]) -> None:
        self._keep_plan({"about": self.about, "methods": [], "items": [asdict(item) for item in items]})
        self.__dict__.pop("items", None)

    def note(self, methods: Sequence[str] | None = None, **about: Any) -> None:
        """Add to what holds for all items, or say that these methods have answered."""
        plan = self._plan()
        plan["about"] |= about
        plan["methods"] = plan["methods"] if methods is None else list(methods)
        self._keep_plan(plan)

    def has_answer(self, method: str, item: Item) -> bool:
        return self._answer(method, item).is_file()

    def _answer(self, method: str, item: Item) -> Path:
        return self.path / "predictions" / method / f"{item.key}.npz"

    def keep_answer(self, method: str, item: Item, answer: Mapping[str, np.ndarray] | Skipped) -> None:
        if isinstance(answer, Skipped):
            answer = {"skipped": np.array(answer.reason)}
        save_arrays(self._answer(method, item), **answer)

    def answer(self, method: str, item: Item) -> Answer | Skipped:
        """Raises UserError when the file is missing or damaged."""
        arrays = load_arrays(self._answer(method, item))
        return Skipped(str(arrays["skipped"])) if "skipped" in arrays else arrays

    def keep_measured(self, key: str, **arrays: np.ndarray) -> None:
        save_arrays(self.path / "measured" / f"{key}.npz", **arrays)

    def measured(self, key: str) -> Answer:
        return load_arrays(self.path / "measured" / f"{key}.npz")

    def keep_learned(self, method: str, learned: Mapping[str, Any]) -> None:
        write_json(self.path / "training" / f"{method}.json", dict(learned))

    def learned(self, method: str) -> dict[str, Any] | None:
        """What a method learned, None when it learned nothing."""
        file = self.path / "training" / f"{method}.json"
        return read_object(file, mend=AGAIN) if file.is_file() else None
