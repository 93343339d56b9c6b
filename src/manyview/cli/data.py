"""Make, describe and check data.

manyview data synth rooms --scenes 200 --views 8          render procedural scenes with exact depth and cameras
manyview data scan SRC --format F -o M.parquet            make a manifest of what lies on disk
manyview data scan --format co3d --help                   what one format reads, and the options
manyview data info M.parquet                              what a manifest holds
manyview data check M.parquet                             read every file of it again
"""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import manyview as mv
from manyview.cli.options import add_options, value_of
from manyview.cli.output import Answer, output_file, table

_LISTED = 20


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.cli import data_synth

    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    synth = commands.add_parser("synth", help="render procedural scenes with exact depth, labels and cameras")
    data_synth.add_arguments(synth)
    synth.set_defaults(data_run=data_synth.run)
    scan = commands.add_parser("scan", help="make a manifest of image folders, videos or a data set's layout")
    if "scan" in words[:1]:
        _add_scan(scan, words)
    for name, run, text in (
        ("info", _info, "what a manifest holds"),
        ("check", _check, "read every file of a manifest again and list the problems (exit code 2 if any)"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("manifest", type=Path, metavar="MANIFEST")
        command.set_defaults(data_run=run)


def run(args: argparse.Namespace) -> Answer:
    return args.data_run(args)


def _add_scan(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The arguments of scan; with the format chosen, what its reader says of itself, and its options."""
    from manyview.data.sources import SOURCES, ScanOptions, option_names, options_for

    chosen, options = value_of(words, "--format"), ScanOptions()
    parser.description = "Make a manifest of what lies on disk.\n\nformats: " + ", ".join(SOURCES.names())
    if chosen is not None:
        every = {name for format in SOURCES.names() for name in option_names(format)}
        foreign = every - set(option_names(chosen))
        options_for(chosen, **{name: value_of(words, f"--{name}") for name in foreign})  # refuses these
        reader = SOURCES.get(chosen)
        options = reader.options()
        text = reader.about or inspect.getdoc(reader.scenes) or ""
        parser.description = f"Make a manifest of a data set of format {chosen}.\n\n{text}"
    add = parser.add_argument
    add("src", type=Path, metavar="SRC", help="folder, video, or cameras.json")
    text = "layout of SRC, as listed above (docs/datasets.md); --format F --help explains one and its options"
    add("--format", required=True, metavar="F", help=text)
    add("-o", "--out", type=Path, required=True, metavar="MANIFEST.parquet")
    add_options(parser, options, title="what of it is taken", skip=("extract_to",))
    parser.set_defaults(data_run=_scan)


def _scan(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.data.sources import SOURCES, scan

    kind = SOURCES.get(args.format).options
    options = override(kind(extract_to=args.out.with_name(f"{args.out.stem}_frames")), args.settings)
    with output_file(args.out, args):
        manifest, problems = scan(args.src, format=args.format, options=options)
        manifest.save(args.out)
    summary = manifest.summary()
    left_out = [(problem.path, problem.reason) for problem in problems]
    return Answer(
        values={"manifest": str(args.out), **summary, "left_out": _as_json(left_out), **_notes(manifest)},
        notes=manifest.info.get("notes", ()),
        lines=[*_listed(left_out, "left out"), f"wrote {args.out}: {_size(summary)}, {_contents(summary)}"],
        next=[_next(args.out, manifest, args.src if args.format == "video" else None)],
    )


def _info(args: argparse.Namespace) -> Answer:
    manifest = mv.Manifest.load(args.manifest)
    summary = manifest.summary()
    head = ("scene", "dataset", "split", "frames", "sizes", "intrinsics", "pose", "depth", "labels")
    cells = [
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
    listed, count = manifest.info.get("problems", []), manifest.info.get("left_out", 0)
    title = f"{args.manifest}: {_size(summary)}, files under {manifest.root}"
    return Answer(
        values={"manifest": str(args.manifest), **summary, **_notes(manifest)},
        notes=manifest.info.get("notes", ()),
        lines=[title, *table([head, *cells]), *_listed(listed, "left out by the scan", count)],
        next=[f"manyview data check {args.manifest}"],
    )


def _notes(manifest: mv.Manifest) -> dict[str, Any]:
    return {"notes": list(manifest.info.get("notes", ()))}


def _check(args: argparse.Namespace) -> Answer:
    from manyview.data.check import check

    manifest = mv.Manifest.load(args.manifest, check_files=False)
    problems = check(manifest)
    values = {"manifest": str(args.manifest), "frames": len(manifest), "problems": _as_json(problems)}
    if problems:
        lines = _listed(problems, "with problems", most=len(problems))
        mend = "mend or remove these files, then run manyview data scan again"
        return Answer(values=values, lines=lines, next=[mend], code=2)
    line = f"{args.manifest}: all files of {_count(len(manifest), 'frame')} can be read"
    return Answer(values=values, lines=[line], next=[_next(args.manifest, manifest)])


def _size(summary: dict[str, Any]) -> str:
    return f"{_count(summary['frames'], 'frame')}, {_count(len(summary['scenes']), 'scene')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _contents(summary: dict[str, Any]) -> str:
    keys = ("intrinsics", "pose", "depth", "labels")
    parts = [f"{key} {_share(summary[key], summary['frames'])}" for key in keys]
    return ", ".join(part for part in parts if not part.endswith(" -")) or "images only"


def _share(count: int, total: int) -> str:
    return "-" if count == 0 else "all" if count == total else f"{count} of {total}"


def _next(path: Path, manifest: mv.Manifest, video: Path | None = None) -> str:
    summary, stem = manifest.summary(), path.with_suffix("")
    if all(summary[key] == len(manifest) for key in ("depth", "pose", "intrinsics")):
        return shlex.join(["manyview", "cache", "build", str(path), "--teacher", "sensor", "-o", f"{stem}-cache"])
    if len(summary["scenes"]) > 1:
        return shlex.join(["manyview", "data", "info", str(path)])
    source = (video if video and video.is_file() else None) or manifest.path(manifest[0].image).parent
    return shlex.join(["manyview", "reconstruct", str(source), "-o", f"{stem}-scene"])


def _as_json(problems: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": path, "reason": reason} for path, reason in problems]


def _listed(problems: Sequence[Any], what: str, total: int | None = None, most: int = _LISTED) -> list[str]:
    """How many files there are with problems, and the first `most` of them; nothing when there are none."""
    count = len(problems) if total is None else total
    if not problems or not count:
        return []
    shown = [f"  {path}: {reason}" for path, reason in problems[:most]]
    rest = [f"  ... and {count - len(shown)} more"] if count > len(shown) else []
    return [f"{_count(count, 'file')} {what}:", *shown, *rest]
