"""Ask a teacher once and keep its answers.

manyview cache build scenes.parquet --teacher sensor -o cache      one archive per sample; run again to go on
manyview cache info cache                                          what it holds, how big, whose, under which licence
manyview cache verify cache                                        every checksum, every map, every value

A sample is a window of consecutive frames of one scene. Images are scaled and cropped to --size, never
squashed; depth is sampled at the nearest pixel, so no value lies between two surfaces.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyview.cli.options import add_options
from manyview.cli.output import add_json, deliver, print_next, print_rows
from manyview.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What of a manifest goes into a cache."""

    views: int = 20
    """Frames of a sample."""
    step: int | None = None
    """Frames from the start of one sample to the start of the next; none is as many as a sample has."""
    size: tuple[int, int] = (224, 518)
    """Pixels of the maps."""
    shard: str = "0/1"
    """i/n: only every n-th sample, from the i-th, counted from 0."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|info|verify")
    text = "ask a teacher for every sample of a manifest; goes on where an earlier build stopped"
    build = actions.add_parser("build", help=text, description=text)
    add = build.add_argument
    add("manifest", type=Path, metavar="MANIFEST")
    add("--teacher", required=True, metavar="T", help="sensor: the manifest's own depth and poses")
    add("-o", "--out", type=Path, required=True, metavar="CACHE")
    add_options(build, BuildOptions())
    add_json(build)
    for name, line in (("info", "what a cache holds"), ("verify", "check every byte of a cache")):
        action = actions.add_parser(name, help=line, description=line)
        action.add_argument("cache", type=Path, metavar="CACHE")
        add_json(action)


def run(args: argparse.Namespace) -> int:
    return {"build": _build, "info": _info, "verify": _verify}[args.action](args)


def _build(args: argparse.Namespace) -> int:
    from manyview.cache.build import build
    from manyview.config import override
    from manyview.teachers.base import TEACHERS

    options = override(BuildOptions(), args.settings)
    teacher, shard = TEACHERS.get(args.teacher)(), _shard(options.shard)
    report = build(
        args.manifest, teacher, args.out, views=options.views, step=options.step, size=options.size, shard=shard
    )  # fmt: skip
    numbers = {
        "cache": str(args.out),
        "written": report.written,
        "skipped": report.skipped,
        "seconds": round(report.seconds, 2),
        "problems": [{"sample": p.sample, "reason": p.reason} for p in report.problems],
    }

    def show() -> None:
        earlier = f", {report.skipped} were there already" if report.skipped else ""
        print(f"wrote {report.written} samples to {args.out} in {report.seconds:.1f} s{earlier}")
        if not report.problems:
            train = f"manyview train distill3r --cache {args.out} -o run"
            print_next([f"manyview cache info {args.out}", train])

    deliver(args, numbers, show)
    if report.problems:
        raise UserError(
            f"{len(report.problems)} samples are left out, the first because {report.problems[0].reason}; "
            "all others are kept, run the same line again once it is mended"
        )
    return 0


def _shard(text: str) -> tuple[int, int]:
    first, slash, count = text.partition("/")
    if not (slash and first.isascii() and first.isdecimal() and count.isascii() and count.isdecimal()):
        raise UserError(f"--shard is {text!r}; write it like 0/4")
    return int(first), int(count)


def _info(args: argparse.Namespace) -> int:
    from manyview.cache.store import Cache

    info = Cache.open(args.cache).info()
    per_view, compression = info["mb_per_1000_views"], info["compression"]
    missing = info["samples_planned"] - info["samples"]

    def show() -> None:
        print_rows(
            {
                "samples": f"{info['samples']} of {info['samples_planned']}",
                "frames": f"{info['frames']} ({info['views']} views in samples of up to {info['views_per_sample']})",
                "size": info["size"],
                "on disk": f"{info['bytes'] / 1e6:.1f} MB",
                "per 1000 views": "-" if per_view is None else f"{per_view} MB",
                "compression": "-" if compression is None else f"{compression}x against plain float16",
                "teacher": f"{info['teacher']} ({info['digest'][:12]})",
                "licence": info["licence"],
            }
        )
        again = f"run the same manyview cache build again, {missing} samples are missing"
        print_next(again if missing else f"manyview cache verify {args.cache}")

    deliver(args, info, show)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from manyview.cache.store import Cache
    from manyview.cache.verify import verify

    problems = verify(args.cache)
    count = len(Cache.open(args.cache))

    def show() -> None:
        for problem in problems:
            print(f"{problem.file}: {problem.reason}")
        if not problems:
            print(f"{count} samples, every checksum and every map right")
            print_next(f"manyview train distill3r --cache {args.cache} -o run")

    listed = [{"file": problem.file, "reason": problem.reason} for problem in problems]
    deliver(args, {"cache": str(args.cache), "samples": count, "problems": listed}, show)
    if problems:
        raise UserError(
            f"{args.cache} has {len(problems)} problems, the first: {problems[0].file}: "
            f"{problems[0].reason}; delete the archives named, then run the same cache build again"
        )
    return 0
