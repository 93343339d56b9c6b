"""What a command answers, and how it is given out: sentences, or the same as one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.errors import UserError

STDOUT = "-"


@dataclass(kw_only=True)
class Answer:
    """What every command returns; `give` prints it."""

    values: Any
    """The answer for machines: one JSON-able object."""
    lines: Sequence[str] = ()
    """The answer for people."""
    next: Sequence[str] = ()
    """The next sensible commands."""
    notes: Iterable[str] = ()
    """What was left out or is doubtful, for stderr."""
    problem: str = ""
    """A mistake that did not prevent the answer: one line for stderr, and exit code 2."""
    code: int = 0
    indent: int | None = None
    """Of the JSON."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json` to a command, or to every command below it."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for inner in group.choices.values():
            add_json(inner)
    if groups:
        return
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="print one JSON object instead of sentences; with FILE (.json) write it there as well as sentences",
    )
    if "--overwrite" not in parser._option_string_actions:
        parser.add_argument("--overwrite", action="store_true", help="let --json replace a FILE that is not its own")


def give(answer: Answer, args: argparse.Namespace) -> int:
    """Print an answer as `--json` asks for it, and write it where it says; the exit code."""
    if args.json == STDOUT:
        print(json.dumps(answer.values, indent=answer.indent))
    else:
        for line in answer.lines:
            print(line)
        for note in answer.notes:
            print(note, file=sys.stderr)
        if args.json is not None:
            from manyview.files import write_text

            check_json(args, answer.values)
            write_text(Path(args.json), json.dumps(answer.values, indent=1) + "\n")
            print(f"wrote {args.json}")
        if answer.next:
            print("next: " + "\n      ".join(answer.next))
    if answer.problem:
        raise UserError(answer.problem)
    return answer.code


def check_json(args: argparse.Namespace, values: Any = None) -> None:
    """Raise UserError when `--json FILE` cannot be written, or would replace something else, unless told to.

    values: what will be written; a file of an earlier run shares its keys. Without them, a check before the work.
    """
    if args.json in (None, STDOUT):
        return
    path = Path(args.json).absolute()
    folder = next(parent for parent in path.parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {path}; choose another file for --json")
    if args.overwrite or not path.exists():
        return
    try:
        older = json.loads(path.read_bytes())
    except (OSError, ValueError):
        older = None
    keys = _keys(older)
    if not keys or (values is not None and not keys & _keys(values)):
        raise UserError(f"--json {args.json}: that file holds something else; name another one, or add --overwrite")


def _keys(value: Any) -> set[str]:
    """The keys of an object, or of the first one of a list; empty for anything else."""
    first = value[0] if isinstance(value, list) and value else value
    return set(first) if isinstance(first, dict) else set()


def rows(values: Mapping[str, Any] | Iterable[tuple[str, Any]], *, indent: int = 2) -> list[str]:
    """Names and values, a line each, the values below each other."""
    pairs = values.items() if isinstance(values, Mapping) else values
    return table([(name, str(value)) for name, value in pairs], indent=indent)


def table(cells: Sequence[Sequence[str]], *, indent: int = 2, right: Iterable[int] = ()) -> list[str]:
    """Rows of words in columns; the columns numbered in `right` are flushed to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        words = [f"{word:{'>' if i in right else '<'}{widths[i]}}" for i, word in enumerate(row)]
        lines.append((" " * indent + "  ".join(words)).rstrip())
    return lines
