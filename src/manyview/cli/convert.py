"""Turn an official checkpoint into a model directory: config.json and model.safetensors.

Code inside a checkpoint is never run. The configuration is what the file says of itself, then what its shapes
say; --set overrides what neither can tell. --set encoder=NAME|DIR|FILE puts an encoder into a file without one.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import manyview as mv
from manyview.cli.options import add_set
from manyview.cli.output import Answer
from manyview.config import read_assignments
from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, help="weights file (.ckpt, .pth, .pt, .bin, .safetensors) or its folder")
    add("--arch", required=True, metavar="NAME", help="what it is; `manyview models` lists the names")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="model directory to write")
    add(
        "--part",
        metavar="NAME",
        help="of a container of training, the entry to take (teacher, model.ema); default: guessed",
    )
    text = "take the weights whose names begin so, without it (model.backbone.); default: guessed, and said"
    add("--prefix", metavar="TEXT", help=text)
    text = "configuration field to override: attention_scale=plain, encoder=NAME|DIR|FILE, …; may be repeated"
    add_set(parser, text, nargs=None, action="append")


def run(args: argparse.Namespace) -> Answer:
    overrides = read_assignments(args.settings, "--set")
    try:
        out = mv.zoo.convert(
            args.checkpoint,
            arch=args.arch,
            out=args.out,
            part=args.part,
            prefix=args.prefix,
            overwrite=args.overwrite,
            **overrides,
        )
    except TypeError as error:
        if "unknown option" not in str(error):
            raise
        raise UserError(f"--set: {error}") from error
    licences = mv.zoo.licences_of(out)
    from manyview.zoo.directory import read_config

    origin = read_config(out)["card"]["origin"]
    terms = [f"licence of {entry['name']}: {entry['licence']}: {entry['allows']}" for entry in licences]
    mv.load(out, verify=True)  # what lies on the disk is what was meant
    return Answer(
        values={"model": str(out), "arch": args.arch, "licences": licences},
        lines=[f"wrote {out} ({args.arch})", *terms],
        notes=_taken(origin, args),
        next=[next_command(mv.zoo.CARDS[args.arch].task if args.arch in mv.zoo.CARDS else "", out)],
    )


def _taken(origin: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """What was guessed of a container of training, and what was left out."""
    said = []
    if origin.get("part") and args.part is None:
        beside = f", beside {', '.join(map(repr, origin['beside'][:5]))}" if origin.get("beside") else ""
        said.append(f"took the part {origin['part']!r} of the file{beside} (--part names another one)")
    if origin.get("prefix") and args.prefix is None:
        without = f"; {origin['without']} weights without it are left out" if origin.get("without") else ""
        said.append(f"took the prefix {origin['prefix']!r} of the file (--prefix names another one){without}")
    if origin.get("sizes"):
        said.append(f"its sizes are not those of {args.arch}: {origin['sizes']}")
    if left := origin.get("left_out"):
        said.append(f"left out {len(left)} weights that the model has no place for, first {left[0]!r}")
    return said


def next_command(task: str, model: Path | str) -> str:
    """A sensible line after getting a model of this task."""
    quoted = shlex.quote(str(model))
    if "to pointmaps" in task or "to metric pointmaps" in task:
        return f"manyview reconstruct photos/ --model {quoted} -o scene"
    if task.startswith("image features"):
        return f"manyview features photos/ --model {quoted} -o features"
    return f"python -c {shlex.quote(f'import manyview as mv; model = mv.load({str(model)!r})')}"
