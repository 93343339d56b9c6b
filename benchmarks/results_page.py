"""The page that benchmarks/real_frames.py writes: numbers come from its evaluations, sentences only frame them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from manyview.evaluation.recon_per_view import NUMBERS, ReconPerView
from manyview.evaluation.tables import markdown_table

tables = ReconPerView().markdown
HEADS = {number.key: number.head for number in NUMBERS}
ASKED = {
    "constant_plane": {"abs_rel": 0.50, "completeness": 0.40, "accuracy": 0.80},
    "mean_map": {"abs_rel": 0.65, "completeness": 0.55, "accuracy": 0.60},
}
NAMES = {"constant_plane": "the best constant plane", "mean_map": "the mean training depth map"}


def page(students: dict[str, dict[str, Any]], machine: str) -> str:
    """The markdown of docs/results.md. The first student was judged beside the baselines."""
    first = next(iter(students.values()))
    summary = first["scores"]
    baselines = {row["method"]: row for row in summary["rows"]}
    parts = [
        "# Results on real frames",
        "Written by `python benchmarks/real_frames.py DATA/redkitchen_000_499 --write docs/results.md`; nothing here "
        f"was typed by hand. Machine: {machine}. Data: 100 kept frames of the 7-Scenes red kitchen (Kinect), trained "
        "on frames 0 to 59, judged on 80 to 99, at least 100 video frames apart, at 112×154 pixels. The same room is "
        "in both: this measures a student specialised to a place, not one that knows new places.",
        "## The students",
        markdown_table(
            ["student", *HEADS.values(), "steps", "CPU minutes"],
            [[name, *_numbers(_model(s)), str(s["steps"]), f"{s['cpu_minutes']:.1f}"] for name, s in students.items()],
        ),
        "Accuracy and completeness are medians of nearest-neighbour distances, ×100 (centimetres); one scale per view.",
        "## Against the trivial answers",
        "Ratio to the trivial answer, and the most that was asked for:",
        markdown_table(
            ["student", *(f"{HEADS[c]} / {NAMES[b]}" for b in ASKED for c in ASKED[b])],
            [
                [name, *(_ratio(_model(s)[c], baselines[b][c], ASKED[b][c]) for b in ASKED for c in ASKED[b])]
                for name, s in students.items()
            ],
        ),
        "## All answers, first student",
        tables(summary).split("\n", 2)[2].strip(),
    ]
    for name, student in list(students.items())[1:]:
        parts += [f"## {name[0].upper() + name[1:]}", tables(student["scores"]).split("\n", 2)[2].strip()]
    return "\n\n".join(parts) + "\n"


def write_section(page: Path, name: str, text: str) -> None:
    """Put `text` between the marks of `name` in a page; the rest of it, which other commands write, stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    kept = re.sub(f"\\n*{re.escape(begin)}.*?{re.escape(end)}\\n*", "\n\n", old, flags=re.DOTALL).strip()
    page.write_text(f"{kept}\n\n{begin}\n\n{text.strip()}\n\n{end}\n".lstrip(), encoding="utf-8")
    print(f"wrote the section {name} of {page}")


def _model(student: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in student["scores"]["rows"] if row["method"] == "model")


def _numbers(row: dict[str, Any]) -> list[str]:
    return [number.text(row.get(number.key)) for number in NUMBERS]


def _ratio(ours: float, theirs: float, most: float) -> str:
    ratio = ours / theirs
    return f"{ratio:.2f} (≤ {most:.2f}{'' if ratio <= most else ', missed'})"
