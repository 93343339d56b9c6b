"""A folder that one piece of work owns: whose it is, made with which settings, by one process at a time.

An evaluation, a store of answers, a study, a run and a set of features are all such folders. Each has a record, a JSON
file that is written before anything else and says the settings; the same settings go on where they stopped, others are
refused, and a folder with content but without a record is somebody else's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.errors import UserError
from manyview.files import read_json, write_text


@dataclass(frozen=True)
class WorkFolder:
    """A folder, what messages call its work, and the file that holds the record."""

    path: Path
    kind: str
    """What it holds, in words: "evaluation", "study", "teacher cache"."""
    record: str
    """Name of the record file."""
    own: tuple[str, ...] = ()
    """What the work writes beside the record: names or glob patterns, which `clear` removes."""
    needs: tuple[str, ...] = ()
    """Keys of the record; a file of its name without them is somebody else's."""

    @property
    def record_path(self) -> Path:
        return self.path / self.record

    def read(self) -> dict[str, Any] | None:
        """The record, None when there is none. Raises UserError for a damaged one, and for a file as the folder."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; give a folder for the {self.kind} with -o")
        if not self.record_path.is_file():
            return None
        record = read_json(self.record_path, mend=f"choose another folder for the {self.kind} with -o")
        if not isinstance(record, dict):
            raise UserError(f"{self.record_path} is damaged; choose another folder for the {self.kind} with -o")
        return record if record.keys() >= set(self.needs) else None

    def refuse_strangers(self) -> None:
        """Raise UserError when the folder holds anything, hidden files left out, without a record."""
        if self.read() is None and self.path.is_dir():
            others = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
            if others:
                raise UserError(
                    f"{self.path} is not empty ({others[0]}) and holds no {self.kind}; choose another folder with -o"
                )

    def claim(
        self,
        settings: Mapping[str, Any],
        *,
        overwrite: bool | None = None,
        may_change: Collection[str] = (),
        part: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make the folder that of these settings; True when there is work of the same settings to go on with.

        settings: JSON-able. may_change: top-level keys whose difference is no difference. part: the key of the record
        that holds the settings, beside `extra`; None: they are the record. overwrite: other settings' work is cleared
        instead of refused; None where a user cannot ask for that. Raises UserError when the folder is somebody
        else's, has work of other settings, or cannot be written.
        """
        record = self.read()
        if record is None:
            self.refuse_strangers()
        wanted = json.loads(json.dumps(settings))
        before = None if record is None else (record if part is None else record.get(part, {}))
        different = [] if before is None else differences(before, wanted, may_change)
        if different and not overwrite and self.begun():
            self.refuse_others(
                before or {}, wanted, may_change, or_else="" if overwrite is None else ", or --overwrite"
            )
        if record is not None and (different or overwrite):
            self.clear()
        content = wanted if part is None else {part: wanted, **(extra or {})}
        if record != content:
            write_text(self.record_path, json.dumps(content, indent=1) + "\n")
        return record is not None and not different and not overwrite

    def begun(self) -> bool:
        """Whether there is more than the record, as there is not where the first line of the work was refused."""
        return any(p.name != self.record and not p.name.startswith(".") for p in self.path.iterdir())

    def take(self, settings: Mapping[str, Any]) -> None:
        """Make the folder that of these settings; what work of other settings wrote is removed.

        Raises UserError when the folder is somebody else's, or cannot be written.
        """
        self.refuse_strangers()
        if self.read() != settings:
            self.clear()
            write_text(self.record_path, json.dumps(settings, indent=1) + "\n")

    def refuse_others(
        self,
        before: Mapping[str, Any],
        wanted: Mapping[str, Any],
        may_change: Collection[str] = (),
        *,
        or_else: str = "",
        common: bool = False,
    ) -> None:
        """Raise UserError when the settings of the work that is there differ from those that are wanted.

        common: only those that both have are compared, as where one of two versions does not know an option yet.
        """
        different = differences(before, wanted, may_change, common=common)
        if different:
            key = different[0]
            raise UserError(
                f"{self.path} holds {_article(self.kind)} {self.kind} with another {', '.join(different)} "
                f"({key} = {short(_at(before, key))}, not {short(_at(wanted, key))}); "
                f"give the same settings, choose another folder with -o{or_else}"
            )

    def clear(self) -> None:
        """Remove what the work writes, and nothing else; the record last, so that a folder cut off here stays ours."""
        for pattern in (*self.own, self.record):
            for path in self.path.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str = ".lock", *, busy: str | None = None, wait: bool = False) -> Iterator[None]:
        """Hold the folder against a second process; the system lets go when this one ends, however it ends.

        name: a hidden file of its own for every part that may be worked on side by side. Where the file system has no
        locks, nothing is held. wait: until another process lets go, for short work such as writing the record; without
        it raises UserError (`busy`) when another process holds it. Raises UserError when the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        busy = busy or f"another process is at work in {self.path}; wait for it, or choose another folder with -o"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = FileLock(self.path / name, timeout=-1 if wait else 0)
            held.acquire()
        except Timeout as error:
            raise UserError(busy) from error
        except NotImplementedError:
            yield
            return
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"cannot write to {self.path}: {reason}; choose another folder with -o") from error
        try:
            yield
        finally:
            held.release()


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str] = (), *, common: bool = False
) -> list[str]:
    """Dotted keys, sorted, under which two nested settings differ, but for those that may; lists count as one value.

    common: only keys that both have are compared.
    """
    changed = []
    for key in sorted((before.keys() & now.keys() if common else before.keys() | now.keys()) - set(may_change)):
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            inside = [name.removeprefix(f"{key}.") for name in may_change if name.startswith(f"{key}.")]
            changed += [f"{key}.{inner}" for inner in differences(one, other, inside, common=common)]
        elif one != other:
            changed.append(key)
    return changed


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def short(value: Any) -> str:
    """A value as a message shows it: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _at(settings: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings
