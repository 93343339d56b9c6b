"""Run a paper's ablation in miniature: variants at an equal budget, several seeds, a table beside the paper's numbers.

manyview study --list                                   what there is
manyview study mum -o out/mum                           everything, with data it renders itself; hours on two cores
manyview study mum -o out/mum --only multi-view mae     some variants
manyview study mum -o out/mum --seeds 0 --minutes 60    stop starting jobs after an hour; the same line goes on
manyview study mum -o out/mum --report                  only write the report of what is there
manyview study mum -o out/mum --page docs/study.md      also write it as a page with every run, and its picture
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", metavar="RECIPE", help="which study (see --list)")
    parser.add_argument("--list", action="store_true", help="list the studies and their variants")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="folder of the study; default: out/study-RECIPE"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="VARIANT", help="these variants; default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    parser.add_argument("--minutes", type=float, metavar="M", help="start no job after this long")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
        help="an option of the study: steps=600, train=[M.parquet]; --list names them",
    )  # fmt: skip
    parser.add_argument(
        "--report", action="store_true", help="run nothing, write the report of what is there"
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE.md",
        help="also write a page: report, picture, every run, how it was made",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from manyview.config import override
    from manyview.studies.base import STUDIES, as_json, read_results, run_study
    from manyview.studies.report import WRITTEN, markdown, write_page, write_report

    if args.list or args.study is None:
        return _list(as_json=args.json)
    kind = STUDIES.get(args.study)
    study = kind(override(kind.Options(), args.settings))
    out = args.out or Path("out") / f"study-{args.study}"
    if args.page and args.page.suffix != ".md":
        raise UserError(
            f"--page {args.page}: a page is a markdown file, call it {args.page.with_suffix('.md')}"
        )
    if (
        args.page
        and args.page.is_file()
        and WRITTEN not in args.page.read_text(encoding="utf-8", errors="replace")
    ):
        raise UserError(f"--page {args.page} is there and no study's page; name another file")
    if args.report:
        if not (out / "study.json").is_file():
            raise UserError(f"{out} holds no study; run it first, or name its folder with -o")
        results = read_results(study, out)
    else:
        results = run_study(study, out, seeds=args.seeds, only=args.only, minutes=args.minutes, tell=_tell)
    report = write_report(study, results, out)
    if args.page:
        write_page(study, results, args.page, notes=study.notes(out))
    if args.json:
        print(json.dumps(as_json(study, results)))
        return 0
    print(markdown(study, results))
    print(f"wrote {', '.join(str(path) for path in (report, report.with_suffix('.svg'), args.page) if path)}")
    left = sum(len({*args.seeds} - {*runs}) for runs in results.values())
    if left:
        print(f"next: manyview study {args.study} -o {out}  ({left} jobs are not done yet)")
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _list(*, as_json: bool) -> int:
    from manyview.config import to_dict
    from manyview.studies.base import STUDIES

    found: dict[str, Any] = {}
    for name in STUDIES.names():
        kind = STUDIES.get(name)
        found[name] = {
            "line": kind.line,
            "variants": {variant.name: variant.line for variant in kind.variants},
            "options": to_dict(kind.Options()),
        }
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    for name, study in found.items():
        print(f"{name}: {study['line']}")
        for variant, line in study["variants"].items():
            print(f"  {variant:14} {line}")
        print("  options: " + ", ".join(f"{key}={value}" for key, value in study["options"].items()))
    print("next: manyview study RECIPE -o DIR")
    return 0
