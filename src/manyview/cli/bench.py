"""Measure speed side by side on this machine. The benchmarks live in the folder `benchmarks` of a checkout.

manyview bench               list them
manyview bench render        views per second of the procedural renderer
manyview bench cache --json cache.json
"""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path

import manyview
from manyview.errors import UserError
from manyview.registry import did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="which benchmark; none lists them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")


def run(args: argparse.Namespace) -> int:
    folder = Path(manyview.__file__).resolve().parents[2] / "benchmarks"
    known = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if not known:
        raise UserError(
            f"no benchmarks at {folder}: they are part of a checkout, not of the installed package"
        )
    if args.name is None:
        for name, path in known.items():
            print(f"{name:>14}  {runpy.run_path(str(path)).get('__doc__', '').splitlines()[0]}")
        return 0
    if args.name not in known:
        raise UserError(f"no benchmark {args.name!r}; {did_you_mean(args.name, known)}")
    benchmark = runpy.run_path(str(known[args.name]))
    if "run" not in benchmark:
        raise UserError(
            f"{known[args.name]} is a script with its own arguments: python {known[args.name]} --help"
        )
    results = benchmark["run"](args.json)
    print(json.dumps(results, indent=1))
    return 0
