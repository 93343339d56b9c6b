"""Measure speed side by side on this machine. The benchmarks live in the folder `benchmarks` of a checkout.

manyview bench               list them
manyview bench render        views per second of the procedural renderer
manyview bench cache --json cache.json
"""

from __future__ import annotations

import argparse
import ast
import json
import runpy
from collections.abc import Sequence
from pathlib import Path

import manyview
from manyview.cli.output import Answer, table
from manyview.errors import UserError
from manyview.registry import did_you_mean

FOLDER = Path(manyview.__file__).resolve().parents[2] / "benchmarks"


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("name", nargs="?", help="which benchmark; without it, the list")


def run(args: argparse.Namespace) -> Answer:
    scripts = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
    if not scripts:
        raise UserError(f"no benchmarks at {FOLDER}: they are part of a checkout, not of the installed package")
    if args.name is None:
        lines = {name: _first_sentence(path) for name, path in scripts.items()}
        return Answer(
            values=lines, lines=table([("benchmark", "what it measures"), *lines.items()]), next=["manyview bench NAME"]
        )
    if args.name not in scripts:
        raise UserError(f"no benchmark {args.name!r}; {did_you_mean(args.name, scripts)}")
    script = scripts[args.name]
    benchmark = runpy.run_path(str(script))
    if "run" not in benchmark:
        raise UserError(f"{script} is a script with its own arguments: python {script} --help")
    results = benchmark["run"]()
    return Answer(values=results, lines=[json.dumps(results, indent=1)], indent=1)


def _first_sentence(script: Path) -> str:
    """The first line of a script's docstring, read without running it."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "-"
    return text.partition("\n")[0]
