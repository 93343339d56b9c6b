"""What commands print: sentences or one JSON object, tables, what was written and the next sensible command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.errors import UserError

STDOUT = "-"


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json` prints one JSON object instead of sentences; `--json FILE` writes it beside them."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE",
        help="print one JSON object instead of sentences; with FILE (.json) write it there as well as sentences",
    )  # fmt: skip
    if "--overwrite" not in parser._option_string_actions:
        parser.add_argument(
            "--overwrite", action="store_true", help="let --json replace a FILE that is not its own"
        )


def deliver(
    args: argparse.Namespace, values: Any, show: Callable[[], None], *, indent: int | None = None
) -> None:
    """Give out the numbers of a command as `--json` asks for them; `show` prints the sentences."""
    if args.json == STDOUT:
        print(json.dumps(values, indent=indent))
        return
    show()
    if args.json is not None:
        from manyview.files import write_text

        check_json(args, values)
        write_text(Path(args.json), json.dumps(values, indent=1) + "\n")
        print(f"wrote {args.json}")


def check_json(args: argparse.Namespace, values: Any = None) -> None:
    """Raise UserError when `--json FILE` would replace something else than such an object, unless told to.

    values: what will be written; a file of an earlier run shares its keys.
    """
    target = getattr(args, "json", None)
    if target in (None, STDOUT) or args.overwrite or not Path(target).exists():
        return
    try:
        older = json.loads(Path(target).read_bytes())
    except (OSError, ValueError):
        older = None
    same = isinstance(older, dict) and (values is None or bool({*older} & {*values}) or not older)
    if not same:
        raise UserError(
            f"--json {target}: that file holds something else; name another one, or add --overwrite"
        )


def print_next(steps: str | Sequence[str]) -> None:
    """The next sensible commands, one a line."""
    lines = [steps] if isinstance(steps, str) else list(steps)
    print("next: " + "\n      ".join(lines))


def print_rows(rows: Mapping[str, Any] | Iterable[tuple[str, Any]], *, indent: int = 2) -> None:
    """Names and values, the values below each other."""
    pairs = [(name, str(value)) for name, value in (rows.items() if isinstance(rows, Mapping) else rows)]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{'':{indent}}{name:<{width}}  {value}")


def print_table(rows: Sequence[Sequence[str]], *, indent: int = 2, right: Iterable[int] = ()) -> None:
    """Rows of words in columns; the columns numbered in `right` are flushed to the right."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            word.rjust(width) if i in right else word.ljust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(" " * indent + "  ".join(cells).rstrip())
