"""What a study found: a markdown table, and a picture of every seed."""

from __future__ import annotations

import html
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from manyview.studies.base import Answer, Results, Study, answers


def write_report(study: Study, results: Results, out: Path) -> Path:
    """Write report.md and report.svg into `out`; returns the first."""
    for name, text in (("report.md", markdown(study, results)), ("report.svg", plot(study, results))):
        draft = out / f".{name}"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, out / name)
    return out / "report.md"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "not run"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown(study: Study, results: Results) -> str:
    """Both tables."""
    columns = study.columns
    head = ["variant", "what", study.score, *columns.values(), "seeds", "paper"]
    lines = [f"# {study.line}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for variant in study.variants:
        runs = list(results[variant.name].values())
        cells = [
            variant.name,
            variant.line,
            _spread([run[study.score] for run in runs]),
            *(_spread([run[key] for run in runs if key in run], 3) for key in columns),
            str(len(runs)),
            "" if variant.paper is None else f"{variant.paper:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Mean ± standard deviation over seeds. The paper's numbers are at its own scale.", ""]
    lines += [
        "| the paper says | better by here | seeds | verdict | source |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_row(answer) for answer in answers(study, results)]
    lines += [
        "",
        "A verdict needs three seeds or more that agree in sign, and a mean difference above its spread; "
        "everything else is undecided.",
    ]
    return "\n".join(lines) + "\n"


def _row(answer: Answer) -> str:
    question = answer.question
    size = "not run" if math.isnan(answer.mean) else f"{answer.mean:+.3f}"
    if not math.isnan(answer.spread):
        size += f" ± {answer.spread:.3f}"
    claim = f"{question.name}: `{question.better}` beats `{question.worse}`"
    return f"| {claim} | {size} | {answer.seeds} | {answer.verdict} | {question.source} |"


def plot(study: Study, results: Results) -> str:
    """An SVG: a row per variant that ran, a dot per seed, a bar at the mean."""
    rows = [(v, [run[study.score] for run in results[v.name].values()]) for v in study.variants]
    rows = [(variant, values) for variant, values in rows if values]
    values = [value for _, found in rows for value in found]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.08 * (high - low) or 1.0
    low, high = low - room, high + room
    left, width, step, top = 190, 470, 30, 34

    def x(value: float) -> float:
        return left + width * (value - low) / (high - low)

    bottom = top + step * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {left + width + 40} {bottom + 40}" '
        'font-family="system-ui,sans-serif" font-size="12">',
        f'<text x="{left}" y="18" fill="#444">{html.escape(study.score)} (lower is better), a dot per seed</text>',
    ]
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts.append(
            f'<line x1="{x(value):.1f}" y1="{top - 6}" x2="{x(value):.1f}" y2="{bottom}" stroke="#e3e3df"/>'
        )
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#666">{value:.3g}</text>'
        )
    for index, (variant, found) in enumerate(rows):
        y = top + step * index + step / 2
        mean = x(statistics.fmean(found))
        parts.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{html.escape(variant.name)}</text>'
        )
        parts.append(
            f'<line x1="{mean:.1f}" y1="{y - 9}" x2="{mean:.1f}" y2="{y + 9}" stroke="#222" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="#2b6cb0" fill-opacity="0.65"/>'
            for value in found
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
