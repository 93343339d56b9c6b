"""The gate `views-used` on the models in the box, and the same numbers on real frames, into a section of a page.

python benchmarks/views_used.py ../shared/data -o out/views-used --write docs/results.md

Held out: 48 procedural scenes of seeds that nothing is trained on, 4 of 8 views each. Real: sets in the cameras.json
layout with measured depth and poses; nothing was trained on them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_page import write_section

from manyview.cli.main import main as manyview
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.views_used import LABELS, ViewsUsed, asked

MODELS = ("manyview-small", "manyview-tiny")
REAL = {"redkitchen_000_499": 2, "hololens_000_185": 2, "slambook_rgbd": 1}  # set -> frames from view to view


def judged(model: str, out: Path, *more: str) -> dict[str, Any]:
    """The summary of one evaluation; it goes on where it stopped."""
    words = ["eval", "views-used", "--model", model, "-o", str(out), "--json", f"{out}.json", "--overwrite", *more]
    print("$ manyview", *words, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    code = manyview(words)
    if code not in (0, 1):
        raise SystemExit(code)
    return json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))


def page(held_out: dict[str, dict[str, Any]], real: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The section as Markdown."""
    gates = {model: summary["gate"] for model, summary in held_out.items()}
    lines = []
    for name, text in LABELS.items():
        cells = [f"{g[name]['value']:.3f}, {'pass' if g[name]['passed'] else 'fail'}" for g in gates.values()]
        lines.append([text, asked(name), *cells])
    parts = [
        "## Are the other views used?",
        "Written by `python benchmarks/views_used.py ../shared/data --write docs/results.md`. The gate that a model in "
        "the box must pass (`manyview eval views-used --model NAME`), on 48 rendered scenes that nothing was trained "
        "on, four of eight views:",
        markdown_table(["", "asked", *gates], lines),
        "The numbers behind it, and the same on real frames (point errors in metres after one scale a window; "
        "medians of later views, means over windows):",
    ]
    numbers = ViewsUsed.numbers
    rows = []
    for name, summaries in {"held-out scenes": held_out, **real}.items():
        for model, summary in summaries.items():
            (row,) = summary["rows"]
            cells = [number.text(row.get(number.key)) for number in numbers]
            rows.append([f"{name}, {model}", *cells, str(row["windows"])])
    parts.append(markdown_table(["", *(number.head for number in numbers), "windows"], rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of real sets; those that are not there are left out")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/views-used"))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--write", type=Path, metavar="MD")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scenes = ViewsUsed().own_data(args.out / "scenes")
    held_out, real = {}, {}
    for model in args.models:
        name = Path(model).name
        held_out[name] = judged(model, args.out / name / "held-out", "--data", str(scenes))
        for folder, stride in REAL.items():
            if not (args.data / folder / "cameras.json").is_file():
                print(f"{args.data / folder} is not here: left out")
                continue
            manifest = args.out / f"{folder}.parquet"
            if not manifest.is_file():
                manyview(["data", "scan", str(args.data / folder), "--format", "manyview", "-o", str(manifest)])
            more = ("--data", str(manifest), "--stride", str(stride))
            real.setdefault(folder, {})[name] = judged(model, args.out / name / folder, *more)
    text = page(held_out, real)
    print(text)
    if args.write:
        write_section(args.write, "views-used", text)


if __name__ == "__main__":
    main()
