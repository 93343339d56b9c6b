"""What a study found: a markdown table, a picture of every seed, and a page that says how it was made."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from manyview.evaluation.tables import markdown_table
from manyview.files import write_text
from manyview.pages.charts import dot_chart
from manyview.studies.base import Results, Study, answers

WRITTEN = "Written by `manyview study "
"""How every page begins, after its title."""


def write_report(study: Study, results: Results, out: Path) -> Path:
    """Write report.md and report.svg into the folder `out`; returns the first."""
    write_text(out / "report.md", markdown(study, results))
    write_text(out / "report.svg", plot(study, results))
    return out / "report.md"


def write_page(study: Study, results: Results, path: Path, *, notes: Sequence[str] = ()) -> None:
    """The report as a page to keep, at `path`: the picture beside it and shown in it, how it was made, every run."""
    picture = path.with_suffix(".svg")
    write_text(picture, plot(study, results))
    import torch

    title, _, tables = markdown(study, results).partition("\n")
    changed = {key: value for key, value in study.settings().items() if value != study.defaults().get(key)}
    options = "".join(f" {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in sorted(changed.items()))
    command = f" --set{options}" if options else ""
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} {platform.machine()} cores"
    parts = [
        title,
        f"{WRITTEN}{study.name}{command} --page {path.name}`, which does what is not done yet; nothing here was "
        f"typed by hand. Machine: {machine}, torch {torch.__version__.partition('+')[0]}.",
        *notes,
        f"![{study.score} of every run]({picture.name})",
        tables.strip(),
        "## Every run",
        every_run(study, results),
    ]
    write_text(path, "\n\n".join(parts) + "\n")


def every_run(study: Study, results: Results) -> str:
    """A table with a row per variant and seed: the score, every column and detail."""
    columns = {study.score: study.score, **study.columns, **study.details}
    rows = [
        [name, str(seed), *(f"{run[key]:.3f}" if key in run else "" for key in columns)]
        for name, runs in results.items()
        for seed, run in sorted(runs.items())
    ]
    return markdown_table(["variant", "seed", *columns.values()], rows)


def _spread(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "not run"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown(study: Study, results: Results) -> str:
    """Both tables."""
    columns = study.columns
    heads = ["variant", "what", study.score, *columns.values(), "seeds", "paper"]
    rows = []
    for variant in (*study.variants, *study.untrained):
        runs = list(results[variant.name].values())
        of_keys = [[run[key] for run in runs if key in run] for key in columns]
        numbers = (_spread(values, 3) if values or not runs else "" for values in of_keys)  # some have no such number
        paper = "" if variant.paper is None else f"{variant.paper:g}"
        score = _spread([run[study.score] for run in runs])
        seeds = "no training" if variant in study.untrained else len(runs)
        rows.append([variant.name, variant.line, score, *numbers, seeds, paper])
    judged = []
    for answer in answers(study, results):
        question, spread = answer.question, "" if math.isnan(answer.spread) else f" ± {answer.spread:.3f}"
        size = "not run" if math.isnan(answer.mean) else f"{answer.mean:+.3f}{spread}"
        claim = f"{question.name}: `{question.better}` beats `{question.worse}`"
        scenes = "" if math.isnan(answer.low) else f"{answer.low:+.3f} to {answer.high:+.3f}"
        judged.append([claim, size, scenes, answer.seeds, answer.verdict, question.source])
    claims = ["claim", "better by here", "95 % over scenes", "seeds", "verdict", "source"]
    parts = [
        f"# {study.line}",
        markdown_table(heads, rows, texts=True),
        "Mean ± standard deviation over seeds. The paper's numbers are at its own scale.",
        markdown_table(claims, judged, texts=True),
        "A verdict needs three seeds or more that agree in sign, a mean difference above its spread and, where scores "
        "are of scenes, an interval over scenes drawn anew that leaves out zero; everything else is undecided."
        + (" What clears no row without training is uninformative." if study.untrained else ""),
    ]
    return "\n\n".join(parts) + "\n"


def plot(study: Study, results: Results) -> str:
    """An SVG: a row per variant that ran, a dot per seed, a bar at the mean."""
    every = (*study.variants, *study.untrained)
    rows = {v.name: [run[study.score] for run in results[v.name].values()] for v in every}
    ran = {name: values for name, values in rows.items() if values}
    return dot_chart(ran, f"{study.score} (lower is better), a dot per seed")
