"""Tables, chart and page of the matching protocols, and predicted warps as pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from manyview.evaluation import intervals
from manyview.evaluation.base import Number, Protocol, Row, Summary, Work
from manyview.evaluation.tables import interval
from manyview.evaluation.tokens import LABELS
from manyview.files import write_text
from manyview.geometry.matching import PosedDepth, upsample_warp, warp
from manyview.pages.charts import line_chart
from manyview.pages.page import Page
from manyview.pages.pictures import PAPER

NUMBERS = (
    Number("epe", "EPE px", digits=2),
    Number("epe_percent", "EPE % of side", digits=2, percent=True),
    Number("robustness", "< 32 px", "higher", digits=1, percent=True),
    *(Number(f"pck_{t}", f"< {t} px", "higher", digits=1, percent=True) for t in (1, 3, 5, 8, 16)),
    Number("epe_cells", "EPE at cells", digits=2),
)
BATCH = 8  # published means are over batches of this many pairs, their pixels pooled
METHOD = re.compile(r"(?P<name>\w+?)(_layer_(?P<layer>\d+))?(?P<ending>_raw)?")
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
RATIO_HEADS = ("mean EPE of the model divided by that of", "ratio", "95 % over scenes")


def label(method: str) -> str:
    """What a method is, in a few words."""
    parts = METHOD.fullmatch(method)
    assert parts
    block = f", block {int(parts['layer'])}" if parts["layer"] else ""
    return LABELS.get(parts["name"], parts["name"]) + block + (", without layer norm" if parts["ending"] else "")


def table(means: Sequence[Row], rows: Mapping[str, list[Row]], work: Work) -> list[Row]:
    """The means with what the published evaluation averages, and which probe was picked."""
    full = []
    for row in means:
        scored = [r for r in rows[row["method"]] if r["pixels"]]
        batches = [scored[start : start + BATCH] for start in range(0, len(scored), BATCH)]
        pooled = [np.average([r["epe"] for r in of], weights=[r["pixels"] for r in of]) for of in batches]
        learned = work.learned(row["method"])
        probe = {"probe": {"scaling": learned["scaling"], **learned["picked"]}} if learned else {}
        full.append({**row, "epe_of_batches": float(np.mean(pooled)), **probe})
    return full


def summarise(rows: Mapping[str, list[Row]], means: Sequence[Row], work: Work) -> Summary:
    """Counts, and ratios of the best of the model's methods to what needs no training of it."""
    about, seed = work.about, work.settings["seed"]
    best = min((row for row in means if row["method"].startswith("model")), key=lambda row: row["epe"])["method"]
    others = [row["method"] for row in means if not row["method"].startswith("model")]
    return {
        "size": about["size"],
        "pairs": about["counts"],
        "scenes": len({row["scene"] for of in rows.values() for row in of}),
        "skipped": about["skipped"],
        "best": best,
        "ratios": {method: ratio(rows[best], rows[method], seed) for method in others},
    }


def ratio(rows: Sequence[Row], others: Sequence[Row], seed: int) -> dict[str, float]:
    """Mean EPE of one method divided by another's on the same pairs, with the 95 % interval over scenes."""
    pairs = [(a, b) for a, b in zip(rows, others, strict=True) if a["pixels"]]
    parts = np.array([[a["epe"], b["epe"]] for a, b in pairs])
    low, high = intervals.over_scenes(parts, [a["scene"] for a, _ in pairs], seed)
    total = parts.sum(0)
    return {"ratio": float(total[0] / total[1]), "low": low, "high": high}


def blocks(summary: Summary, cells: Callable[[Row], list[str]]) -> list[str | Table]:
    """Paragraphs, and tables as heads and rows: what the summary says, as text and as a page. `cells`: of a method."""
    pairs, (height, width) = summary["pairs"], summary["size"]
    learned = f", {pairs['train']} to learn from and {pairs['val']} to pick by" if "train" in pairs else ""
    picked = [
        f"{row['label']}: learning rate {row['probe']['lr']:g}, weight decay {row['probe']['decay']:g}, "
        f"step {row['probe']['step']}."
        for row in summary["rows"]
        if "probe" in row
    ]
    ratios = summary["ratios"].items()
    return [
        f"{pairs['test']} test pairs of {summary['scenes']} scenes at {height}x{width} pixels{learned}. "
        "End-point errors in pixels over the places that both images see; means over pairs.",
        (["", *(number.head for number in NUMBERS)], [cells(row) for row in summary["rows"]]),
        (RATIO_HEADS, [[label(name), f"{r['ratio']:.3f}", interval(r["low"], r["high"])] for name, r in ratios]),
        *(["Picked probes. " + " ".join(picked)] if picked else []),
    ]


def write_page(protocol: Protocol, work: Work, summary: Summary) -> None:
    """report.html, and layers.svg with the EPE by block where several layers were judged."""
    about, *rest = blocks(summary, protocol.cells)
    page = Page(f"{summary['protocol']}: {summary.get('model', 'the model')}", str(about))
    for block in rest:
        if isinstance(block, str):
            page.text(block, note=True)
        else:
            page.table(*block)
    curves: dict[str, tuple[list[float], list[float]]] = {}  # a line per way of normalising
    for row in summary["rows"]:
        parts = METHOD.fullmatch(row["method"])
        if parts and parts["layer"]:
            name = f"{parts['name']} {'without layer norm' if parts['ending'] else 'with layer norm'}"
            for values, value in zip(curves.setdefault(name, ([], [])), (int(parts["layer"]), row["epe"]), strict=True):
                values.append(value)
    if curves:
        chart = line_chart(curves, x_label="block", y_label="EPE, pixels")
        write_text(work.path / "layers.svg", chart)
        page.heading("By layer")
        page.svg(chart)
    page.heading("Some pairs")
    for pictures in rows_of_pictures(work, [summary["best"], *(m for m in summary["ratios"] if m != "zero_flow")]):
        page.pictures(pictures, zoom=2)
    page.write(work.path / "report.html")


def rows_of_pictures(work: Work, methods: Sequence[str]) -> Iterator[list[tuple[str, np.ndarray]]]:
    """For a few pairs: A, B, and B seen through the true warp and through those of methods, with captions."""
    kept, about = work.measured("pictures"), work.about
    pairs = dict(zip(kept["keys"].tolist(), kept["images"], strict=True))
    for item in work.items:
        if item.key not in pairs:
            continue
        first, second = pairs[item.key]
        true, valid = warp(*(posed_depth(work, item.about[side]) for side in "ab"))
        row = [("A", first), ("B", second), ("B through the true warp", through(second, true.numpy(), valid.numpy()))]
        for method in methods:
            answer: Any = work.answer(method, item)
            uv = upsample_warp(torch.from_numpy(answer["uv"])[None], tuple(about["grid"]), tuple(about["size"]))[0]
            row.append((f"B through: {label(method)}", through(second, uv.numpy(), valid.numpy())))
        yield row


def through(picture: np.ndarray, uv: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 sampled at pixels uv (H, W, 2), paper-coloured where not valid (H, W)."""
    import cv2

    places = (uv - 0.5).astype(np.float32)  # OpenCV's centres are at integers
    sampled = cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(valid[..., None], sampled, np.array(PAPER, np.uint8)).astype(np.uint8)


def posed_depth(work: Work, index: int) -> PosedDepth:
    """Depth and camera of a test frame, from files."""
    return PosedDepth(**{name: torch.from_numpy(value) for name, value in work.measured(f"{index:06d}").items()})
