"""The `manyview` command: finds the sub-command, imports only that one, turns users' mistakes into one line.

Exit codes: 0 done, 1 our failure, 2 the user's mistake, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from manyview import progress
from manyview.cli.options import Parser
from manyview.cli.output import STDOUT, add_json, check_json, give, printable
from manyview.errors import UserError
from manyview.version import __version__
from manyview.written import check_place, reason

# name -> one line of help; the module manyview.cli.<name> is imported only when its command runs.
COMMANDS = {
    "quickstart": "the whole road once on an embedded default: render, cache, train, reconstruct, report",
    "data": "make, scan and check data: procedural scenes and manifests",
    "cache": "ask a teacher once and keep its answers: build, info, verify",
    "train": "train a student with the recipe of a paper (train --list names them)",
    "features": "encoder features of photos or a video, with pictures: components, attention, student beside teachers",
    "reconstruct": "photos or a video in; cameras, points and confidences out",
    "locate": "words in, places out: which points of a scene or of photos are a chair, in boxes, or that none is there",
    "distil": "a video or photos of a place in; a student of that place out",
    "view": "look at a reconstructed scene in the browser",
    "localise": "where further photos were taken, in a reconstructed scene",
    "export": "write a reconstructed scene for other programs: PLY, GLB, COLMAP, nerfstudio",
    "eval": "judge a model on a manifest with a protocol of the field",
    "study": "run a paper's ablation in miniature, with seeds, beside the paper's numbers",
    "models": "list the models we know: where from, how big, under which licence; download one",
    "convert": "turn an official checkpoint into a safe model directory",
    "onnx": "write an encoder or a many-view model as ONNX, checked against PyTorch",
    "bench": "measure speed side by side on this machine",
    "doctor": "say what this machine has and what is missing",
}

EPILOG = """first steps:
  manyview quickstart                          see everything work, in a few minutes
  manyview reconstruct photos/ -o scene        your own photos, with the bundled model
  manyview COMMAND --help                      teaches one command"""

JSON_TAKES_ANY_NAME = ("eval", "bench")
"""Commands whose `--json FILE` need not end in .json."""

LESS = "nothing half written is left; free memory and run the same line again"
OF_MEMORY = {
    "reconstruct": "--max-frames N takes fewer photos, a smaller --image-size less of each",
    "localise": "name fewer photos at a time",
    "features": "a smaller --batch needs less, --max-frames N takes fewer pictures",
    "train": "a smaller --run.batch with a larger --run.accumulate needs less; --resume goes on from the last save",
}
"""What needs less memory, of commands that have a flag for it; of the others `LESS`."""


def build_parser(command: str | None, words: Sequence[str] = ()) -> Parser:
    """The top parser; only `command`'s own module is imported and asked for its arguments.

    words: what follows the command, so that it can add the options of the recipe, protocol or format named there.
    """
    parser = Parser(
        prog="manyview",
        description="Compact 3D-aware vision models: train, distil, judge and use them on one workstation.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"manyview {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, line in COMMANDS.items():
        module = importlib.import_module(f"manyview.cli.{name}") if name == command else None
        sub = subparsers.add_parser(name, help=line, description=(module and module.__doc__) or line)
        if module:
            module.add_arguments(sub, words)
            add_json(sub)
            sub.set_defaults(run=module.run, words=words)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:
        _as_process()
    words = list(sys.argv[1:] if argv is None else argv)
    place = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    command = words[place] if place < len(words) else None
    words[place + 1 :] = _spelled(words[place + 1 :], any_name=command in JSON_TAKES_ANY_NAME)
    name = f"manyview {command}" if command in COMMANDS else "manyview"
    args = argparse.Namespace()
    try:
        parser = build_parser(command, words[place + 1 :])
        args = parser.parse_args(words)
        if args.command is None:
            parser.print_help()
            return 0
        check_json(args)
        if isinstance(out := getattr(args, "out", None), Path):
            check_place(out)  # before the work, not after it
        return give(args.run(args), args)
    except UserError as error:
        return _tell(name, error)
    except KeyboardInterrupt as error:
        kept = "what was finished is kept, nothing is half written; run the same line again"
        _tell(name, f"interrupted; {str(error) or kept}")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if _out_of_memory(error):
            return _tell(name, f"memory ran out ({_first_line(error)}); {OF_MEMORY.get(command or '', LESS)}")
        if not isinstance(error, OSError):
            raise
        where = error.filename or getattr(args, "out", None) or "the disk"
        why = "no space left on the disk" if _cut_short(error) else reason(error)
        return _tell(name, f"{where}: {why}; mend that or choose another place, then run the line again")


def _tell(name: str, what: object) -> int:
    print(f"{name}: {printable(what, one_line=True)}", file=sys.stderr)
    return 2


def _out_of_memory(error: Exception) -> bool:
    """Asked only of errors that would end in a traceback, so that the import of PyTorch costs nobody a second."""
    from manyview.engine.memory import is_out_of_memory

    return is_out_of_memory(error)


def _first_line(error: Exception) -> str:
    """How much was asked for, as the library that asked says it."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _cut_short(error: OSError) -> bool:
    """Whether numpy's writers met a full disk: they give no number, only "N requested and M written"."""
    return error.errno is None and "requested and" in str(error)


def _as_process() -> None:
    """A scheduler's SIGTERM ends a command like Ctrl-C; warnings are one safe line."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"warning: {printable(message, one_line=True)}", file=sys.stderr)

    warnings.showwarning = show
    progress.say = lambda line: print(printable(line, one_line=True), file=sys.stderr, flush=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _spelled(words: Sequence[str], *, any_name: bool) -> list[str]:
    """Words with dashes in the names of flags, and with `--json` tied to its FILE where it has one."""
    spelled: list[str] = []
    for word in words:
        names_file = any_name or word.endswith(".json")
        if spelled and spelled[-1] == f"--json={STDOUT}" and names_file and not word.startswith("-"):
            spelled[-1] = f"--json={word}"
        elif word == "--json":
            spelled.append(f"--json={STDOUT}")
        else:
            spelled.append(re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), word))
    return spelled


if __name__ == "__main__":
    raise SystemExit(main())
