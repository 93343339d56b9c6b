"""What we wrote and where: the one thing that says which files of a folder may be replaced or deleted.

`.manyview.json` in a folder names each file of ours with its digest, for every kind of work apart:
{"scene": {"scene.json": SHA256, …}, "file": {"cloud.ply": SHA256}}. A file that is not named there, or that no longer
has its digest, is the user's: it is replaced only when told to, and never deleted. While a single file is replaced, the
digest of the new one stands under "coming: …" beside that of the old one, so that either is ours wherever one stops.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from manyview.errors import UserError
from manyview.files import (
    BEFORE_MOVING,
    DRAFT,
    clear_drafts,
    draft_name,
    fresh_file,
    parse_json,
    replace_file,
    sync_folder,
)

RECORD = ".manyview.json"
NEXT = ".manyview-next"
"""A whole new content, inside the folder that it belongs to, while it is moved into place."""
FILE = "file"
"""The kind of work of a file that stands alone."""
COMING = "coming: "
LET = "choose another place, or let it be replaced with --overwrite (overwrite=True)"


def read(folder: Path) -> dict[str, dict[str, str]]:
    """What we wrote into a folder: kind of work -> file, relative to the folder -> SHA-256. Empty without a record."""
    try:
        record = parse_json((folder / RECORD).read_text(encoding="utf-8"))
        return {
            str(what): {str(name): str(digest) for name, digest in names.items() if _stays_inside(folder, str(name))}
            for what, names in record.items()
        }
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def holds(folder: Path, what: str) -> bool:
    """Whether `fresh_directory` has written such work here, whole; a move into place that was cut off is finished."""
    settle(folder)
    return what in read(folder)


def digest(path: Path) -> str | None:
    """SHA-256 of a file, None where there is none to read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return None


def ours(folder: Path, what: str) -> dict[str, set[str]]:
    """The digests that each file of this kind may have: as it was written, or as it is about to be."""
    record, known = read(folder), dict[str, set[str]]()
    for kind in (what, COMING + what):
        for name, sha in record.get(kind, {}).items():
            known.setdefault(name, set()).add(sha)
    return known


def changed(folder: Path, what: str) -> list[str]:
    """The files of this kind that are gone or are not as they were written, sorted."""
    known = ours(folder, what)
    return sorted(name for name in read(folder).get(what, {}) if digest(folder / name) not in known[name])


def refuse_changed(folder: Path, what: str) -> None:
    """Raise UserError when a file of this kind is not as it was written, or nothing says how that was."""
    if not holds(folder, what):
        raise UserError(f"{folder} carries no digests ({RECORD}), so it cannot be verified; write that {what} again")
    if wrong := changed(folder, what):
        raise UserError(
            f"{folder / wrong[0]} is not as it was written ({len(wrong)} such files); copy or make it again"
        )


def note(folder: Path, what: str, names: Iterable[str]) -> None:
    """Record files that were written into `folder`."""
    record, names = read(folder), list(names)
    record.setdefault(what, {}).update({name: digest(folder / name) or "" for name in names})
    _arrived(record, what, names)
    replace_file(folder / RECORD, _text(record))


def _arrived(record: dict[str, dict[str, str]], what: str, names: Iterable[str]) -> None:
    left = {name: sha for name, sha in record.pop(COMING + what, {}).items() if name not in set(names)}
    if left:
        record[COMING + what] = left


def _announce(folder: Path, what: str, name: str, draft: Path) -> None:
    """Record a file of ours before it takes its place: a kill between leaves the old one or it, and no stranger."""
    record = read(folder)
    record.setdefault(COMING + what, {})[name] = digest(draft) or ""
    replace_file(folder / RECORD, _text(record))


