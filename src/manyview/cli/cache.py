"""Ask a teacher once and keep its answers.

  manyview cache build scenes.parquet --teacher sensor -o cache      one archive per sample; run again to go
  on manyview cache info cache                                          what it holds, how big, whose, under
  which licence manyview cache verify cache                                        every checksum, every map,
  every value

A sample is a window of consecutive frames of one scene. Images are scaled and cropped to --size, never
squashed; depth is sampled at the nearest pixel, so no value lies between two surfaces.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|info|verify")
    build = actions.add_parser(
        "build", help="ask a teacher for every sample of a manifest; resumes by itself"
    )
    build.add_argument("manifest", type=Path, metavar="MANIFEST")
    build.add_argument(
        "--teacher", required=True, metavar="T", help="sensor: the manifest's own depth and poses"
    )
    build.add_argument("-o", "--out", type=Path, required=True, metavar="CACHE")
    build.add_argument("--views", type=int, default=20, metavar="N", help="frames per sample (default 20)")
    build.add_argument(
        "--step", type=int, metavar="K", help="frames from one sample to the next (default: N)"
    )
    build.add_argument(
        "--size", default="224x518", metavar="HxW", help="pixels of the maps (default 224x518)"
    )
    build.add_argument(
        "--shard", default="0/1", metavar="i/n", help="only every n-th sample, from the i-th (from 0)"
    )
    build.add_argument("--json", action="store_true", help="print one JSON object")
    for name, line in (("info", "what a cache holds"), ("verify", "check every byte of a cache")):
        action = actions.add_parser(name, help=line)
        action.add_argument("cache", type=Path, metavar="CACHE")
        action.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    return {"build": _build, "info": _info, "verify": _verify}[args.action](args)


def _build(args: argparse.Namespace) -> int:
    from manyview.cache.build import build
    from manyview.teachers.base import TEACHERS

    teacher = TEACHERS.get(args.teacher)()
    size, shard = _pair(args.size, "x", "--size", "224x518"), _pair(args.shard, "/", "--shard", "0/4")
    report = build(args.manifest, teacher, args.out, views=args.views, step=args.step, size=size, shard=shard)
    numbers = {
        "cache": str(args.out),
        "written": report.written,
        "skipped": report.skipped,
        "seconds": round(report.seconds, 2),
        "problems": [{"sample": p.sample, "reason": p.reason} for p in report.problems],
    }
    if args.json:
        print(json.dumps(numbers))
    else:
        there = f", {report.skipped} were there already" if report.skipped else ""
        print(f"wrote {report.written} samples to {args.out} in {report.seconds:.1f} s{there}")
    if report.problems:
        raise UserError(
            f"{len(report.problems)} samples are left out, the first because {report.problems[0].reason}; "
            "all others are kept, run the same line again once it is mended"
        )
    if not args.json:
        print(
            f"next: manyview cache info {args.out}\n      manyview train distill3r --cache {args.out} -o run"
        )
    return 0


def _info(args: argparse.Namespace) -> int:
    from manyview.cache.store import Cache

    info = Cache.open(args.cache).info()
    if args.json:
        print(json.dumps(info))
        return 0
    per_view = info["mb_per_1000_views"]
    rows = {
        "samples": f"{info['samples']} of {info['samples_planned']}",
        "frames": f"{info['frames']} ({info['views']} views in samples of up to {info['views_per_sample']})",
        "size": info["size"],
        "on disk": f"{info['bytes'] / 1e6:.1f} MB",
        "per 1000 views": "-" if per_view is None else f"{per_view} MB",
        "compression": "-"
        if info["compression"] is None
        else f"{info['compression']}x against plain float16",
        "teacher": f"{info['teacher']} ({info['digest'][:12]})",
        "licence": info["licence"],
    }
    for name, value in rows.items():
        print(f"{name:>15}  {value}")
    missing = info["samples_planned"] - info["samples"]
    if missing:
        print(f"next: run the same manyview cache build again, {missing} samples are missing")
    else:
        print(f"next: manyview cache verify {args.cache}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from manyview.cache.store import Cache
    from manyview.cache.verify import verify

    problems = verify(args.cache)
    count = len(Cache.open(args.cache))
    if args.json:
        found = [{"file": problem.file, "reason": problem.reason} for problem in problems]
        print(json.dumps({"cache": str(args.cache), "samples": count, "problems": found}))
    else:
        for problem in problems:
            print(f"{problem.file}: {problem.reason}")
    if problems:
        raise UserError(
            f"{args.cache} has {len(problems)} problems, the first: {problems[0].file}: "
            f"{problems[0].reason}; delete the archives named, then run the same cache build again"
        )
    if not args.json:
        print(
            f"{count} samples, every checksum and every map right\n"
            f"next: manyview train distill3r --cache {args.cache} -o run"
        )
    return 0


def _pair(text: str, mark: str, option: str, example: str) -> tuple[int, int]:
    first, found, second = text.partition(mark)
    if not (found and first.isascii() and first.isdecimal() and second.isascii() and second.isdecimal()):
        raise UserError(f"{option} is {text!r}; write it like {example}")
    return int(first), int(second)
