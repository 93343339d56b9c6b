"""Judge a model on a manifest with a protocol: predictions are exported once, then scored from files.

manyview eval --list
manyview eval recon-per-view --help                                                   the options of one protocol
manyview eval recon-per-view --model manyview-tiny --data test.parquet
manyview eval recon-per-view --model runs/mine/model --data test.parquet --baselines --train train.parquet
manyview eval views-used --model runs/mine/model          a gate, on scenes of its own; exit code 1 when it fails
manyview eval matching-probe --model runs/mum/model --data rooms.parquet --size 96    (or --set size=96)

Run the same line again to continue where it stopped; scoring again does not ask the model again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import manyview as mv
from manyview.cli.options import add_device, add_options, add_set, imported, named, number
from manyview.cli.output import Answer, table
from manyview.config import hints_of, sentences_of
from manyview.errors import UserError
from manyview.files import parse_json

_protocols = partial(imported, "manyview.evaluation.base:PROTOCOLS")


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    text = "which evaluation (see --list); PROTOCOL --help explains its options"
    add("protocol", nargs="?", metavar="PROTOCOL", help=text)
    add("--list", action="store_true", help="name the protocols and stop")
    add("--model", metavar="NAME|DIR", help="a model of the zoo, or a model directory")
    text = "manifest with images, depth, intrinsics (and poses); protocols that bring their own need none"
    add("--data", type=Path, metavar="TEST.parquet", help=text)
    add_set(parser, "options of the protocol: views=8 seed=1")
    text = "folder for predictions and results (default: runs/eval/...)"
    add("-o", "--out", type=Path, metavar="OUT", help=text)
    text = "throw away what OUT holds of other settings, or what FILE of --json holds"
    add("--overwrite", action="store_true", help=text)
    text = "processes that read pictures for a probe (default: by the device; 0 beside a CPU)"
    add("--workers", type=number(int, least=0), metavar="N", help=text)
    add_device(parser)
    name = named(parser, words, lambda: _protocols().names())
    if name is not None:
        protocol: Any = _protocols().get(name)
        if "train" in hints_of(protocol):
            text = sentences_of(protocol).get("train", "training frames")
            add("--train", type=Path, metavar="TRAIN.parquet", help=f"{text} (manifest)")
        add_options(parser, protocol(), title=f"options of {name}", about=protocol.line, skip=("train",))


def run(args: argparse.Namespace) -> Answer:
    if args.list:
        lines = {name: _protocols().get(name).line for name in _protocols().names()}
        example = "manyview eval PROTOCOL --model manyview-tiny --data MANIFEST.parquet"
        return Answer(
            values=lines, lines=table([("protocol", "what it says"), *lines.items()], indent=0), next=[example]
        )
    protocol: Any = _protocol(args) if args.protocol else None
    if protocol and args.model and not args.data:
        args.data = protocol.own_data(Path("runs") / "eval" / f"{args.protocol}-data")
    for name, value in (("PROTOCOL", args.protocol), ("--model", args.model), ("--data", args.data)):
        if value is None:
            example = "recon-per-view --model manyview-tiny --data M.parquet"
            raise UserError(f"{name} is missing; for example: {example}")
    from manyview.engine.device import pick_device
    from manyview.evaluation.base import all_settings, evaluate
    from manyview.zoo.models import load_as

    data = mv.Manifest.load(args.data)
    model, _ = load_as(args.model, protocol.needs, pick_device(args.device))
    out = args.out or _default_out(args, all_settings(protocol, model, data))
    names = {"model": str(args.model), "data": str(args.data)}
    summary = evaluate(protocol, model, data, out, overwrite=args.overwrite, names=names, workers=args.workers)
    written = sorted(f.name + "/" * f.is_dir() for f in out.iterdir() if not f.name.startswith("."))
    return Answer(
        values=parse_json((out / "summary.json").read_text(encoding="utf-8")),
        lines=[protocol.markdown(summary), f"wrote {out}: {', '.join(written)}"],
        next=[f"manyview {protocol.next_step} --model {shlex.quote(str(args.model))}"],
        code=0 if summary.get("passed", True) else 1,
    )


def _protocol(args: argparse.Namespace) -> Any:
    """The protocol with its options; the manifest of training frames, where it takes one, is read here."""
    from manyview.config import override

    kind: Any = _protocols().get(args.protocol)
    train = getattr(args, "train", None)
    given = {} if train is None else {"train": mv.Manifest.load(train)}
    return override(kind(**given), args.settings)


def _default_out(args: argparse.Namespace, settings: dict[str, Any]) -> Path:
    """A folder for these settings alone, so that another model or manifest never meets an older evaluation."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "-", Path(args.model).name) or "model"
    return Path("runs") / "eval" / f"{args.protocol}-{name}-{digest}"
