"""Turn an official checkpoint into a model directory: config.json and model.safetensors.

Code inside a checkpoint is never run. The configuration is what the file says of itself, then what its shapes
say; --set overrides what neither can tell. --set encoder=NAME|DIR|FILE puts an encoder into a file without one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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
        help="configuration field to override, for example attention_scale=plain, or encoder=NAME|DIR|FILE; "
        "may be repeated",
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
    licences = zoo.licences_of(out)
    task = zoo.CARDS[args.arch].task if args.arch in zoo.CARDS else ""
    if args.json:
        print(json.dumps({"model": str(out), "arch": args.arch, "licences": licences}))
        return 0
    print(f"wrote {out} ({args.arch})")
    for entry in licences:
        print(f"licence of {entry['name']}: {entry['licence']}: {entry['allows']}")
    print(f"next: {next_command(task, out)}")
    return 0


def next_command(task: str, model: Path | str) -> str:
    """A sensible line after getting a model of this task."""
    if "to pointmaps" in task or "to metric pointmaps" in task:
        return f"manyview reconstruct photos/ --model {model} -o scene"
    if task.startswith("image features"):
        return f"manyview features photos/ --model {model} -o features"
    return f"python -c \"import manyview as mv; model = mv.load('{model}')\""


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """key=value pairs with YAML values. Raises UserError for one without an equals sign or an unreadable
    value.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set takes key=value, got {assignment!r}")
        try:
            overrides[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {key}: cannot read {text!r}") from error
    return overrides
