"""The README.md of a model directory, made from its config.json: what it is, whence, under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