def add(folder: Path, what: str, name: str, write: Callable[[Path], object], *, overwrite: bool = False) -> Path:
    """Add one file, which `write` puts where it is told, to a work of this kind that is there; returns its path.

    Raises UserError when a file of that name is not ours, unless `overwrite`.
    """
    _refuse_collisions(folder, [name], ours(folder, what), overwrite=overwrite)
    with fresh_file(folder / name) as draft:
        write(draft)
        _announce(folder, what, name, draft)
    note(folder, what, [name])
    return folder / name


def refuse_other_file(path: Path, *, overwrite: bool = False, flag: str = "") -> None:
    """Raise UserError when `path` cannot be written, or is a file that we did not write; `flag` named it."""
    check_place(path, flag=flag)
    real = Path(os.path.realpath(path))
    if real.is_dir():
        raise UserError(f"{flag}{path} is a directory; give the name of a file")
    if real.exists() and not real.is_file():
        raise UserError(f"{flag}{path} is no ordinary file; give the name of one")
    if overwrite or not real.exists():
        return
    if digest(real) not in ours(real.parent, FILE).get(real.name, ()):
        raise UserError(f"{flag}{path} is there and was not written by this program, or was changed since; {LET}")


@contextmanager
def one_file(path: Path, *, overwrite: bool = False, flag: str = "") -> Iterator[None]:
    """The block writes the file `path` through `fresh_file`; it is recorded before it takes its place, and after.

    Raises UserError as `refuse_other_file` does. What killed commands left half-written beside it is removed.
    """
    refuse_other_file(path, overwrite=overwrite, flag=flag)
    real = Path(os.path.realpath(path))
    clear_drafts(real.parent)

    def announced(draft: Path, place: Path) -> None:
        if place == real:
            _announce(real.parent, FILE, real.name, draft)

    BEFORE_MOVING.append(announced)
    try:
        yield
    finally:
        BEFORE_MOVING.remove(announced)
    note(real.parent, FILE, [real.name])


def refuse_other_files(
    directory: Path, what: str, names: Iterable[str] | None = None, *, overwrite: bool = False
) -> None:
    """Raise UserError when `what` cannot be written into `directory`, or would replace what is not ours.

    names: the files that will be written; None where they are not known yet: then a folder with other content than
    an earlier `what` of ours is refused, hidden files left out.
    """
    check_place(directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; choose a directory for the {what}")
    settle(directory)
    if overwrite or not directory.is_dir():
        return
    if names is not None:
        _refuse_collisions(directory, names, ours(directory, what))
    elif what not in read(directory):
        others = sorted(p.name for p in directory.iterdir() if not p.name.startswith(".") and p.name != "lost+found")
        if others:
            raise UserError(f"{directory} is not empty ({others[0]}) and holds no {what} of ours; {LET}")
    elif different := [name for name in changed(directory, what) if (directory / name).exists()]:
        raise UserError(f"{directory / different[0]} was changed since it was written; {LET}")


@contextmanager
def fresh_directory(
    directory: Path, *, what: str, names: Iterable[str] | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """Yield an empty directory whose files take their places in `directory` when the block ends well.

    What an earlier block of the same kind left there and this one does not write is removed; everything else stays.
    A link as `directory` stays a link, a mounted or current folder the same folder. The files move one by one from
    NEXT; `settle` finishes a move that was cut off, here and wherever such a folder is read.
    Raises UserError when a file of the user's would be replaced, unless `overwrite`; `names` as in
    `refuse_other_files`.
    """
    refuse_other_files(directory, what, names, overwrite=overwrite)
    directory = Path(os.path.realpath(directory))
    new = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    clear_drafts(directory)
    draft = directory / draft_name("folder")
    try:
        draft.mkdir()
        yield draft
        _commit(draft, directory, what, overwrite)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):  # only what is empty
            for folder in new:
                folder.rmdir()


def settle(directory: Path) -> None:
    """Finish moving a new content into place, where a killed command began it. UserError when that is impossible."""
    following = directory / NEXT
    if not following.is_dir():
        return
    new, old = read(following), read(directory)
    known = {what: ours(directory, what) for what in old}
    try:
        for source in _files(following):
            name = source.relative_to(following)
            if name.as_posix() != RECORD and _stays_inside(directory, name.as_posix()):
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, directory / name)
        for what, names in old.items():
            for stale in names.keys() - new.get(what.removeprefix(COMING), {}).keys():
                if digest(directory / stale) in known[what].get(stale, ()):
                    (directory / stale).unlink()
                    with suppress(OSError):
                        for parent in list((directory / stale).relative_to(directory).parents)[:-1]:
                            (directory / parent).rmdir()
        if (following / RECORD).is_file():
            os.replace(following / RECORD, directory / RECORD)
        shutil.rmtree(following)
        sync_folder(directory)
    except FileNotFoundError:
        if following.is_dir():
            raise  # otherwise another process has finished it
    except OSError as error:
        raise UserError(
            f"{directory} holds a result that a stopped command left half in place, and it cannot be finished: "
            f"{reason(error)}; mend that and run any command on it again"
        ) from error


