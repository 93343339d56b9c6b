"""Run a paper's ablation in miniature: variants at an equal budget, several seeds, a table beside the paper's numbers.

manyview study --list                                   what there is
manyview study mum --help                               the options of one study
manyview study mum -o out/mum                           everything, with data it renders itself; hours on two cores
manyview study mum -o out/mum --only multi-view mae     some variants
manyview study mum -o out/mum --seeds 0 --minutes 60    start no job after an hour; the same line continues
manyview study mum -o out/mum --report                  only write the report of what is there
manyview study mum -o out/mum --page docs/study.md      also write it as a page with every run, and its picture
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from manyview.cli.options import add_options, add_set, imported, named, number, shown
from manyview.cli.output import Answer, rows
from manyview.errors import UserError

_studies = partial(imported, "manyview.studies.base:STUDIES")


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    add("study", nargs="?", metavar="RECIPE", help="which study (see --list)")
    add("--list", action="store_true", help="list the studies and their variants")
    add("-o", "--out", type=Path, metavar="DIR", help="folder of the study; default: out/study-RECIPE")
    add("--only", nargs="+", default=[], metavar="VARIANT", help="these variants; default: all")
    add("--seeds", nargs="+", type=number(int, least=0), default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    add("--minutes", type=number(float, least=0), metavar="M", help="start no job after this long")
    add_set(parser, "an option of the study: steps=600, train=[M.parquet]; RECIPE --help explains them")
    add("--report", action="store_true", help="run nothing, write the report of what is there")
    text = "also write a page: report, picture, every run, how it was made"
    add("--page", type=Path, metavar="FILE.md", help=text)
    name = named(parser, words, lambda: _studies().names())
    if name is not None:
        kind = _studies().get(name)
        about = "\n".join([kind.line, "variants:", *_variants(kind)])
        add_options(parser, kind.Options(), title=f"options of study {name}", about=about)


def _variants(kind: Any) -> list[str]:
    return rows((variant.name, variant.line) for variant in kind.variants)


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.studies.base import as_json, read_results, run_study
    from manyview.studies.report import markdown, write_page, write_report

    if args.list or args.study is None:
        return _list()
    kind = _studies().get(args.study)
    study = kind(override(kind.Options(), args.settings))
    out = args.out or Path("out") / f"study-{args.study}"
    if args.page:
        _check_page(args.page)
    if args.report:
        if not (out / "study.json").is_file():
            raise UserError(f"{out} holds no study; run it first, or name its folder with -o")
        results = read_results(study, out)
    else:
        results = run_study(
            study, out, seeds=args.seeds, only=args.only, minutes=args.minutes, tell=partial(print, file=sys.stderr)
        )
    report = write_report(study, results, out)
    if args.page:
        write_page(study, results, args.page, notes=study.notes(out))
    left = sum(len({*args.seeds} - {*runs}) for runs in results.values())
    written = [str(path) for path in (report, report.with_suffix(".svg"), args.page) if path]
    return Answer(
        values=as_json(study, results),
        lines=[markdown(study, results), f"wrote {', '.join(written)}"],
        next=[f"manyview study {args.study} -o {out}  ({left} jobs are not done yet)"] if left else [],
    )


def _check_page(page: Path) -> None:
    """Raise UserError when a page would not be markdown, or would replace something else than a study's page."""
    from manyview.studies.report import WRITTEN

    if page.suffix != ".md":
        raise UserError(f"--page {page}: a page is a markdown file, call it {page.with_suffix('.md')}")
    if page.is_file() and WRITTEN not in page.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"--page {page}: that file is no study's page; name another one")


def _list() -> Answer:
    from manyview.config import to_dict

    values, lines = {}, []
    for name in _studies().names():
        kind = _studies().get(name)
        options = to_dict(kind.Options())
        variants = {variant.name: variant.line for variant in kind.variants}
        values[name] = {"line": kind.line, "variants": variants, "options": options}
        shown_options = ", ".join(f"{key}={shown(value)}" for key, value in options.items())
        lines += [f"{name}: {kind.line}", *_variants(kind), f"  options: {shown_options}"]
    return Answer(values=values, lines=lines, next=["manyview study RECIPE -o DIR"], indent=1)
