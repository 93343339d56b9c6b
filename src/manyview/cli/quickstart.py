"""The main job, end to end, on an embedded default, ending with a report to open in a browser.

It renders procedural rooms, builds a teacher cache, trains the tiny student from the bundled weights, reconstructs
rooms it never saw from their pictures alone, and compares with the best constant plane. About six minutes on two cores.

  manyview quickstart -o out/quickstart
  manyview quickstart --scratch -o out/scratch     from random weights
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, default=Path("out/quickstart"), metavar="DIR",
                        help="where everything goes; default: %(default)s")  # fmt: skip
    parser.add_argument(
        "--scratch", action="store_true", help="start from random weights, not the bundled model"
    )
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--scenes", type=int, help="training scenes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from manyview.quickstart import QuickstartConfig, quickstart, say_to_stderr

    config = QuickstartConfig(scratch=args.scratch)
    if args.scratch and args.steps is None:
        config = replace(config, steps=420)
    given = {name: getattr(args, name) for name in ("steps", "scenes") if getattr(args, name) is not None}
    result = quickstart(args.out, config=replace(config, **given), say=say_to_stderr)
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{'':22}  AbsRel  accuracy  completeness (cm)")
    for name, row in result["table"].items():
        print(f"{name:>22}  {row['abs_rel']:6.3f}  {row['accuracy']:8.1f}  {row['completeness']:12.1f}")
    print(f"wrote {result['report']} and {result['model']} in {result['seconds']:.0f} s")
    print(f"next: open {result['report']}; manyview reconstruct photos/ -o scene")
    return 0
