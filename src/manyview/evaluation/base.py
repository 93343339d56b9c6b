"""A protocol is an evaluation in two loops: the model is asked about every item once, then answers are judged as files.

Scores can so be computed again, compared item by item and looked at without the model. A protocol says its items, how
to ask about one, how to judge an answer and which numbers matter; everything else is done here.
"""

from __future__ import annotations

import abc
import hashlib
import itertools
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from manyview.config import to_dict
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.evaluation.tables import Number, markdown_table
from manyview.evaluation.work import Answer, Item, Skipped, Work
from manyview.files import write_json, write_lines, write_text
from manyview.models import model as models
from manyview.models.family import require
from manyview.progress import track
from manyview.registry import Registry

__all__ = ["PROTOCOLS", "Answer", "Item", "Number", "Protocol", "Skipped", "Summary", "Work", "evaluate"]

Model = Any
Summary = dict[str, Any]
Row = dict[str, Any]
"""A line of results.jsonl: method, scene, what the item is called, its numbers or why it has none (`failed`).

Keys that begin with _ are for the table only."""
Method = Callable[[Sequence[Item]], Iterator[tuple[Item, Answer | Skipped]]]
"""Answers about the items it is handed, in any order; asked for what is missing only."""


class Protocol(abc.ABC):
    """The options are the fields of a frozen dataclass.

    A simple protocol has `choose`, `ask`, `judge` and `numbers`. One that judges several methods side by side, or that
    learns before it answers, has `methods` in place of `ask`.
    """

    name: ClassVar[str]
    line: ClassVar[str]
    """What `manyview eval --list` prints."""
    next_step: ClassVar[str] = "features IMAGES -o features --pca"
    """A command that uses the judged model, without `manyview` and `--model`."""
    needs: ClassVar[type[models.Role]] = models.EncodesImages
    """What a model must be able to do."""
    numbers: ClassVar[tuple[Number, ...]]
    """What matters: a column each of the table, with an interval over scenes."""
    unit: ClassVar[str] = "items"
    """What the table calls items."""
    title: ClassVar[str] = ""
    """What reports call the protocol; empty for its name."""
    labels: ClassVar[Mapping[str, str]] = {"model": "model"}
    """What methods are, in a few words, in the order of the table."""

    def own_data(self, folder: Path) -> Path | None:
        """The manifest that it brings along, made in `folder` where it is missing; None: data must be named."""
        return None

    @abc.abstractmethod
    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        """What the model is asked about; what judging needs of the data is kept in `work`. UserError for nothing."""

    def ask(self, model: Model, data: Manifest, item: Item) -> Answer | Skipped:
        """The model's answer about an item; nothing is remembered for gradients."""
        raise NotImplementedError(f"{type(self).__name__} has neither `ask` nor `methods`")

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        """Everything that is judged, by name; by default the model alone, asked item by item."""

        @torch.no_grad()
        def asked(item: Item) -> Answer | Skipped:
            return self.ask(model, data, item)

        def one_by_one(items: Sequence[Item]) -> Iterator[tuple[Item, Answer | Skipped]]:
            return ((item, asked(item)) for item in items if not item.skipped)

        return {"model": one_by_one}

    def truth(self, item: Item, work: Work) -> Any:  # noqa: B027
        """What answers about an item are judged against, from files."""

    @abc.abstractmethod
    def judge(self, item: Item, answer: Answer, truth: Any) -> Row | list[Row]:
        """The numbers of an answer, or `failed` and why it has none; several rows for several questions."""

    def settings(self) -> dict[str, Any]:
        """The options that decide the answers, as JSON; a manifest counts by its digest."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {k: v.digest() if isinstance(v, Manifest) else to_dict(v) for k, v in values.items()}

    # Tables.

    def table(self, rows: Mapping[str, list[Row]], work: Work) -> list[Row]:
        """A row per method, in the order of `labels`, others behind the first: the means of its numbers."""
        places = {name: float(place) for place, name in enumerate(self.labels)}
        ordered = sorted(rows, key=lambda name: places.get(name, 0.5))
        return [{"method": name, "label": self.label(name), **self.means(rows[name])} for name in ordered]

    def label(self, method: str) -> str:
        return self.labels.get(method, method)

    def means(self, rows: Sequence[Row]) -> Row:
        """Means over the items that have the number; `failed` counts items without numbers."""
        scored = [row for row in rows if "failed" not in row]
        means = {
            number.key: float(np.mean([row[number.key] for row in scored]))
            for number in self.numbers
            if scored and all(row.get(number.key) is not None for row in scored)
        }
        return {**means, self.unit: len(scored), "failed": len(rows) - len(scored)}

    def intervals(self, rows: Mapping[str, list[Row]], seed: int) -> dict[str, dict[str, tuple[float, float]]]:
        """95 % intervals of the means over scenes: method -> number -> (low, high)."""
        bounds: dict[str, dict[str, tuple[float, float]]] = {}
        for method, number in itertools.product(rows, self.numbers):
            scored = [row for row in rows[method] if "failed" not in row]
            if found := self.interval(number.key, scored, seed):
                bounds.setdefault(method, {})[number.key] = found
        return bounds

    def interval(self, key: str, rows: Sequence[Row], seed: int) -> tuple[float, float] | None:
        """That of one number, over the rows that have it; None where none has."""
        scored = [row for row in rows if row.get(key) is not None]
        parts = [[row[key], 1.0] for row in scored]
        return intervals.over_scenes(np.array(parts), [row["scene"] for row in scored], seed) if scored else None

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        """What the summary says beside the table: counts, ratios, differences. more: rows of other comparisons."""
        return {self.unit: len(work.items)}

    def more_rows(self, work: Work) -> Iterator[Row]:
        """Rows of what needs all items at once and no model; those with a `comparison` are not in the table."""
        yield from ()

    def markdown(self, summary: Summary) -> str:
        """The summary as text and tables for people."""
        name, data = summary.get("model", "the model"), summary.get("data", "the data")
        parts = [f"# {name} on {data}: {self.title or self.name}", *self.sections(summary)]
        return "\n\n".join(parts) + "\n"

    def sections(self, summary: Summary) -> list[str]:
        """Paragraphs and tables below the title."""
        heads = ["", *(number.head for number in self.numbers)]
        return [markdown_table(heads, (self.cells(row) for row in summary["rows"]))]

    def cells(self, row: Row) -> list[str]:
        """A row of the table as text."""
        return [row["label"], *(number.text(row.get(number.key)) for number in self.numbers)]

    def pictures(self, work: Work, summary: Summary) -> None:  # noqa: B027
        """Write a page or pictures, for protocols that have some."""

    # The two loops.

    def export(self, model: Model, data: Manifest, work: Work) -> None:
        """Ask about everything that has no answer yet."""
        if not work.items:
            work.keep_items(self.choose(model, data, work))

        def missing(method: str) -> list[Item]:
            return [item for item in work.items if not item.skipped and not work.has_answer(method, item)]

        if work.methods and not any(map(missing, work.methods)):
            return
        methods = self.methods(model, data, work)
        for name, method in methods.items():
            if left := missing(name):
                answers = track(method(left), total=len(left), label=name, unit=self.unit.rstrip("s"))
                for item, answer in answers:
                    work.keep_answer(name, item, answer)
        work.note(list(methods))
        shutil.rmtree(work.scratch, ignore_errors=True)

    def score(self, out: Path) -> Summary:
        """Judge the answers in `out`: results.jsonl, summary.json, summary.md; needs neither model nor data."""
        work = Work.open(out)
        methods = work.methods
        if not methods:
            raise UserError(f"{work.path} holds an evaluation that was stopped; go on with the line that began it")
        rows: list[Row] = []
        for item in track([item for item in work.items if not item.skipped], label="scores", unit="item"):
            answers: dict[str, Any] = {method: work.answer(method, item) for method in methods}
            if any(isinstance(answer, Skipped) for answer in answers.values()):
                continue
            truth = self.truth(item, work)
            for method, answer in answers.items():
                numbers = self.judge(item, answer, truth)
                of_item = numbers if isinstance(numbers, list) else [numbers]
                rows += [{"method": method, "scene": item.scene, **item.names, **row} for row in of_item]
        rows += self.more_rows(work)
        if not rows:
            first, reason = next(iter(skipped(work).items()))
            raise UserError(f"{out}: nothing could be judged; first {first}: {reason}")
        lines = ({key: value for key, value in row.items() if key[0] != "_"} for row in rows)
        write_lines(out / "results.jsonl", lines)
        by_method: dict[str, list[Row]] = defaultdict(list)
        more: list[Row] = []
        for row in rows:
            (more if "comparison" in row else by_method[row["method"]]).append(row)
        summary = {
            "protocol": self.name,
            **work.names,
            "settings": work.settings,
            "rows": self.table(by_method, work),
            "intervals": self.intervals(by_method, work.settings.get("seed", 0)),
            **self.summarise(by_method, work, more),
        }
        write_json(out / "summary.json", summary)
        write_text(out / "summary.md", self.markdown(summary))
        self.pictures(work, summary)
        return summary


def in_order(work: Work, predict: Callable[[], Iterable[Answer]], unreadable: Mapping[str, str]) -> Method:
    """A method whose answers come one after the other, about all items but the unreadable ones (key -> why)."""

    def answers(missing: Sequence[Item]) -> Iterator[tuple[Item, Answer | Skipped]]:
        wanted, predictions = {item.key for item in missing}, iter(predict())
        for item in work.items:
            why = unreadable.get(item.key)
            answer = next(predictions) if why is None else Skipped(why)
            if item.key in wanted:
                yield item, answer

    return answers


def skipped(work: Work) -> dict[str, str]:
    """Why items have no score: by what they are called, else by key."""
    reasons = {}
    for item in work.items:
        answers = [] if item.skipped else [work.answer(method, item) for method in work.methods]
        why = item.skipped or next((a.reason for a in answers if isinstance(a, Skipped)), None)
        if why:
            reasons[str(next(iter(item.names.values()), item.key))] = why
    return reasons


PROTOCOLS: Registry[type[Protocol]] = Registry(
    "protocol", package="manyview.evaluation", group="manyview.protocols", subclass_of=Protocol
)


def evaluate(
    protocol: Protocol,
    model: Model,
    data: Manifest,
    out: Path,
    *,
    overwrite: bool = False,
    names: dict[str, str] | None = None,
    workers: int | None = None,
) -> Summary:
    """Ask, then judge, in the folder `out`. Goes on where an interrupted evaluation of the same settings stopped.

    names: what to call the model and the data in reports. workers: processes that read pictures, as `run.workers` of a
    training. Raises UserError when `out` holds an evaluation of other settings, unless `overwrite`, or when another
    process is at work there.
    """
    require(model, protocol.needs, (names or {}).get("model", ""))
    folder = Work.folder(out)
    folder.refuse_strangers()
    with folder.lock():
        work = Work.claim(out, all_settings(protocol, model, data), names or {}, overwrite=overwrite)
        protocol.export(model, data, replace(work, workers=workers))
        return protocol.score(out)


def all_settings(protocol: Protocol, model: Model, data: Manifest) -> dict[str, Any]:
    """What decides the answers: protocol, options, model weights, data."""
    fixed = {"protocol": protocol.name, "model": fingerprint(model), "data": data.digest()}
    return {**fixed, **protocol.settings()}


def fingerprint(model: Model) -> str:
    """A network's fingerprint, over configuration and weights; of any other callable its `fingerprint` or class."""
    if isinstance(model, torch.nn.Module):
        return models.fingerprint(model)
    digest = hashlib.sha256(repr(to_dict(getattr(model, "config", None))).encode())
    digest.update(str(getattr(model, "fingerprint", type(model).__qualname__)).encode())
    return digest.hexdigest()
