"""The models we know: where they come from, how big they are, under which licence, and how to get them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manyview.zoo import Card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model's card; without it, the list")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from manyview.errors import UserError
    from manyview.registry import did_you_mean
    from manyview.zoo import CARDS, present

    if args.name is not None and args.name not in CARDS:
        raise UserError(f"no model {args.name!r}; {did_you_mean(args.name, CARDS)}")
    chosen = [CARDS[args.name]] if args.name else list(CARDS.values())
    if args.json:
        cards = {card.name: {**dataclasses.asdict(card), "here": present(card.name)} for card in chosen}
        print(json.dumps(cards, indent=1))
    elif args.name:
        _print_card(chosen[0], present(args.name))
    else:
        width = max(len(card.name) for card in chosen)
        for card in chosen:
            where = "here" if present(card.name) else "-"
            print(f"{card.name:{width}}  {_millions(card):>8}  {where:4}  {card.task}")
        print("next: manyview models NAME  (where to get one, its licence and numbers)")
    return 0


def _millions(card: Card) -> str:
    return f"{card.parameters / 1e6:.1f}M" if card.parameters else "?"


def _print_card(card: Card, here: bool) -> None:
    print(card.name)
    print(f"  what it does:  {card.task}")
    print(f"  parameters:    {card.parameters:,}" if card.parameters else "  parameters:    as in the file")
    print(f"  licence:       {card.licence}")
    if card.preprocessing:
        print(f"  preprocessing: {card.preprocessing}")
    for title, numbers in card.paper.items():
        print(f"  as published:  {title}: {numbers}")
    if here:
        print("  on this machine: yes")
        print(f"next: mv.load({card.name!r}) in Python")
    elif card.bundled:
        print("  on this machine: no; this installation is incomplete, install it again")
    else:
        from manyview.zoo import models_folder

        print(f"  published:     {card.published}")
        print("  on this machine: no")
        print(f"next: manyview convert FILE --arch {card.name} -o {models_folder() / card.name}")
