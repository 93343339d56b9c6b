"""What is known of models: cards (the families' card.toml) and licences, and the README of a model directory.

Nothing here builds a network or touches a weights file.
"""

from __future__ import annotations

import dataclasses
import logging
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from manyview.files import parse_json
from manyview.models.family import FAMILIES, presets
from manyview.models.model import Model

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a user should know of a model before using it."""

    name: str
    """Zoo name."""
    task: str
    """What it does, in a few words."""
    paper: str
    """The paper to cite."""
    published: str
    """Page that publishes the weights; empty for ours."""
    hub: str = ""
    """Hugging Face repository of the file; empty when it lies elsewhere."""
    url: str = ""
    """Direct link to the file; empty when there is none."""
    revision: str = ""
    """Commit of that repository; empty: the newest when it is fetched first, which is kept to from then on."""
    file: str = ""
    """Name of the published file (its path in the repository, for one on the hub)."""
    bytes: int | None = None
    """Size of that file; None when unknown."""
    sha256: str | None = None
    """Its hash; None when unknown."""
    container: str = ""
    """How the file wraps its weights."""
    licence: str
    """Licence of the weights."""
    allows: str
    """What that licence allows, in plain words."""
    permissive: bool = False
    """Whether anything may be done with the weights, trade included."""
    parameters: int | None = None
    """Number of parameters of our network; None when it depends on the file or nobody has counted."""
    preprocessing: str = ""
    """What the original does to an image before the network."""
    weight_rule: dict[str, Any] = field(default_factory=dict)
    """Fields of WeightRule for its confidences, as a teacher's; empty: by quantile of each sample."""
    scores: dict[str, str] = field(default_factory=dict)
    """Numbers that its source reports."""
    note: str = ""
    """What else to know before getting it."""
    bundled: bool = False
    """Whether the weights come with this package."""
    sources: dict[str, str] = field(default_factory=dict)
    """Field -> which page or file says so."""


class _Cards(Mapping[str, Card]):
    """Zoo name -> Card, read from the families on first use."""

    def __init__(self) -> None:
        self._cards: dict[str, Card] = {}

    def _read(self) -> dict[str, Card]:
        if not self._cards:
            packages = {FAMILIES.get(name).cards for name in FAMILIES.names()} - {""}
            ours = [package for package in sorted(packages) if package.startswith("manyview.")]
            cards = [card for package in ours for card in _cards_of(package)]
            for package in sorted(packages - {*ours}):
                try:
                    cards += _cards_of(package)
                except (OSError, ImportError, ValueError, TypeError, KeyError) as error:
                    LOG.warning("%s: its card.toml cannot be read: %s", package, error)
            unknown = partial(Card, paper="", published="", licence="not said", allows="ask those who made it")
            without = {name: unknown(name=name, task=f"a {family} network") for name, (family, _) in presets().items()}
            named = {card.name: card for card in reversed(cards) if card.name in without}  # the first one stays
            self._cards = {**without, **named}
        return self._cards

    def __getitem__(self, name: str) -> Card:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def _cards_of(package: str) -> list[Card]:
    return read_cards((resources.files(package) / "card.toml").read_text("utf-8"))


def read_cards(text: str) -> list[Card]:
    """The cards of one card.toml: `[shared]` holds for all, `[model.NAME]` for one.

    A key of `sources` may name several fields, apart by spaces.
    """
    content = tomllib.loads(text)
    shared, cards = content.get("shared", {}), []
    for name, own in content["model"].items():
        sources = _apart(shared.get("sources", {})) | _apart(own.get("sources", {}))
        scores = shared.get("scores", {}) | own.get("scores", {})
        cards.append(Card(**{**shared, **own, "name": name, "sources": sources, "scores": scores}))
    return cards


def _apart(sources: Mapping[str, str]) -> dict[str, str]:
    return {name: text for names, text in sources.items() for name in names.split()}


CARDS: Mapping[str, Card] = _Cards()


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
            return dict(parse_json(config.read_text(encoding="utf-8")).get("card") or {})
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
    own = (
        [{name: card.get(name) for name in ("name", "licence", "allows", "permissive")}] if card.get("licence") else []
    )
    return merged(own, [entry for entry in card.get("derived_from", ()) if isinstance(entry, Mapping)])


def merged(*lists: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each (name, licence) once, in order."""
    return list({(e.get("name"), e.get("licence")): dict(e) for entries in lists for e in entries}.values())


# Licence texts of cards -> the hub's identifiers; everything else is "other".
IDENTIFIERS = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
}


def readme(config: Mapping[str, Any]) -> str:
    """Markdown with the hub's front matter, from the dictionary that is written to config.json."""
    card, made_from = config["card"], config["card"].get("derived_from", ())
    licence = IDENTIFIERS.get(str(card["licence"]), "other") if card.get("licence") else None
    if any(not entry.get("permissive") for entry in made_from):
        licence = "other"
    lines = ["---", *([f"license: {licence}"] if licence else []), "library_name: manyview", "---", ""]
    lines += [f"# {card.get('name') or config['architecture']}", ""]
    facts = (
        ("What it does", card.get("task")),
        ("Parameters", f"{card['parameters']:,}" if card.get("parameters") else None),
        ("Images", card.get("preprocessing")),
        ("Paper", card.get("paper")),
        ("Published", card.get("published")),
        ("Licence", card.get("licence")),
        ("What that allows", card.get("allows")),
    )
    lines += [f"- {title}: {text}" for title, text in facts if text]
    if made_from:
        lines += ["", "## Made from", ""]
        lines += [f"- {e.get('name')}: {e.get('licence')} ({e.get('allows')})" for e in made_from]
    if scores := card.get("scores"):
        lines += ["", "## As published", "", *(f"- {title}: {numbers}" for title, numbers in scores.items())]
    use = ["```python", "import manyview as mv", "", 'model = mv.load("path/of/this/folder")', "```"]
    lines += ["", "## Use", "", *use, ""]
    lines += [f"`config.json` holds the {config['architecture']} configuration.", ""]
    return "\n".join(lines)
