"""Turn an official checkpoint into a model directory: config.json and model.safetensors.

Code inside a checkpoint is never run. Sizes are read from the weights; --set overrides what shapes cannot
tell.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, help="weights file (.ckpt, .pth, .pt, .bin, .safetensors) or its folder"
    )
    parser.add_argument(
        "--arch", required=True, metavar="NAME", help="what it is; `manyview models` lists the names"
    )
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="DIR", help="model directory to write"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="configuration field to override, for example attention_scale=plain; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of sentences")


def run(args: argparse.Namespace) -> int:
    from manyview import zoo

    overrides = parse_overrides(args.overrides)
    try:
        out = zoo.convert(args.checkpoint, arch=args.arch, out=args.out, **overrides)
    except TypeError as error:
        if "unknown option" not in str(error):
            raise
        raise UserError(f"--set: {error}") from error
    card = zoo.CARDS[args.arch]
    if args.json:
        print(json.dumps({"model": str(out), "arch": args.arch, "licence": card.licence}))
        return 0
    print(f"wrote {out} ({args.arch})")
    print(f"licence of these weights: {card.licence}")
    print(f"next: {next_command(card.task, out)}")
    return 0


def next_command(task: str, out: Path) -> str:
    """A sensible line after converting a model of this task."""
    if "pointmaps" in task:
        return f"manyview reconstruct photos/ --model {out} -o scene"
    return f"python -c \"import manyview as mv; model = mv.load('{out}')\""


def parse_overrides(assignments: list[str]) -> dict[str, object]:
    """key=value pairs with YAML values. Raises UserError for one without an equals sign or an unreadable
    value.
    """
    overrides: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set takes key=value, got {assignment!r}")
        try:
            overrides[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {key}: cannot read {text!r}") from error
    return overrides
