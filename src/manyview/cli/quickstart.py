"""The main job, end to end, on an embedded default, ending with a report to open in a browser.

It renders procedural rooms, builds a teacher cache, trains the tiny student from the bundled weights, reconstructs
rooms it never saw from their pictures alone, and compares with the best constant plane. About six minutes on two cores.

  manyview quickstart -o out/quickstart
  manyview quickstart --scratch -o out/scratch     from random weights
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.options import add_options
from manyview.cli.output import Answer, table

OUT = Path("out/quickstart")


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.quickstart import QuickstartConfig

    parser.add_argument("-o", "--out", type=Path, default=OUT, metavar="DIR", help=f"folder to write; default: {OUT}")
    add_options(parser, QuickstartConfig(), title="sizes of the job")


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.quickstart import QuickstartConfig, quickstart, say_to_stderr

    longer = ["steps=420"] if "scratch=true" in args.settings else []  # random weights have more to learn
    result = quickstart(args.out, config=override(QuickstartConfig(), [*longer, *args.settings]), say=say_to_stderr)
    cells = [("", "AbsRel", "accuracy", "completeness (cm)")]
    for name, row in result["table"].items():
        cells.append((name, f"{row['abs_rel']:.3f}", f"{row['accuracy']:.1f}", f"{row['completeness']:.1f}"))
    written = f"wrote {result['report']} and {result['model']} in {result['seconds']:.0f} s"
    next_steps = [f"open {result['report']} in a browser", "manyview reconstruct photos/ -o scene"]
    return Answer(values=result, lines=[*table(cells, right=(1, 2, 3)), written], next=next_steps)
