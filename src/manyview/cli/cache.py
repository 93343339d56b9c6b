"""Ask teachers once and keep their answers.

manyview cache build scenes.parquet --teacher sensor -o cache      one archive per sample; run again to go on
manyview cache build scenes.parquet --teacher dinov2-vits14 -o cache    another teacher's answers to the same samples
manyview cache info cache                                          what it holds, how big, whose, under which licence
manyview cache verify cache                                        every checksum, every map, every value
manyview cache import their_cache --images their_images -o cache   a cache as Distill3R's authors publish it

A sample is a window of consecutive frames of one scene. Images are scaled and cropped to --size, never
squashed; depth is sampled at the nearest pixel, so no value lies between two surfaces.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manyview.cache.options import BuildOptions
from manyview.cli.options import add_device, add_options
from manyview.cli.output import Answer, output_file, rows
from manyview.errors import UserError

if TYPE_CHECKING:
    from manyview.cache.build import BuildReport


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|info|verify|import")
    text = "ask teachers about every sample of a manifest; goes on where an earlier build stopped"
    build = actions.add_parser("build", help=text, description=text)
    build.add_argument("manifest", type=Path, metavar="MANIFEST")
    build.add_argument(
        "--teacher",
        required=True,
        action="append",
        metavar="T",
        help="sensor (the manifest's own depth and poses), photos (multi-view stereo of posed photos), a model of the "
        "zoo, a model directory, timm:NAME; "
        "NAME=T calls it so; give it several times for several teachers",
    )
    build.add_argument("-o", "--out", type=Path, required=True, metavar="CACHE")
    add_device(build)
    add_options(build, BuildOptions())
    text = "take over a published cache (consolidated.npz, sampled_views.json), in the aspect of its pictures"
    taken = actions.add_parser("import", help=text, description=text)
    taken.add_argument("released", type=Path, metavar="FOLDER")
    taken.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder below which its pictures lie")
    taken.add_argument("-o", "--out", type=Path, required=True, metavar="CACHE", help="and CACHE.parquet, its manifest")
    for name, text in (("info", "what a cache holds"), ("verify", "check every byte of a cache")):
        actions.add_parser(name, help=text, description=text).add_argument("cache", type=Path, metavar="CACHE")


def run(args: argparse.Namespace) -> Answer:
    return {"build": _build, "info": _info, "verify": _verify, "import": _import}[args.action](args)


def _build(args: argparse.Namespace) -> Answer:
    from manyview.cache.build import build
    from manyview.config import override
    from manyview.engine.device import pick_device
    from manyview.teachers.named import teacher_named

    options = override(BuildOptions(), args.settings)
    shard, device = _shard(options.shard), pick_device(args.device)
    teachers = [teacher_named(text, options.size) for text in args.teacher]
    report = build(
        args.manifest,
        teachers,
        args.out,
        views=options.views,
        step=options.step,
        size=options.size,
        aspect=options.aspect,
        shard=shard,
        keep=options.keep,
        maps=options.maps,
        device=device,
        say=lambda line: print(line, file=sys.stderr),
    )
    return _built(args.out, report)


def _import(args: argparse.Namespace) -> Answer:
    from manyview.cache.build import build
    from manyview.teachers.released import open_released

    released = open_released(args.released, args.images)
    manifest = args.out.with_name(f"{args.out.name}.parquet")
    with output_file(manifest, args):
        released.manifest.save(manifest)
    report = build(
        manifest,
        released.teacher,
        args.out,
        views=max(len(rows) for rows in released.samples),
        size=BuildOptions().size,
        aspect="own",
        samples=released.samples,
    )
    return _built(args.out, report)


def _built(out: Path, report: BuildReport) -> Answer:
    problem, next_steps = "", [f"manyview cache info {out}", f"manyview train distill3r --cache {out} -o run"]
    if report.problems:
        problem = (
            f"{len(report.problems)} samples are left out, the first because {report.problems[0].reason}; "
            "all others are kept, run the same line again once it is mended"
        )
    earlier = f", {report.skipped} were there already" if report.skipped else ""
    return Answer(
        values={
            "cache": str(out),
            "written": report.written,
            "skipped": report.skipped,
            "seconds": round(report.seconds, 2),
            "problems": [{"sample": p.file, "reason": p.reason} for p in report.problems],
        },
        lines=[f"wrote {report.written} samples to {out} in {report.seconds:.1f} s{earlier}"],
        next=[] if problem else next_steps,
        problem=problem,
    )


def _shard(text: str) -> tuple[int, int]:
    first, slash, count = text.partition("/")
    if not (slash and first.isascii() and first.isdecimal() and count.isascii() and count.isdecimal()):
        raise UserError(f"--shard is {text!r}; write it like 0/4")
    return int(first), int(count)


def _info(args: argparse.Namespace) -> Answer:
    from manyview.cache.store import Cache

    info = Cache.open(args.cache).info()
    per_view, compression = info["mb_per_1000_views"], info["compression"]
    missing = info["samples_planned"] - info["samples"]
    again = f"run the same manyview cache build again, {missing} samples are missing"
    pairs = [
        ("samples", f"{info['samples']} of {info['samples_planned']}"),
        ("frames", f"{info['frames']} ({info['views']} views in samples of up to {info['views_per_sample']})"),
        ("size", info["size"]),
        ("on disk", f"{info['bytes'] / 1e6:.1f} MB"),
        ("per 1000 views", "-" if per_view is None else f"{per_view} MB"),
        ("compression", "-" if compression is None else f"{compression}x against plain float16"),
    ]
    for teacher in info["teachers"]:
        kept = "" if teacher["keep"] == "float16" else f", features kept as {teacher['keep']}"
        held = f" of {teacher['samples']} samples" if teacher["samples"] < info["samples"] else ""
        kinds = ", ".join(teacher["kinds"]) or "nothing yet"
        name = f"{teacher['name']} ({teacher['digest'][:12]}): {kinds}{held}{kept}"
        pairs += [("teacher", name), ("licence", teacher["licence"])]
    return Answer(values=info, lines=rows(pairs), next=[again if missing else f"manyview cache verify {args.cache}"])


def _verify(args: argparse.Namespace) -> Answer:
    from manyview.cache.store import Cache
    from manyview.cache.verify import verify

    problems, count = verify(args.cache), len(Cache.open(args.cache))
    listed = [{"file": problem.file, "reason": problem.reason} for problem in problems]
    values = {"cache": str(args.cache), "samples": count, "problems": listed}
    if problems:
        first = f"{problems[0].file}: {problems[0].reason}"
        return Answer(
            values=values,
            lines=[f"{problem.file}: {problem.reason}" for problem in problems],
            problem=f"{args.cache} has {len(problems)} problems, the first: {first}; "
            "delete the archives named, then run the same cache build again",
        )
    return Answer(
        values=values,
        lines=[f"{count} samples, every checksum and every map right"],
        next=[f"manyview train distill3r --cache {args.cache} -o run"],
    )
