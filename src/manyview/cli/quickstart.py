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
from manyview.cli.output import add_json, deliver, print_next, print_table


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.quickstart import QuickstartConfig

    parser.add_argument(
        "-o", "--out", type=Path, default=Path("out/quickstart"), metavar="DIR",
        help="where everything goes; default: %(default)s",
    )  # fmt: skip
    add_options(parser, QuickstartConfig(), title="sizes of the job")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from manyview.config import override
    from manyview.quickstart import QuickstartConfig, quickstart, say_to_stderr

    first = ["steps=420"] if "scratch=true" in args.settings else []  # random weights need longer
    config = override(QuickstartConfig(), [*first, *args.settings])
    result = quickstart(args.out, config=config, say=say_to_stderr)

    def show() -> None:
        rows = [
            (name, f"{row['abs_rel']:.3f}", f"{row['accuracy']:.1f}", f"{row['completeness']:.1f}")
            for name, row in result["table"].items()
        ]
        print_table([("", "AbsRel", "accuracy", "completeness (cm)"), *rows], right=(1, 2, 3))
        print(f"wrote {result['report']} and {result['model']} in {result['seconds']:.0f} s")
        print_next(f"open {result['report']}; manyview reconstruct photos/ -o scene")

    deliver(args, result, show)
    return 0
