"""A miniature study: variants of a recipe trained at an equal budget with several seeds, beside the paper's numbers.

Each (variant, seed) is one job with a folder of its own and a result.json; what is there is not done again, so a
study stops and goes on anywhere. A verdict compares the seeds' differences with their spread, asks whether scenes drawn
anew would say the same, and whether what was trained is better than what needs no training; it says no more.
"""

from __future__ import annotations

import abc
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from manyview.config import to_dict
from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.files import read_object, write_text
from manyview.registry import Registry
from manyview.workfolder import WorkFolder

Verdict = Literal["reproduced", "undecided", "contradicted", "uninformative"]
RECORD, RESULT, SCENES = "study.json", "result.json", "scenes.json"
AGAIN = "remove it and run the study again"
BAR = "the best without training"
"""What a question may name as the worse one: the best of the references beside the better one."""


Results = dict[str, dict[int, dict[str, Any]]]
"""Variant -> seed -> numbers, and under SCENES what its scenes say where they are known."""


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
    beside: tuple[str, ...] = ()
    """Names of the references that are measured as this one is."""


@dataclass(frozen=True)
class Question:
    """A claim of the paper: `better` beats `worse`."""

    name: str
    better: str
    """Variant that the paper found better."""
    worse: str
    """Variant it was compared with, or BAR."""
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
    untrained: ClassVar[Sequence[Variant]] = ()
    """What needs no training and is judged alike: rows of every table, results of one seed in folders of their own."""
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

    def judged(self, results: Results) -> Results:
        """The results as they count: a study may leave out what says nothing."""
        return results

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
    """What the seeds say to a question; `mean` and `spread` are of worse - better, paired by seed.

    low, high: 95 % interval of the mean over scenes drawn anew, the seeds kept; NaN where scores have no scenes.
    """

    question: Question
    mean: float
    spread: float
    seeds: int
    verdict: Verdict
    low: float = math.nan
    high: float = math.nan


def judge(
    question: Question,
    differences: Sequence[float],
    *,
    interval: tuple[float, float] = (math.nan, math.nan),
    informs: bool = True,
) -> Answer:
    """Reproduced or contradicted when at least three seeds agree in sign, their mean exceeds their spread, and the
    interval over scenes, if there is one, leaves out zero; uninformative when nothing compared clears its bar.
    """
    mean = statistics.fmean(differences) if differences else math.nan
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    agree = len(differences) >= 3 and abs(mean) > spread and len({d > 0 for d in differences}) == 1 and all(differences)
    agree = agree and not interval[0] <= 0 <= interval[1]
    verdict: Verdict = "undecided" if not agree else "reproduced" if mean > 0 else "contradicted"
    if differences and not informs:
        verdict = "uninformative"
    return Answer(question, mean, spread, len(differences), verdict, *interval)


Scenes = Mapping[str, Sequence[float]]
"""Scene -> sum of a job's score over its items, and their number."""


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
    every = [*study.variants, *study.untrained]
    results: Results = {variant.name: {} for variant in every}
    for variant in every:
        for path in sorted((out / variant.name).glob(f"seed-*/{RESULT}")):
            seed = path.parent.name.removeprefix("seed-")
            if not seed.isdigit():
                continue  # a folder of the user's
            numbers = results[variant.name][int(seed)] = read_object(path, mend=AGAIN)
            if (scenes := path.with_name(SCENES)).is_file():
                numbers[SCENES] = read_object(scenes, mend=AGAIN)
    return study.judged(results)


def bar(study: Study, results: Results, variant: str) -> str | None:
    """The best of the references that are measured as this variant is; None where none is there."""
    of = next((v.beside for v in study.variants if v.name == variant), ())
    there = [name for name in of if results[name]]
    return min(there, key=lambda name: results[name][0][study.score], default=None)


def answers(study: Study, results: Results) -> list[Answer]:
    """Every question with the seeds that both of its variants have; a reference is the same for every seed."""
    judged = []
    for question in study.questions:
        best = bar(study, results, question.better)
        better, worse = results[question.better], results.get(question.worse, {})
        informs = True
        if question.worse == BAR:
            worse = {seed: results[best][0] for seed in better} if best else {}
        elif best and better:
            lowest = min(statistics.fmean(run[study.score] for run in of.values()) for of in (better, worse) if of)
            informs = lowest < results[best][0][study.score]
        pairs = [(worse[s], better[s]) for s in sorted({*better} & {*worse})]
        differences = [one[study.score] - other[study.score] for one, other in pairs]
        judged.append(judge(question, differences, interval=over_scenes(pairs), informs=informs))
    return judged


def over_scenes(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[float, float]:
    """The 95 % interval over scenes of the mean of first - second, from what each job says of its scenes."""
    if not pairs or any(SCENES not in run for pair in pairs for run in pair):
        return math.nan, math.nan
    parts, names = [], []
    for scene in sorted(set[str].intersection(*({*run[SCENES]} for pair in pairs for run in pair))):
        sums = [np.subtract(one[SCENES][scene], other[SCENES][scene])[0] for one, other in pairs]
        parts.append([sum(sums), len(pairs) * pairs[0][0][SCENES][scene][1]])
        names.append(scene)
    return intervals.over_scenes(np.array(parts), names, seed=0) if parts else (math.nan, math.nan)


def as_json(study: Study, results: Results) -> dict[str, Any]:
    """Everything a script wants to know."""
    numbers = {
        name: {str(seed): {key: value for key, value in run.items() if key != SCENES} for seed, run in runs.items()}
        for name, runs in results.items()
    }
    return {
        "study": study.name,
        "settings": study.settings(),
        "results": numbers,
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