def _commit(draft: Path, directory: Path, what: str, overwrite: bool) -> None:
    names = [path.relative_to(draft).as_posix() for path in _files(draft)]
    record = read(directory)
    _refuse_collisions(directory, names, ours(directory, what), overwrite=overwrite)
    record.pop(COMING + what, None)
    record[what] = {name: digest(draft / name) or "" for name in names}
    (draft / RECORD).write_bytes(_text(record))
    for name in (*names, RECORD):
        handle = os.open(draft / name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    os.rename(draft, directory / NEXT)
    settle(directory)


def _refuse_collisions(
    directory: Path, names: Iterable[str], known: dict[str, set[str]], *, overwrite: bool = False
) -> None:
    for name in names:
        target = directory / name
        if not _stays_inside(directory, name):
            raise UserError(
                f"{target.parent} is a link that leads out of {directory}; remove it, or choose another place"
            )
        if target.is_dir() and not target.is_symlink():
            raise UserError(f"{target} is a directory where a file must be written; choose another place")
        if not overwrite and os.path.lexists(target) and digest(target) not in known.get(name, ()):
            raise UserError(f"{target} is there and was not written by this program, or was changed since; {LET}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _stays_inside(folder: Path, name: str) -> bool:
    """Whether a relative name stays in the folder, links included: a record from elsewhere may not reach further."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return False
    return Path(os.path.realpath((folder / name).parent)).is_relative_to(os.path.realpath(folder))


def _text(record: dict[str, dict[str, str]]) -> bytes:
    return (json.dumps({what: dict(sorted(names.items())) for what, names in record.items()}, indent=1) + "\n").encode()


def check_place(path: Path, *, flag: str = "") -> None:
    """Raise UserError when nothing can be written at `path`, a file or folder to be: said before the work begins."""
    try:
        place = Path(os.path.realpath(path, strict=False))
        while not _there(place):
            place = place.parent
        folder = place if place.is_dir() else place.parent
        if place != Path(os.path.realpath(path)) and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file", str(place))
        longest = os.pathconf(folder, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in Path(path).parts):
            raise OSError(errno.ENAMETOOLONG, "a name is too long")
        with tempfile.TemporaryFile(dir=folder, prefix=DRAFT) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except (OSError, ValueError) as error:
        shown = str(path) if len(str(path)) < 120 else f"{str(path)[:60]}…{str(path)[-40:]}"
        raise UserError(f"{flag}cannot write to {shown}: {reason(error)}; choose another place with -o") from error


def _there(path: Path) -> bool:
    """Whether something is at `path`. Raises OSError for a loop of links, a name that is too long, a closed folder."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return os.path.islink(path)
    except NotADirectoryError:
        return False
    return True


def reason(error: Exception) -> str:
    """Why an operation failed, in the system's words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk"
    return str(error.strerror).lower() if isinstance(error, OSError) and error.strerror else str(error)
