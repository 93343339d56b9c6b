"""A miniature study: variants of a recipe trained at an equal budget with several seeds, beside the paper's numbers.

Each (variant, seed) is one job with a folder of its own and a result.json; what is there is not done again, so a
study stops and goes on anywhere. A verdict compares the seeds' differences with their spread, and says no more.
"""

from __future__ import annotations

import abc
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from manyview.config import to_dict
from manyview.errors import UserError
from manyview.files import write_text
from manyview.registry import Registry
from manyview.workfolder import WorkFolder

Verdict = Literal["reproduced", "undecided", "contradicted"]
RECORD, RESULT = "study.json", "result.json"


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    """Short name: a folder and a row."""
    line: str
    """What is different, in words."""
    settings: tuple[str, ...] = ()
    """Assignments over the study's preset, as `manyview train --set` takes them."""
    paper: float | None = None
    """The paper's number at its scale."""


@dataclass(frozen=True)
class Question:
    """A claim of the paper: `better` beats `worse`."""

    name: str
    better: str
    """Variant that the paper found better."""
    worse: str
    """Variant it was compared with."""
    source: str
    """Table and rows."""


class Study(abc.ABC):
    """Variants, questions, and how one job is done and judged. Lower scores are better."""

    name: ClassVar[str]
    line: ClassVar[str]
    score: ClassVar[str]
    """Key of the number that is compared, and how the table calls it."""
    columns: ClassVar[dict[str, str]] = {}
    """Further keys of a result, and how the table calls them."""
    details: ClassVar[dict[str, str]] = {}
    """Keys that only the table of every run shows, likewise."""
    variants: ClassVar[Sequence[Variant]]
    questions: ClassVar[Sequence[Question]]
    Options: ClassVar[type]
    """Frozen dataclass of what every job shares; a study is made with one."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def settings(self) -> dict[str, Any]:
        """The options as JSON-able values: a study goes on only with the same."""
        return to_dict(self.options)

    def defaults(self) -> dict[str, Any]:
        """What `settings` is when nobody changes anything."""
        return to_dict(self.Options())

    def prepare(self, out: Path) -> None:  # noqa: B027
        """Make what all jobs need and is not there yet, in the study's folder."""

    def notes(self, out: Path) -> list[str]:
        """Paragraphs for the page of the study in this folder: what its numbers are measured against."""
        return []

    @abc.abstractmethod
    def run(self, variant: Variant, seed: int, out: Path) -> dict[str, float]:
        """Train and judge one job in its folder, going on with what an interruption left there."""

    def variant(self, name: str) -> Variant:
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = ", ".join(variant.name for variant in self.variants)
        raise UserError(f"study {self.name} has no variant {name!r}; it has {names}")


STUDIES: Registry[type[Study]] = Registry("study", package="manyview.studies")


@dataclass(frozen=True)
class Answer:
    """What the seeds say to a question; `mean` and `spread` are of worse - better, paired by seed."""

    question: Question
    mean: float
    spread: float
    seeds: int
    verdict: Verdict


def judge(question: Question, differences: Sequence[float]) -> Answer:
    """Reproduced or contradicted when at least three seeds agree in sign and their mean exceeds their spread."""
    mean = statistics.fmean(differences) if differences else math.nan
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    agree = len(differences) >= 3 and abs(mean) > spread and len({d > 0 for d in differences}) == 1 and all(differences)
    verdict: Verdict = "undecided" if not agree else "reproduced" if mean > 0 else "contradicted"
    return Answer(question, mean, spread, len(differences), verdict)


Results = dict[str, dict[int, dict[str, float]]]


def run_study(
    study: Study,
    out: Path,
    *,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    minutes: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Results:
    """Do the jobs that are missing, seed by seed, until `minutes` are over; returns all results in `out`.

    `tell` hears a line before each job, with the time left at the pace so far. Raises UserError when `out` holds a
    study with other settings.
    """
    WorkFolder(out, "study", RECORD).claim(study.settings())
    chosen = [study.variant(name) for name in only] or list(study.variants)
    jobs = [(variant, seed, out / variant.name / f"seed-{seed}") for seed in seeds for variant in chosen]
    jobs = [job for job in jobs if not (job[2] / RESULT).is_file()]
    if jobs:
        study.prepare(out)
    start = time.monotonic()
    for done, (variant, seed, folder) in enumerate(jobs):
        if (folder / RESULT).is_file():
            continue  # another process has done it since
        passed = time.monotonic() - start
        if minutes is not None and passed > 60 * minutes:
            break
        left = f", about {passed / done * (len(jobs) - done) / 60:.0f} minutes left" if done else ""
        tell(f"job {done + 1} of {len(jobs)}: {variant.name}, seed {seed}{left}")
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        numbers = study.run(variant, seed, folder)
        result = {**numbers, "seconds": round(time.monotonic() - began, 1)}
        write_text(folder / RESULT, json.dumps(result, indent=1) + "\n")  # NaN stays what it is
    return read_results(study, out)


def read_results(study: Study, out: Path) -> Results:
    """Variant -> seed -> numbers, of every finished job."""
    results: Results = {variant.name: {} for variant in study.variants}
    for variant in study.variants:
        for path in sorted((out / variant.name).glob(f"seed-*/{RESULT}")):
            seed = int(path.parent.name.removeprefix("seed-"))
            results[variant.name][seed] = json.loads(path.read_text(encoding="utf-8"))
    return results


def answers(study: Study, results: Results) -> list[Answer]:
    """Every question with the seeds that both of its variants have."""
    judged = []
    for question in study.questions:
        better, worse = results[question.better], results[question.worse]
        pairs = [worse[s][study.score] - better[s][study.score] for s in sorted({*better} & {*worse})]
        judged.append(judge(question, pairs))
    return judged


def as_json(study: Study, results: Results) -> dict[str, Any]:
    """Everything a script wants to know."""
    return {
        "study": study.name,
        "settings": study.settings(),
        "results": {name: {str(s): numbers for s, numbers in runs.items()} for name, runs in results.items()},
        "answers": [asdict(answer) for answer in answers(study, results)],
    }


def trained(recipe: str, folder: Path, **inputs: Any) -> Path:
    """The model directory of the run in `folder`, which is finished, resumed or started with these inputs of `train`.

    Raises UserError when the folder holds something else than a run.
    """
    from manyview.engine import checkpoint, rundir
    from manyview.pipelines import train as pipeline

    run = rundir.work_folder(folder)
    run.refuse_strangers()
    if not (folder / "model" / "config.json").is_file():
        begun = bool(checkpoint.steps(folder))
        if not begun:
            run.clear()  # stopped before its first checkpoint
        done = pipeline.resume(folder) if begun else pipeline.train(recipe, out=folder, **inputs)
        if done.model is None:
            raise KeyboardInterrupt
    return folder / "model"
