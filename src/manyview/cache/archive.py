"""One sample's maps as one archive: a plain zip whose members are the maps of single views.

`header.json` says what the archive holds and how; the map of view 7 of a field is the member `FIELD/007`, so that one
view is read without the others. The zip is not compressed (its members are, see codec) and has fixed dates and order:
equal maps give equal bytes. The zip's own checksums are looked at whenever a member is read.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from manyview.cache import codec
from manyview.cache.codec import Basis, BrokenArchive
from manyview.errors import UserError
from manyview.files import parse_json

HEADER = "header.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first date
Source = Path | io.BytesIO
Find = Callable[[str], Basis | None]
"""The basis of a field that is kept on principal axes."""


def encode_archive(
    fields: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
    *,
    encodings: Mapping[str, str] | None = None,
    bases: Find = lambda field: None,
    onto: Source | None = None,
) -> bytes:
    """A whole sample: fields of V views, (V, ...), and a JSON-able header.

    encodings: how fields are kept; float16 and bool fields that it does not name are kept without loss.
    onto: an archive whose fields come along as they are.
    """
    described: dict[str, Any] = {}
    members: dict[str, bytes] = {}
    if onto is not None:
        with _opened(onto) as (archive, older):
            described |= older["fields"]
            members |= {name: archive.read(name) for name in archive.namelist() if name != HEADER}
    for name, values in fields.items():
        encoding = (encodings or {}).get(name) or codec.LOSSLESS[values.dtype.name]
        dtype = "float32" if encoding in (codec.INT8, codec.PCA, codec.STEPS) else values.dtype.name
        described[name] = {"dtype": dtype, "encoding": encoding, "shape": list(values.shape)}
        for view, plane in enumerate(values):
            members[_member(name, view)] = codec.encode(plane, encoding, bases(name))
    text = json.dumps({**header, "fields": described}, indent=1, sort_keys=True, ensure_ascii=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(HEADER, text.encode()), *sorted(members.items())]:
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # the same bytes on every system
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def decode_archive(
    source: Source,
    views: Sequence[int] | None = None,
    *,
    wanted: Callable[[dict[str, Any]], Collection[str]] = lambda header: header["fields"],
    bases: Find = lambda field: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and fields of an archive, of all or some views, of those fields that `wanted` names.

    Raises BrokenArchive, FileNotFoundError, and UserError for a view that the sample does not have.
    """
    with _opened(source) as (archive, header):
        fields = {}
        for name in wanted(header):
            about = header["fields"][name]
            count, *shape = about["shape"]
            chosen = range(count) if views is None else views
            if any(not 0 <= view < count for view in chosen):
                raise UserError(f"view {max(chosen)} was asked for; the sample has {count}")
            fields[name] = np.empty((len(chosen), *shape), about["dtype"])
            basis = bases(name) if about["encoding"] in codec.ON_AXES else None
            for place, view in enumerate(chosen):
                codec.decode_into(fields[name][place], archive.read(_member(name, view)), about["encoding"], basis)
    return header, fields


def map_archive(path: Path) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Header and the views of an archive's plain fields as read-only arrays in the file itself; nothing is copied.

    Raises BrokenArchive or FileNotFoundError.
    """
    with _opened(path) as (archive, header), open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        fields: dict[str, list[np.ndarray]] = {}
        for name, about in header["fields"].items():
            count, *shape = about["shape"]
            dtype = np.dtype(about["dtype"])
            for view in range(count):
                start = archive.getinfo(_member(name, view)).header_offset
                # A local file header has 30 bytes, then the name and an extra field, whose lengths it says last.
                start += 30 + sum(np.frombuffer(content, "<u2", 2, start + 26).tolist())
                values = np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
                fields.setdefault(name, []).append(values)
    return header, fields


@contextmanager
def _opened(source: Source) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """The zip and its header. Everything that is wrong with an archive comes out as BrokenArchive."""
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive, parse_json(archive.read(HEADER))
    except (FileNotFoundError, BrokenArchive, UserError):
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError) as error:
        raise BrokenArchive(f"cannot be read ({type(error).__name__}: {error})") from error


def _member(name: str, view: int) -> str:
    return f"{name}/{view:03d}"
