"""Getting published weights: licence first, then the file, then its conversion into a model directory.

MANYVIEW_OFFLINE=1 (or HF_HUB_OFFLINE=1) never connects; what was downloaded before is still found.
"""

from __future__ import annotations

import errno
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from manyview.errors import UserError
from manyview.files import parse_json, write_json
from manyview.progress import track
from manyview.zoo.cards import CARDS, Card
from manyview.zoo.converting import keep, network_of
from manyview.zoo.reading import refuse_other_kinds, sha256_of

Accept = Callable[[Card], bool]
OFFLINE = ("MANYVIEW_OFFLINE", "HF_HUB_OFFLINE")
SEEN = "digests.json"
CHUNK, TIMEOUT, TRIES = 1 << 20, 30.0, 3


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
    seen = out.parent.parent / "downloads" / SEEN
    try:
        path = _from_hub(card, _pinned(card, seen)) if card.hub else _from_link(card, out)
    except FetchError as error:
        raise UserError(f"cannot download {card.file} of {name}: {error}; {by_hand}") from error
    origin = {"file": card.file, "bytes": path.stat().st_size, "sha256": card.sha256 or sha256_of(path)}
    if card.hub and path.parent.parent.name == "snapshots":
        origin["revision"] = path.parent.name
    model = network_of(path, name)
    if card.sha256 is None:
        _remember(card, str(origin["sha256"]), origin.get("revision"), seen)
    return keep(model, name, out, origin)


def _known(seen: Path) -> dict[str, Any]:
    try:
        known = parse_json(seen.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _pinned(card: Card, seen: Path) -> str:
    """The commit to ask for: the card's, else the one that this machine saw first; empty for the newest."""
    return card.revision or str(_known(seen).get(f"{card.hub} revision") or "")


def _remember(card: Card, digest: str, revision: Any, seen: Path) -> None:
    """Keep digest and commit of a file whose publisher states none; warn when it is another than at the first time."""
    known = _known(seen)
    if revision:
        known.setdefault(f"{card.hub} revision", revision)
    where = f"{card.hub or card.url} {card.file}"
    before = known.setdefault(where, digest)
    if before != digest:
        warnings.warn(
            f"{card.file} of {card.name} has changed since it was first downloaded: its sha256 was {before[:12]}…, "
            f"now {digest[:12]}… (recorded in {seen}); ask its publisher why",
            stacklevel=3,
        )
        known[where] = digest
    seen.parent.mkdir(parents=True, exist_ok=True)
    write_json(seen, known)


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
    try:
        refuse_other_kinds(target)
    except UserError as error:
        target.unlink()  # or the next try would find it again
        raise FetchError(f"{error} (it was removed)") from error
    return target


def _from_hub(card: Card, revision: str) -> Path:
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
        pinned: dict[str, Any] = {"revision": revision} if revision else {}
        paths = [Path(hf_hub_download(card.hub, name, local_files_only=offline(), **pinned)) for name in names]
    except Exception as error:  # the client raises what its transport raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FetchError(f"the Hugging Face hub says: {first[:200]}") from error
    if card.sha256 and sha256_of(paths[0]) != card.sha256:
        raise FetchError(f"{paths[0]} has another sha256 than published; remove it and try again")
    return paths[0]


class FetchError(Exception):
    """Why a file could not be had, in one line without its end."""


def fetch(
    url: str, target: Path, *, size: int | None = None, sha256: str | None = None, timeout: float = TIMEOUT
) -> Path:
    """Download `url` to `target`; an earlier attempt that broke off (`target`.part) is continued.

    Raises FetchError when the link does not answer, the disk is full, or size or hash are not the expected.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(TRIES):
            total = _go_on(url, part, timeout)
            have = part.stat().st_size
            if total is None or have >= total:
                break
            if attempt == TRIES - 1:
                raise FetchError(
                    f"the connection broke after {have} of {total} bytes; run the same again to go on from there"
                )
        _check(part, size if size is not None else total, sha256)
        os.replace(part, target)
        _tag(part).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        raise FetchError(f"{url} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise FetchError(f"{url} cannot be reached ({error.reason}); is there a network?") from error
    except (TimeoutError, HTTPException, ConnectionError) as error:
        raise FetchError(
            f"{url} stopped answering ({error or type(error).__name__}); run the same again to go on"
        ) from error
    except OSError as error:
        full = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise FetchError(f"cannot write {part}: {full}") from error
    return target


def _tag(part: Path) -> Path:
    """Where the server's name for this version of the file is kept, so that two versions are never mixed."""
    return part.with_name(f"{part.name}.etag")


def _go_on(url: str, part: Path, timeout: float) -> int | None:
    """Append what is missing; the whole size when the server tells it."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "manyview"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _tag(part).is_file():
            request.add_header("If-Range", _tag(part).read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to send, or the part is none of this file
            raise
        whole = error.headers.get("Content-Range", "").rpartition("/")[2]
        if whole == str(have):
            return have
        part.unlink()
        return _go_on(url, part, timeout)
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        if etag := response.headers.get("ETag"):
            _tag(part).write_text(etag, encoding="utf-8")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        steps = None if total is None else -(-(total - have) // CHUNK)
        with part.open("ab" if resumed else "wb") as stream:
            label = f"{part.name.removesuffix('.part')} (MiB)"
            for chunk in track(_chunks(response), total=steps, label=label, unit="MiB"):
                stream.write(chunk)
    return total


def _chunks(response: Any) -> Iterator[bytes]:
    while chunk := response.read(CHUNK):
        yield chunk


def _check(part: Path, size: int | None, sha256: str | None) -> None:
    """Remove a file that is not the expected one: going on with it could never mend it."""
    have = part.stat().st_size
    if size is not None and have != size:
        part.unlink()
        raise FetchError(f"it is {have} bytes long and should be {size}; it was removed, try again")
    if sha256 is None:
        return
    if (digest := sha256_of(part)) != sha256:
        part.unlink()
        raise FetchError(f"its sha256 is {digest[:12]}… and should be {sha256[:12]}…; it was removed, try again")
