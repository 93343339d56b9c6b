"""`manyview data synth`: render furnished rooms and laid tables with exact depth, labels and cameras."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from manyview.cli.output import add_json, deliver, print_next
from manyview.config import parse_size
from manyview.errors import UserError

EXAMPLES = """examples:
  manyview data synth scenes                                        20 scenes of 20 views
  manyview data synth scenes --scenes 500 --size 112x154 --workers 4
  manyview data synth scenes --scenes 1000                          adds to what is there
  manyview data synth --contact-sheet sheet.jpg                     one picture that shows the variety
  manyview data synth --report                                      pixels per class; can objects be told apart?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EXAMPLES
    add = parser.add_argument
    add("out", nargs="?", type=Path, metavar="OUT", help="folder for scene_000000/ ... and manifest.parquet")
    add("--scenes", type=int, metavar="N", help="how many (default 20; of the report: 50)")
    add(
        "--views",
        type=int,
        metavar="V",
        help="frames of each scene's camera path (default 20; of the report: 8)",
    )
    add("--size", default="224x518", metavar="HxW", help="pixels (default 224x518)")
    add("--seed", type=int, default=0, metavar="S", help="other seeds give other scenes")
    add("--kind", default="auto", help="room, tabletop or auto: two rooms for every tabletop")
    add("--trajectory", default="auto", help="orbit, walk, dolly, pan, zigzag, wander or auto")
    add(
        "--normals", action="store_true", help="also write normals/*.png, camera frame, (n + 1) / 2 in 8 bits"
    )
    add("--workers", type=int, default=1, metavar="N", help="processes, one core each (default 1)")
    add("--device", default="cpu", help="cpu or cuda: where to render")
    add("--contact-sheet", type=Path, metavar="FILE", help="write one .jpg or .png of many scenes instead")
    add("--report", action="store_true", help="measure shares and separability of the classes instead")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.contact_sheet is not None:
        return _contact_sheet(args)
    if args.report:
        return _report(args)
    if args.out is None:
        raise UserError("no OUT given: name a folder, for example: manyview data synth scenes")
    return _write(args)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_device(name: str) -> None:
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name!r} cannot be used here ({str(error).splitlines()[0]}); use --device cpu"
        ) from error


def _write(args: argparse.Namespace) -> int:
    from manyview.data.synthetic import write_scenes

    _check_device(args.device)
    start = time.perf_counter()
    scenes, views = _given(args.scenes, 20), _given(args.views, 20)
    manifest = write_scenes(
        args.out, scenes=scenes, views=views, size=parse_size(args.size, "--size"), seed=args.seed, kind=args.kind,
        trajectory=args.trajectory, normals=args.normals, workers=args.workers, device=args.device,
    )  # fmt: skip
    seconds = time.perf_counter() - start

    def show() -> None:
        print(f"wrote {manifest}: {scenes} scenes, {scenes * views} frames of {args.size} in {seconds:.0f} s")
        print_next(f"manyview cache build {manifest} --teacher sensor -o {args.out / 'cache'}")

    numbers = {"manifest": str(manifest), "scenes": scenes, "frames": scenes * views, "seconds": seconds}
    deliver(args, numbers, show)
    return 0


def _contact_sheet(args: argparse.Namespace) -> int:
    from manyview.data.synthetic.report import contact_sheet

    path = contact_sheet(args.contact_sheet, seed=args.seed)

    def show() -> None:
        print(f"wrote {path}")
        print_next("manyview data synth scenes")

    deliver(args, {"contact_sheet": str(path)}, show)
    return 0


def _report(args: argparse.Namespace) -> int:
    from manyview.data.synthetic.report import class_report

    report = class_report(_given(args.scenes, 50), views=_given(args.views, 8), first=args.seed)
    deliver(args, vars(report), lambda: _show_report(report))
    return 0


def _show_report(report: Any) -> None:
    for name, share in sorted(report.shares.items(), key=lambda item: -item[1]):
        told = f"{report.per_class[name]:8.0%}" if name in report.per_class else "       -"
        print(f"{name:12s}{share:8.2%} of the pixels{told} of its crops named rightly")
    print(f"rarest: {report.rarest[0]} with {report.rarest[1]:.2%}")
    for source, value in (
        ("colours and edges", report.accuracy),
        ("colours alone", report.accuracy_of_pixels),
    ):
        print(
            f"a linear classifier of {source} names {value:.1%} of the crops, {value / report.chance:.1f}x chance"
        )
    print_next("manyview data synth scenes")
