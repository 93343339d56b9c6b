"""Results as tables: means over views, ratios to the baselines, markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from manyview.evaluation.baselines import LABELS

COLUMNS = ("accuracy", "completeness", "abs_rel", "delta_1", "scale_factor")
HEADS = {
    "accuracy": "accuracy ×100",
    "completeness": "completeness ×100",
    "abs_rel": "AbsRel",
    "delta_1": "δ < 1.25",
    "scale_factor": "scale factor",
    "point_error": "point error ×100",
}
DIGITS = {"accuracy": 2, "completeness": 2, "point_error": 2, "scale_factor": 3}
FIRST_FRAME_LABELS = {
    "global": "the model's global map",
    "local_identity": "its local map, camera left where the first one was",
    "local_measured_pose": "its local map, moved with the measured pose",
}


def mean_row(method: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the views that have a score; `failed` counts the others, `views` those averaged."""
    scored = [row for row in rows if "failed" not in row]
    means = {
        column: float(np.mean([row[column] for row in scored]))
        for column in COLUMNS
        if scored and all(column in row for row in scored)
    }
    unusable = [row["unusable"] for row in scored if "unusable" in row]
    return {
        "method": method,
        "label": label(method),
        **means,
        "views": len(scored),
        "failed": len(rows) - len(scored),
        **({"unusable": float(np.mean(unusable))} if unusable and max(unusable) > 0 else {}),
    }


def label(method: str) -> str:
    """What a method is, in a few words."""
    if method == "model":
        return "model, one view at a time"
    if method.startswith("model_"):
        return f"model, {method.split('_')[1]} views together"
    return LABELS[method]


def ordered(methods: Iterable[str]) -> list[str]:
    """The model first, then its variants, then the baselines in the order of their table."""
    known = list(LABELS)
    return sorted(methods, key=lambda m: (m != "model", m in LABELS, known.index(m) if m in LABELS else 0, m))


def ratios(table: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The model's accuracy, completeness and AbsRel divided by every other row's: below 1 the model is
    better.
    """
    model = next((row for row in table if row["method"] == "model"), {})
    return {
        row["method"]: {
            column: model[column] / row[column]
            for column in COLUMNS[:3]
            if column in model and row.get(column)
        }
        for row in table
        if row["method"] != "model"
    }


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others numbers."""
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def number(column: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{DIGITS.get(column, 3)}f}"


def recon_per_view(summary: dict[str, Any]) -> str:
    """The summary of `recon-per-view` as markdown: the table, ratios, the question of the poses, what was
    skipped.
    """
    sizes = ", ".join(f"{height}x{width}" for height, width in summary["sizes"])
    name, data = summary.get("model", "the model"), summary.get("data", "the data")
    parts = [
        f"# {name} on {data}: reconstruction per view",
        f"{summary['scored']} of {summary['frames']} views judged at {sizes} pixels. Local points; one scale "
        "per view (median of measured / predicted depth); medians of nearest-neighbour distances, means over "
        "views; ×100 is centimetres for data in metres.",
        markdown_table(
            ["", *(HEADS[column] for column in COLUMNS), "views"],
            (
                [row["label"], *(number(c, row.get(c)) for c in COLUMNS), _views(row)]
                for row in summary["rows"]
            ),
        ),
    ]
    if summary["ratios"]:
        parts += [
            "The model (one view at a time) divided by each of the others; below 1 the model is better:"
        ]
        parts += [
            markdown_table(
                ["", *(HEADS[column].removesuffix(" ×100") for column in COLUMNS[:3])],
                (
                    [label(method), *(number("ratio", ratio.get(column)) for column in COLUMNS[:3])]
                    for method, ratio in summary["ratios"].items()
                ),
            )
        ]
    parts += _first_frame(summary.get("first_frame"))
    parts += [f"Left out: {label(name)}: {reason}." for name, reason in summary["left_out"].items()]
    skipped = summary["skipped"]
    parts += [f"Not judged: {row['frame']}: {row['reason']}." for row in skipped[:20]]
    if len(skipped) > 20:
        parts.append(f"Not judged: {len(skipped) - 20} more frames (summary.json).")
    return "\n\n".join(parts) + "\n"


def _views(row: dict[str, Any]) -> str:
    return f"{row['views']}" + (f" ({row['failed']} failed)" if row["failed"] else "")


def _first_frame(found: dict[str, Any] | None) -> list[str]:
    if not found or not found["views"]:
        return []
    columns = ("accuracy", "completeness", "point_error")
    rows = [
        [FIRST_FRAME_LABELS[method], *(number(c, (numbers or {}).get(c)) for c in columns)]
        for method, numbers in found["table"].items()
    ]
    return [
        f"Points in the first view's camera frame, {found['views']} later views, one scale per group:",
        markdown_table(["", *(HEADS[c] for c in columns)], rows),
    ]
