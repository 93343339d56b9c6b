"""Measure speed side by side on this machine. The benchmarks live in the folder `benchmarks` of a checkout.

manyview bench               list them
manyview bench render        views per second of the procedural renderer
manyview bench cache --json cache.json
"""

from __future__ import annotations

import argparse
import json
import runpy
from collections.abc import Sequence
from pathlib import Path

import manyview
from manyview.cli.output import add_json, deliver, print_next, print_rows
from manyview.errors import UserError
from manyview.registry import did_you_mean


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("name", nargs="?", help="which benchmark; without it, the list")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    folder = Path(manyview.__file__).resolve().parents[2] / "benchmarks"
    paths = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if not paths:
        raise UserError(
            f"no benchmarks at {folder}: they are part of a checkout, not of the installed package"
        )
    if args.name is None:
        lines = {name: (_load(path).get("__doc__") or "-").splitlines()[0] for name, path in paths.items()}
        deliver(args, lines, lambda: (print_rows(lines), print_next("manyview bench NAME")))
        return 0
    if args.name not in paths:
        raise UserError(f"no benchmark {args.name!r}; {did_you_mean(args.name, paths)}")
    benchmark = _load(paths[args.name])
    if "run" not in benchmark:
        path = paths[args.name]
        raise UserError(f"{path} is a script with its own arguments: python {path} --help")
    results = benchmark["run"]()
    deliver(args, results, lambda: print(json.dumps(results, indent=1)), indent=1)
    return 0


def _load(path: Path) -> dict[str, object]:
    return runpy.run_path(str(path))
