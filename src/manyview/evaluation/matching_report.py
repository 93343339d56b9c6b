"""Tables, chart and page of the matching protocols."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyview.evaluation import store
from manyview.evaluation.matching_pictures import rows_of_pictures
from manyview.evaluation.page import Page
from manyview.evaluation.pictures import line_chart
from manyview.evaluation.report import markdown_table

COLUMNS = ("epe", "robustness", "pck_1", "pck_3", "pck_5", "pck_8", "pck_16", "epe_cells")
HEADS = {"epe": "EPE px", "robustness": "< 32 px", "epe_cells": "EPE at cells", **{
    f"pck_{t}": f"< {t} px" for t in (1, 3, 5, 8, 16)
}}  # fmt: skip
LABELS = {
    "zero_flow": "zero flow",
    "pixels": "raw pixels",
    "untrained": "the same encoder, random weights",
    "model": "model",
}
BATCH = 8  # published means are over batches of this many pairs, their pixels pooled
LAYER = re.compile(r"(?P<name>\w+?)_layer_(?P<layer>\d+)(?P<ending>_raw)?")


def label(method: str) -> str:
    """What a method is, in a few words."""
    found = LAYER.fullmatch(method)
    base, ending = (found["name"], found["ending"]) if found else _ending(method)
    words = LABELS.get(base, base)
    if found:
        words += f", block {int(found['layer'])}"
    return words + (", without layer norm" if ending else "")


def _ending(method: str) -> tuple[str, str]:
    return (method.removesuffix("_raw"), "_raw") if method.endswith("_raw") else (method, "")


def summarise(
    protocol: str,
    described: dict[str, Any],
    items: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    sweeps: dict[str, Any],
) -> dict[str, Any]:
    """Means over pairs per method, ratios of the model to the others with a 95 % interval over scenes."""
    by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    ordered = sorted(by_method, key=lambda m: (not m.startswith("model"), m))
    table = [_mean_row(method, by_method[method], sweeps.get(method)) for method in ordered]
    best = min((row for row in table if row["method"].startswith("model")), key=lambda row: row["epe"])
    return {
        "protocol": protocol,
        **described["names"],
        "settings": described["settings"],
        "size": items["size"],
        "pairs": {split: len(pairs) for split, pairs in items["pairs"].items()},
        "scenes": len({row["scene"] for row in rows}),
        "rows": table,
        "best": best["method"],
        "ratios": {
            method: ratio(by_method[best["method"]], by_method[method], described["settings"]["seed"])
            for method in ordered
            if not method.startswith("model")
        },
    }


def _mean_row(method: str, rows: Sequence[dict[str, Any]], sweep: dict[str, Any] | None) -> dict[str, Any]:
    scored = [row for row in rows if row["pixels"]]
    means = {column: float(np.mean([row[column] for row in scored])) for column in COLUMNS}
    weights = np.array([row["pixels"] for row in scored], float)
    errors = np.array([row["epe"] for row in scored])
    batches = [slice(start, start + BATCH) for start in range(0, len(scored), BATCH)]
    pooled = [float(np.average(errors[batch], weights=weights[batch])) for batch in batches]
    return {
        "method": method,
        "label": label(method),
        **means,
        "epe_of_batches": float(np.mean(pooled)),
        "pairs": len(scored),
        **({} if sweep is None else {"probe": {"scaling": sweep["scaling"], **sweep["picked"]}}),
    }


def ratio(
    ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], seed: int, draws: int = 2000
) -> dict[str, float]:
    """Mean EPE of `ours` divided by `others`', with the 95 % interval from redrawing scenes (NaN for one scene)."""
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for mine, theirs in zip(ours, others, strict=True):
        if mine["pixels"]:
            sums[mine["scene"]] += (mine["epe"], theirs["epe"])
    scenes = np.array(list(sums.values()))
    drawn = np.random.default_rng(seed).integers(0, len(scenes), (draws, len(scenes)))
    totals = scenes[drawn].sum(1)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], [2.5, 97.5])
    if len(scenes) < 2:
        low = high = math.nan
    total = scenes.sum(0)
    return {"ratio": float(total[0] / total[1]), "low": float(low), "high": float(high)}


def table_rows(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["label"],
            f"{row['epe']:.2f}",
            *(f"{100 * row[c]:.1f} %" for c in COLUMNS[1:-1]),
            f"{row['epe_cells']:.2f}",
        ]
        for row in summary["rows"]
    ]


def describe(summary: dict[str, Any]) -> str:
    pairs, (height, width) = summary["pairs"], summary["size"]
    learned = f", {pairs['train']} to learn from and {pairs['val']} to pick by" if "train" in pairs else ""
    return (
        f"{pairs['test']} test pairs of {summary['scenes']} scenes at {height}x{width} pixels{learned}. "
        "End-point errors in pixels over the places that both images see; means over pairs."
    )


def ratio_lines(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [label(method), f"{found['ratio']:.3f}", _interval(found["low"], found["high"])]
        for method, found in summary["ratios"].items()
    ]


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if math.isfinite(low) else "one scene"


def sweep_lines(summary: dict[str, Any]) -> list[str]:
    return [
        f"{row['label']}: learning rate {row['probe']['lr']:g}, weight decay {row['probe']['decay']:g}, "
        f"step {row['probe']['step']}."
        for row in summary["rows"]
        if "probe" in row
    ]


RATIO_HEADS = ("mean EPE of the model divided by that of", "ratio", "95 % over scenes")


def markdown(summary: dict[str, Any]) -> str:
    """The summary as markdown."""
    name, data = summary.get("model", "the model"), summary.get("data", "the data")
    parts = [
        f"# {name} on {data}: {summary['protocol']}",
        describe(summary),
        markdown_table(["", *(HEADS[column] for column in COLUMNS)], table_rows(summary)),
        markdown_table(list(RATIO_HEADS), ratio_lines(summary)),
    ]
    picked = sweep_lines(summary)
    return "\n\n".join([*parts, *(["Picked probes. " + " ".join(picked)] if picked else [])]) + "\n"


def layer_curves(summary: dict[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """EPE by block, a line per way of normalising; empty unless layers were asked for."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in summary["rows"]:
        found = LAYER.fullmatch(row["method"])
        if found:
            name = f"{found['name']} {'without layer norm' if found['ending'] else 'with layer norm'}"
            blocks, errors = curves.setdefault(name, ([], []))
            blocks.append(int(found["layer"]))
            errors.append(row["epe"])
    return curves


def write_page(out: Path, summary: dict[str, Any]) -> None:
    """report.html, and layers.svg where several layers were judged."""
    page = Page(f"{summary['protocol']}: {summary.get('model', 'the model')}", describe(summary))
    page.table(["", *(HEADS[column] for column in COLUMNS)], table_rows(summary), best=0)
    page.table(list(RATIO_HEADS), ratio_lines(summary))
    for line in sweep_lines(summary):
        page.text(line, note=True)
    curves = layer_curves(summary)
    if curves:
        chart = line_chart(curves, x_label="block", y_label="EPE, pixels")
        store.write_text(out / "layers.svg", chart)
        page.heading("By layer")
        page.svg(chart)
    trained = [
        row["method"] for row in summary["rows"] if row["method"] not in (summary["best"], "zero_flow")
    ]
    shown = [summary["best"], *(method for method in trained if not method.startswith("model"))]
    pictures = rows_of_pictures(out, [(method, label(method)) for method in shown])
    if pictures:
        page.heading("Some pairs")
    for row in pictures:
        page.pictures(row, zoom=2)
    page.write(out / "report.html")
