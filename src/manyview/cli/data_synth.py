"""Render furnished rooms and laid tables with exact depth, labels and cameras."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from manyview.cli.options import number
from manyview.cli.output import Answer, output_file, table
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
    add("--scenes", type=number(int, least=1), metavar="N", help="how many (default 20; of the report: 50)")
    add("--views", type=number(int, least=1), metavar="V", help="frames of a scene (default 20; of the report: 8)")
    add("--size", default="224x518", metavar="HxW", help="pixels (default 224x518)")
    add("--seed", type=number(int, least=0), default=0, metavar="S", help="other seeds give other scenes")
    add("--kind", default="auto", help="room, tabletop or auto: two rooms for every tabletop")
    add("--trajectory", default="auto", help="orbit, walk, dolly, pan, zigzag, wander or auto")
    add("--normals", action="store_true", help="also write normals/*.png: (n + 1) / 2 in 8 bits, camera frame")
    text = "exposure and white balance of every frame: channels brighter or darker by up to this share (0.35: ±35 %%)"
    add("--gain", type=number(float, least=0), default=0.0, metavar="G", help=text)
    text = "and an exponent of its values, exp(-G) to exp(G)"
    add("--gamma", type=number(float, least=0), default=0.0, metavar="G", help=text)
    add("--workers", type=number(int, least=1), default=1, metavar="N", help="processes, one core each (default 1)")
    add("--device", default="cpu", help="cpu or cuda: where to render")
    add("--contact-sheet", type=Path, metavar="FILE", help="write one .jpg or .png of many scenes instead")
    add("--report", action="store_true", help="measure shares and separability of the classes instead")


def run(args: argparse.Namespace) -> Answer:
    if args.contact_sheet is not None:
        return _contact_sheet(args)
    if args.report:
        return _report(args)
    if args.out is None:
        raise UserError("no OUT given: name a folder, for example: manyview data synth scenes")
    return _write(args)


def _write(args: argparse.Namespace) -> Answer:
    from manyview.data.synthetic import write_scenes
    from manyview.engine.device import pick_device

    start, size, device = time.perf_counter(), parse_size(args.size, "--size"), str(pick_device(args.device))
    scenes, views = (20 if value is None else value for value in (args.scenes, args.views))
    choices = {
        name: getattr(args, name) for name in ("seed", "kind", "trajectory", "normals", "gain", "gamma", "workers")
    }
    manifest = write_scenes(args.out, scenes=scenes, views=views, size=size, device=device, **choices)
    seconds, frames = time.perf_counter() - start, scenes * views
    return Answer(
        values={"manifest": str(manifest), "scenes": scenes, "frames": frames, "seconds": seconds},
        lines=[f"wrote {manifest}: {scenes} scenes, {frames} frames of {args.size} in {seconds:.0f} s"],
        next=[
            shlex.join(["manyview", "cache", "build", str(manifest), "--teacher", "sensor", "-o", f"{args.out}/cache"])
        ],
    )


def _contact_sheet(args: argparse.Namespace) -> Answer:
    from manyview.data.synthetic.report import contact_sheet

    with output_file(args.contact_sheet, args, flag="--contact-sheet "):
        path = contact_sheet(args.contact_sheet, seed=args.seed)
    return Answer(values={"contact_sheet": str(path)}, lines=[f"wrote {path}"], next=["manyview data synth scenes"])


def _report(args: argparse.Namespace) -> Answer:
    from manyview.data.synthetic.report import class_report

    scenes, views = (50 if args.scenes is None else args.scenes), (8 if args.views is None else args.views)
    report = class_report(scenes, views=views, first=args.seed)
    cells = [("class", "of the pixels", "of its crops named rightly")]
    for name, share in sorted(report.shares.items(), key=lambda item: -item[1]):
        named = f"{report.per_class[name]:.0%}" if name in report.per_class else "-"
        cells.append((name, f"{share:.2%}", named))
    lines = [*table(cells, indent=0, right=(1, 2)), f"rarest: {report.rarest[0]} with {report.rarest[1]:.2%}"]
    for source, value in (("colours and edges", report.accuracy), ("colours alone", report.accuracy_of_pixels)):
        better = f"{value / report.chance:.1f}x chance"
        lines.append(f"a linear classifier of {source} names {value:.1%} of the crops, {better}")
    return Answer(values=vars(report), lines=lines, next=["manyview data synth scenes"])
