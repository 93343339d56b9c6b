"""Under which licences a model stands: its own and those of everything it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from manyview.zoo.cards import CARDS

FIELDS = ("name", "licence", "allows", "permissive")


def licences_of(source: nn.Module | str | Path) -> list[dict[str, Any]]:
    """{name, licence, allows, permissive} of a loaded model, a model directory, a published file or a zoo
    name, and of all it derives from; empty when nothing is known. Reads no weights.
    """
    if isinstance(source, nn.Module):
        return _of_card(getattr(source, "card", {}))
    path = Path(source)
    config = (path if path.is_dir() else path.parent) / "config.json"
    if path.exists() and config.is_file():
        try:
            return _of_card(json.loads(config.read_text(encoding="utf-8")).get("card", {}))
        except (OSError, ValueError, AttributeError):
            return []
    if (card := CARDS.get(str(source))) is not None:
        return [{name: getattr(card, name) for name in FIELDS}]
    by_file = (card for card in CARDS.values() if card.file and Path(card.file).name == path.name)
    return [{name: getattr(card, name) for name in FIELDS} for card in by_file][:1]


def merged(*lists: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each (name, licence) once, in order."""
    found = {(entry.get("name"), entry.get("licence")): dict(entry) for one in lists for entry in one}
    return list(found.values())


def _of_card(card: Any) -> list[dict[str, Any]]:
    if not isinstance(card, Mapping):
        return []
    own = [{name: card.get(name) for name in FIELDS}] if card.get("licence") else []
    return merged(own, [entry for entry in card.get("derived_from", ()) if isinstance(entry, Mapping)])
