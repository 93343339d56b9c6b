"""`manyview data`: scan what lies on disk into a manifest, say what is in one, check every file of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_LISTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from manyview.cli import data_synth

    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    synth = commands.add_parser("synth", help="render procedural scenes with exact depth, labels and cameras")
    data_synth.add_arguments(synth)
    synth.set_defaults(data_run=data_synth.run)
    _add_scan(
        commands.add_parser("scan", help="make a manifest of image folders, videos or a cameras.json layout")
    )
    for name, run, text in (
        ("info", _info, "what a manifest holds"),
        ("check", _check, "read every file of a manifest again and list the problems (exit code 2 if any)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("manifest", type=Path, metavar="MANIFEST")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(data_run=run)


def run(args: argparse.Namespace) -> int:
    return int(args.data_run(args))


def _add_scan(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("src", type=Path, metavar="SRC", help="folder, video, or cameras.json")
    add(
        "--format",
        required=True,
        metavar="F",
        help="layout of SRC: folder, video, manyview (cameras.json), colmap, nerfstudio, or a data set's own "
        "(co3d, scannetpp, ...: docs/datasets.md; a wrong name lists them all)",
    )
    add("-o", "--out", type=Path, required=True, metavar="MANIFEST.parquet")
    add("--frames", metavar="A:B", help="positions in natural order within each scene, from 0, B excluded")
    add("--stride", type=int, default=1, metavar="K", help="of those, every K-th")
    add("--max-frames", type=int, metavar="N", help="of those, at most N per scene")
    add("--fps", type=float, metavar="R", help="videos: take R frames per second")
    add(
        "--classes",
        type=int,
        default=0,
        metavar="C",
        help="labels: which list (scannet 20, 40; nyuv2 40, 13, 894); the other formats have one",
    )
    add("--dataset", metavar="NAME", help="default: the folder's name")
    add("--split", default="", metavar="S", help="written into every row, for example train")
    add(
        "--skip-bad",
        action="store_true",
        help="leave out frames with a bad pose or missing depth; default: stop",
    )
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(data_run=_scan)


def _scan(args: argparse.Namespace) -> int:
    from manyview.data.sources import ScanOptions, scan

    options = ScanOptions(
        dataset=args.dataset,
        split=args.split,
        frames=args.frames,
        stride=args.stride,
        max_frames=args.max_frames,
        fps=args.fps,
        skip_bad=args.skip_bad,
        classes=args.classes,
        extract_to=args.out.with_name(f"{args.out.stem}_frames"),
    )
    manifest, problems = scan(args.src, format=args.format, options=options)
    manifest.save(args.out)
    summary = manifest.summary()
    if args.json:
        listed = [{"path": problem.path, "reason": problem.reason} for problem in problems]
        print(json.dumps({"manifest": str(args.out), **summary, "left_out": listed}))
        return 0
    _print_problems([(problem.path, problem.reason) for problem in problems], "left out")
    print(f"wrote {args.out}: {_size(summary)}, {_known(summary)}")
    print(f"next: {_next(args.out, manifest, args.src if args.format == 'video' else None)}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from manyview.data.manifest import Manifest

    manifest = Manifest.load(args.manifest)
    summary = manifest.summary()
    if args.json:
        print(json.dumps({"manifest": str(args.manifest), **summary}))
        return 0
    print(f"{args.manifest}: {_size(summary)}, files under {manifest.root}")
    head = ("scene", "dataset", "split", "frames", "sizes", "intrinsics", "pose", "depth", "labels")
    rows = [
        (
            name,
            scene["dataset"],
            scene["split"] or "-",
            str(scene["frames"]),
            ", ".join(scene["sizes"][:3]) + (" ..." if len(scene["sizes"]) > 3 else ""),
            *(_share(scene[key], scene["frames"]) for key in head[5:]),
        )
        for name, scene in summary["scenes"].items()
    ]
    _print_table([head, *rows])
    left_out = manifest.info.get("left_out", 0)
    if left_out:
        _print_problems(manifest.info.get("problems", []), "left out by the scan", left_out)
    print(f"next: manyview data check {args.manifest}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from manyview.data.check import check
    from manyview.data.manifest import Manifest

    manifest = Manifest.load(args.manifest, check_files=False)
    problems = check(manifest)
    if args.json:
        listed = [{"path": path, "reason": reason} for path, reason in problems]
        print(json.dumps({"manifest": str(args.manifest), "frames": len(manifest), "problems": listed}))
    elif problems:
        _print_problems(problems, "with problems", listed=len(problems))
        print("next: mend or remove these files, then run manyview data scan again")
    else:
        print(f"{args.manifest}: all files of {_count(len(manifest), 'frame')} can be read")
        print(f"next: {_next(args.manifest, manifest)}")
    return 2 if problems else 0


def _size(summary: dict[str, Any]) -> str:
    return f"{_count(summary['frames'], 'frame')}, {_count(len(summary['scenes']), 'scene')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _known(summary: dict[str, Any]) -> str:
    parts = [
        f"{key} {_share(summary[key], summary['frames'])}"
        for key in ("intrinsics", "pose", "depth", "labels")
    ]
    return ", ".join(part for part in parts if not part.endswith(" -")) or "images only"


def _share(count: int, total: int) -> str:
    return "-" if count == 0 else "all" if count == total else f"{count} of {total}"


def _next(path: Path, manifest: Any, video: Path | None = None) -> str:
    summary, stem = manifest.summary(), path.with_suffix("")
    if all(summary[key] == len(manifest) for key in ("depth", "pose", "intrinsics")):
        return f"manyview cache build {path} --teacher sensor -o {stem}-cache"
    if len(summary["scenes"]) > 1:
        return f"manyview data info {path}"
    source = (video if video and video.is_file() else None) or manifest.path(manifest[0].image).parent
    return f"manyview reconstruct {source} -o {stem}-scene"


def _print_problems(problems: Any, what: str, total: int | None = None, listed: int = _LISTED) -> None:
    problems = list(problems)
    if not problems:
        return
    count = len(problems) if total is None else total
    print(f"{_count(count, 'file')} {what}:")
    for path, reason in problems[:listed]:
        print(f"  {path}: {reason}")
    if count > min(listed, len(problems)):
        print(f"  ... and {count - min(listed, len(problems))} more")


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
