"""What is known of a model's weights: its card, and the licences of it and of everything it was made from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from manyview.models.model import Model
from manyview.zoo.cards import CARDS

FIELDS = ("name", "licence", "allows", "permissive")


def card_of(source: nn.Module | str | Path) -> dict[str, Any]:
    """The card of a loaded model, a model directory, a published file or a zoo name; empty when nothing is known.

    Reads no weights.
    """
    if isinstance(source, nn.Module):
        return dict(source.card) if isinstance(source, Model) else {}
    path = Path(source).expanduser()
    config = (path if path.is_dir() else path.parent) / "config.json"
    if path.exists() and config.is_file():
        try:
            return dict(json.loads(config.read_text(encoding="utf-8")).get("card") or {})
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
    by_file = [card for card in CARDS.values() if card.file and Path(card.file).name == path.name]
    cards = [CARDS[str(source)]] if str(source) in CARDS else by_file
    return dataclasses.asdict(cards[0]) if cards else {}


def licences_of(source: nn.Module | str | Path) -> list[dict[str, Any]]:
    """{name, licence, allows, permissive} of what `card_of` takes, and of all it derives from; empty when
    nothing is known.
    """
    card = card_of(source)
    own = [{name: card.get(name) for name in FIELDS}] if card.get("licence") else []
    return merged(own, [entry for entry in card.get("derived_from", ()) if isinstance(entry, Mapping)])


def merged(*lists: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each (name, licence) once, in order."""
    return list({(e.get("name"), e.get("licence")): dict(e) for entries in lists for e in entries}.values())
