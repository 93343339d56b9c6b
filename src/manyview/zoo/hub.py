"""Getting published weights: licence first, then the file, then its conversion into a model directory.

MANYVIEW_OFFLINE=1 (or HF_HUB_OFFLINE=1) never connects; what was downloaded before is still found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from manyview.errors import UserError
from manyview.zoo.cards import CARDS, Card
from manyview.zoo.converting import keep, network_of
from manyview.zoo.fetching import FetchError, fetch, sha256_of

Accept = Callable[[Card], bool]
OFFLINE = ("MANYVIEW_OFFLINE", "HF_HUB_OFFLINE")


def offline() -> bool:
    """Whether the environment forbids connections."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def download(name: str, out: Path, *, accept: Accept | None = None, card: Card | None = None) -> Path:
    """Get the published file of a zoo name and convert it into the folder `out`; returns it.

    accept: is shown the card with its licence before anything is fetched and says whether to go on; without it
    only permissive licences are accepted. Raises UserError when it is not accepted, cannot be fetched or is
    damaged; the message says how to put the file in place by hand.
    """
    card = card or CARDS[name]
    if not card.published:
        raise UserError(f"{name} has no published weights; {card.note or 'train it yourself'}")
    by_hand = _by_hand(card, out)
    if not (card.hub or card.url):
        raise UserError(f"the weights of {name} are not on this machine; {by_hand}")
    accepted = card.permissive if accept is None else accept(card)
    if not accepted and accept is not None:
        raise UserError(f"the licence of {name} was not accepted, nothing was downloaded; {by_hand}")
    if not accepted:
        raise UserError(
            f"the weights of {name} are not on this machine and their licence wants a decision ({card.licence}: "
            f"{card.allows}); accept it with `manyview models {name} --download` or "
            f"mv.load({name!r}, accept=lambda card: True); or {by_hand}"
        )
    try:
        path = _from_hub(card) if card.hub else _from_link(card, out)
    except FetchError as error:
        raise UserError(f"cannot download {card.file} of {name}: {error}; {by_hand}") from error
    origin = {"file": card.file, "bytes": path.stat().st_size, "sha256": card.sha256 or sha256_of(path)}
    return keep(network_of(path, name), name, out, origin)


def _by_hand(card: Card, out: Path) -> str:
    file, place = card.file or "the file", card.url or card.published
    return (
        f"by hand: get {file} from {place} (licence: {card.licence}), then run "
        f"`manyview convert FILE --arch {card.name} -o {out}`"
    )


def _from_link(card: Card, out: Path) -> Path:
    """The file of the card's link, kept beside the models until somebody removes it."""
    target = out.parent.parent / "downloads" / card.name / Path(card.file).name
    if not target.is_file() and offline():
        raise FetchError("connections are switched off by the environment")
    if not target.is_file():
        fetch(card.url, target, size=card.bytes, sha256=card.sha256)
    return target


def _from_hub(card: Card) -> Path:
    """The file in the hub client's cache; without the client, from the hub's plain link."""
    names = [card.file]
    if card.container.startswith("Hugging Face directory"):
        names.append(str(Path(card.file).with_name("config.json")))
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FetchError(
            f"it lies on the Hugging Face hub ({card.hub}) and huggingface_hub is not installed "
            "(pip install huggingface_hub)"
        ) from None
    try:
        paths = [Path(hf_hub_download(card.hub, name, local_files_only=offline())) for name in names]
    except Exception as error:  # the client raises what its transport raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FetchError(f"the Hugging Face hub says: {first[:200]}") from error
    if card.sha256 and sha256_of(paths[0]) != card.sha256:
        raise FetchError(f"{paths[0]} has another sha256 than published; remove it and try again")
    return paths[0]
