"""The `manyview` command: finds the sub-command, imports only that one, turns users' mistakes into one line.

Exit codes: 0 done, 1 our failure, 2 the user's mistake, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence

from manyview import __version__
from manyview.errors import UserError

# name -> one line of help; the module manyview.cli.<name> is imported only when its command runs.
COMMANDS = {
    "quickstart": "the whole road once on an embedded default: render, cache, train, reconstruct, report",
    "data": "make, scan and check data: procedural scenes and manifests",
    "cache": "ask a teacher once and keep its answers: build, info, verify",
    "train": "train a student with a recipe (distill3r, mum, dune, pairs, dense)",
    "features": "encoder features of photos or a video, with pictures: components, attention, student beside teachers",
    "reconstruct": "photos or a video in; cameras, points and confidences out",
    "export": "write a reconstructed scene as PLY, GLB, COLMAP or nerfstudio",
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


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The top parser; only `command`'s own module is imported and asked for its arguments."""
    parser = argparse.ArgumentParser(
        prog="manyview",
        description="Compact 3D-aware vision models: train, distil, judge and use them on one workstation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"manyview {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, line in COMMANDS.items():
        module = importlib.import_module(f"manyview.cli.{name}") if name == command else None
        description = (module.__doc__ or line) if module else line
        sub = subparsers.add_parser(
            name, help=line, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if module:
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = next((word for word in argv if not word.startswith("-")), None)
    parser = build_parser(first)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return int(args.run(args))
    except UserError as error:
        print(f"manyview {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"manyview {args.command}: interrupted; finished work is kept, run the same line again",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        print(f"manyview {args.command}: {error.strerror}: {error.filename or 'the disk'}; "
              "free space or choose another -o, then run the same line again", file=sys.stderr)  # fmt: skip
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
