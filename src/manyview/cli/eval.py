"""Judge a model on a manifest with a protocol of the field: predictions are exported once, then scored from
files.

manyview eval --list
manyview eval recon-per-view --model manyview-tiny --data test.parquet
manyview eval recon-per-view --model runs/mine/model --data test.parquet --baselines --train train.parquet
manyview eval matching-probe --model runs/mum/model --data rooms.parquet --set size=96

The same line goes on where it was stopped; scoring again does not ask the model again.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("protocol", nargs="?", metavar="PROTOCOL", help="which evaluation; see --list")
    add("--list", action="store_true", help="name the protocols and stop")
    add("--model", metavar="NAME|DIR", help="a model of the zoo, or a model directory")
    add(
        "--data",
        type=Path,
        metavar="TEST.parquet",
        help="manifest with images, depth, intrinsics (and poses)",
    )
    add("--baselines", action="store_true", default=None, help="also judge answers that need no learning")
    add(
        "--train",
        type=Path,
        metavar="TRAIN.parquet",
        help="training frames, for probes and for baselines made of them",
    )
    add("--views", type=int, metavar="N", help="frames seen together (recon-per-view: in its second run)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="other options of the protocol",
    )
    add(
        "-o",
        "--out",
        type=Path,
        metavar="OUT",
        help="folder for predictions and results (default: runs/eval/...)",
    )
    add("--overwrite", action="store_true", help="throw away what OUT holds of other settings")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="also write the summary there; without FILE to stdout",
    )


def run(args: argparse.Namespace) -> int:
    from manyview.evaluation.base import PROTOCOLS

    if args.list:
        return _list(args, PROTOCOLS)
    for name, value in (("PROTOCOL", args.protocol), ("--model", args.model), ("--data", args.data)):
        if value is None:
            raise UserError(
                f"{name} is missing; for example: recon-per-view --model manyview-tiny --data M.parquet"
            )
    protocol_class: Any = PROTOCOLS.get(args.protocol)

    from manyview import zoo
    from manyview.config import override
    from manyview.data.manifest import Manifest
    from manyview.engine.device import pick_device
    from manyview.evaluation.base import all_settings, evaluate

    options = _options(args, protocol_class)
    if "train" in options:
        options["train"] = Manifest.load(options["train"])
    protocol = override(protocol_class(**options), args.set)
    data = Manifest.load(args.data)
    model = zoo.load(args.model, device=pick_device(args.device)).eval()
    out = args.out or _default_out(args, all_settings(protocol, model, data))
    names = {"model": str(args.model), "data": str(args.data)}
    summary = evaluate(protocol, model, data, out, overwrite=args.overwrite, names=names)
    return _show(args, protocol.markdown(summary), out)


def _options(args: argparse.Namespace, protocol_class: Any) -> dict[str, Any]:
    """The options given as flags. Raises UserError for one that this protocol does not have."""
    import dataclasses

    known = {field.name for field in dataclasses.fields(protocol_class)}
    given = {
        name: getattr(args, name)
        for name in ("baselines", "train", "views")
        if getattr(args, name) is not None
    }
    for name in given:
        if name not in known:
            raise UserError(f"{args.protocol} has no --{name}; leave it away")
    return given


def _list(args: argparse.Namespace, protocols: Any) -> int:
    lines = {name: protocols.get(name).line for name in protocols.names()}
    if args.json:
        print(json.dumps(lines))
        return 0
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}")
    print("next: manyview eval PROTOCOL --model manyview-tiny --data MANIFEST.parquet")
    return 0


def _default_out(args: argparse.Namespace, settings: dict[str, Any]) -> Path:
    """A folder of its own for these settings, so that another model or manifest never meets an older
    evaluation.
    """
    import hashlib

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "-", Path(args.model).name) or "model"
    return Path("runs") / "eval" / f"{args.protocol}-{name}-{digest}"


def _show(args: argparse.Namespace, tables: str, out: Path) -> int:
    text = (out / "summary.json").read_text(encoding="utf-8")
    if args.json == "-":
        print(json.dumps(json.loads(text)))
        return 0
    print(tables)
    if args.json:
        from manyview.files import write_bytes

        write_bytes(Path(args.json), text.encode())
        print(f"wrote {args.json}")
    found = ", ".join(sorted(f.name + "/" * f.is_dir() for f in out.iterdir() if not f.name.startswith(".")))
    print(f"wrote {out}: {found}")
    use = (
        "reconstruct IMAGES -o scene"
        if args.protocol == "recon-per-view"
        else "features IMAGES -o features --pca"
    )
    print(f"next: manyview {use} --model {args.model}")
    return 0
