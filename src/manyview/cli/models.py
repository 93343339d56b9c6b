"""The models we know: where they come from, how big they are, under which licence, and how to get them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial

import manyview as mv
from manyview.cli.convert import next_command
from manyview.cli.output import Answer, rows, table
from manyview.errors import UserError
from manyview.registry import did_you_mean


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model's card; without it, the list")
    parser.add_argument("--download", action="store_true", help="get the published file and convert it, licence first")
    parser.add_argument("--yes", action="store_true", help="accept the licence without being asked")


def run(args: argparse.Namespace) -> Answer:
    if args.name is not None and args.name not in mv.zoo.CARDS:
        raise UserError(f"no model {args.name!r}; {did_you_mean(args.name, mv.zoo.CARDS)}")
    if args.download:
        return _download(args)
    cards = [mv.zoo.CARDS[args.name]] if args.name else [mv.zoo.CARDS[name] for name in sorted(mv.zoo.CARDS)]
    values = {card.name: {**dataclasses.asdict(card), "here": mv.zoo.present(card.name)} for card in cards}
    if args.name:
        return Answer(values=values, lines=_card(cards[0]), next=[_next(cards[0])], indent=1)
    head = ("model", "parameters", "licence", "here", "what it does")
    cells = [
        (
            card.name,
            f"{card.parameters / 1e6:.1f}M" if card.parameters else "?",
            "permissive" if card.permissive else "restricted",
            "here" if mv.zoo.present(card.name) else "-",
            card.task,
        )
        for card in cards
    ]
    following = "manyview models NAME  (where to get one, its licence and numbers)"
    return Answer(values=values, lines=table([head, *cells], indent=0, right=(1,)), next=[following], indent=1)


def _card(card: mv.zoo.Card) -> list[str]:
    size = f" ({card.bytes / 1e6:.0f} MB)" if card.bytes else ""
    entries = (
        ("what it does", card.task),
        ("parameters", f"{card.parameters:,}" if card.parameters else "as in the file"),
        ("licence", card.licence),
        ("which allows", card.allows),
        ("images", card.preprocessing),
        ("paper", card.paper),
        ("published", card.published),
        ("file", f"{card.file}{size}" if card.file else ""),
        ("sha256", card.sha256 or ("not published" if card.file else "")),
        ("container", card.container),
        *(("as published", f"{title}: {numbers}") for title, numbers in card.scores.items()),
        ("note", card.note),
        ("here", "yes" if mv.zoo.present(card.name) else "no"),
    )
    return [card.name, *rows((title, text) for title, text in entries if text)]


def _next(card: mv.zoo.Card, fresh: bool = False) -> str:
    if fresh or mv.zoo.present(card.name):
        return next_command(card.task, card.name)
    if card.bundled:
        return "this installation is incomplete; install the package again"
    if card.hub or card.url:
        return f"manyview models {card.name} --download"
    if card.published:
        return f"manyview convert FILE --arch {card.name} -o {mv.zoo.models_folder() / card.name}"
    return card.note or f"manyview.zoo.build({card.name!r}) in Python"


def _download(args: argparse.Namespace) -> Answer:
    if args.name is None:
        raise UserError("--download needs a name; `manyview models` lists them")
    card = mv.zoo.CARDS[args.name]
    out, fresh = mv.zoo.models_folder() / card.name, not mv.zoo.present(card.name)
    if fresh:
        out = mv.zoo.download(card.name, out, accept=partial(_ask, yes=args.yes))
    return Answer(
        values={"model": card.name, "path": str(out), "licence": card.licence, "new": fresh},
        lines=[f"wrote {out}" if fresh else f"{card.name} is here already"],
        next=[_next(card, fresh)],
    )


def _ask(card: mv.zoo.Card, yes: bool) -> bool:
    """Show the licence on stderr and ask for it; `yes` only shows it."""
    print(f"{card.name}: {card.licence}: {card.allows}", file=sys.stderr)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{card.name}: nobody can be asked to accept its licence; add --yes to accept it")
    print("download it under this licence? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
