"""What a command answers, and how it is given out: sentences, or the same as one JSON object."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        parser.add_argument("--overwrite", action="store_true", help="replace files that are not from an earlier run")


_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, *, one_line: bool = False) -> str:
    """Text as it is safe to print: what would steer a terminal, in a file's name for example, is written out."""
    safe = _UNSAFE.sub(lambda char: _written_out(char[0]), str(text))
    return safe.replace("\n", "\\n") if one_line else safe


def _written_out(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def give(answer: Answer, args: argparse.Namespace) -> int:
    """Print an answer as `--json` asks for it, and write it where it says; the exit code."""
    if args.json == STDOUT:
        print(json.dumps(answer.values, indent=answer.indent))
    else:
        for line in answer.lines:
            print(printable(line))
        for note in answer.notes:
            print(printable(note, one_line=True), file=sys.stderr)
        if args.json is not None:
            from manyview.files import write_text

            with output_file(Path(args.json), args, flag="--json "):
                write_text(Path(args.json), json.dumps(answer.values, indent=1) + "\n")
            print(printable(f"wrote {args.json}"))
        if answer.next:
            print(printable("next: " + "\n      ".join(answer.next)))
    if answer.problem:
        raise UserError(answer.problem)
    return answer.code


def check_json(args: argparse.Namespace) -> None:
    """Raise UserError when `--json FILE` cannot be written, or would replace a file that is not from an earlier run."""
    if args.json not in (None, STDOUT):
        from manyview.written import refuse_other_file

        refuse_other_file(Path(args.json), overwrite=args.overwrite, flag="--json ")


@contextmanager
def output_file(path: Path, args: argparse.Namespace, *, flag: str = "") -> Iterator[None]:
    """The block writes the file `path`: one that is not from an earlier run is refused, unless `--overwrite`."""
    from manyview.written import one_file

    with one_file(path, overwrite=args.overwrite, flag=flag):
        yield


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
