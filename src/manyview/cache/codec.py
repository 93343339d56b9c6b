"""One sample as one archive: every map of every view is a small lossless frame inside a plain zip.

An archive is an uncompressed zip that any tool opens: `header.json` and one member `FIELD/VIEW` per map, so
that one view can be read without the others. Equal maps give equal bytes (fixed timestamps, fixed order).

Members, all little-endian and C-ordered:
- float16 maps (H, W, ...): each value's 16-bit pattern minus that of its left neighbour (wrap-around; the
  first column is kept), all low bytes, then all high bytes, zstd. Bit patterns survive, NaN, infinities and
  -0 included.
- bool maps: 8 pixels per byte, first pixel highest, zstd.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from manyview.errors import UserError

ENCODINGS = {"float16": "row-delta16+byte-shuffle+zstd", "bool": "packbits+zstd"}
LARGEST = 65504.0  # the largest finite float16
EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first date


class BrokenArchive(ValueError):
    """An archive that cannot be read: cut off, flipped bits, or not one of ours."""


@cache
def _zstd() -> pyarrow.Codec:
    return pyarrow.Codec("zstd", 1)


def encode_half(values: np.ndarray) -> bytes:
    """Frame of a float16 map (H, W, ...) with any bit patterns."""
    bits = np.ascontiguousarray(values).view(np.uint16)
    delta = bits.copy()
    delta[:, 1:] -= bits[:, :-1]
    planes = delta.reshape(-1).view(np.uint8).reshape(-1, 2).T
    return _zstd().compress(planes.tobytes(), asbytes=True)


def decode_half(frame: bytes, shape: Sequence[int]) -> np.ndarray:
    """The float16 map (H, W, ...) of a frame, bit for bit."""
    planes = _inflate(frame, 2 * math.prod(shape)).reshape(2, -1)
    delta = np.empty((planes.shape[1], 2), np.uint8)
    delta[:, 0], delta[:, 1] = planes
    bits = np.add.accumulate(delta.view(np.uint16).reshape(shape), axis=1, dtype=np.uint16)
    return bits.view(np.float16)


def encode_mask(mask: np.ndarray) -> bytes:
    """Frame of a bool map of any shape."""
    return _zstd().compress(np.packbits(mask).tobytes(), asbytes=True)


def decode_mask(frame: bytes, shape: Sequence[int]) -> np.ndarray:
    """The bool map of a frame."""
    count = math.prod(shape)
    return np.unpackbits(_inflate(frame, -(-count // 8)), count=count).reshape(shape).view(bool)


_ENCODE: dict[str, Callable[[np.ndarray], bytes]] = {"float16": encode_half, "bool": encode_mask}
_DECODE: dict[str, Callable[[bytes, Sequence[int]], np.ndarray]] = {
    "float16": decode_half,
    "bool": decode_mask,
}


def _inflate(frame: bytes, size: int) -> np.ndarray:
    try:
        return np.frombuffer(_zstd().decompress(frame, decompressed_size=size, asbytes=True), np.uint8)
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise BrokenArchive(f"a frame does not decompress to {size} bytes") from error


def to_half(
    values: np.ndarray, valid: np.ndarray, *, saturate: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Round a map (H, W, ...) to float16 and its mask (H, W) to where that is meaningful.

    Invalid pixels become 0. Pixels that are not finite, or beyond float16's range, become invalid instead of
    infinite; with `saturate` (confidences) finite values are clipped to the range instead.
    """
    wide = values.reshape(*valid.shape, -1).astype(np.float32)
    if saturate:
        wide = np.where(np.isfinite(wide), np.clip(wide, -LARGEST, LARGEST), wide)
    with np.errstate(over="ignore", invalid="ignore"):
        half = wide.astype(np.float16)
    kept = valid & np.isfinite(half).all(-1)
    half[~kept] = 0
    return half.reshape(values.shape), kept


def encode_archive(fields: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> bytes:
    """A whole sample: fields of V views, float16 (V, H, W, ...) or bool, and a JSON-able header."""
    described = {
        name: {
            "dtype": values.dtype.name,
            "encoding": ENCODINGS[values.dtype.name],
            "shape": list(values.shape),
        }
        for name, values in sorted(fields.items())
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        text = json.dumps({**header, "fields": described}, indent=1, sort_keys=True, ensure_ascii=False)
        _add(archive, "header.json", text.encode())
        for name, values in sorted(fields.items()):
            for view, plane in enumerate(values):
                _add(archive, _member(name, view), _ENCODE[values.dtype.name](plane))
    return buffer.getvalue()


def decode_archive(
    source: Path | io.BytesIO, views: Sequence[int] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and fields of an archive, of all or some views. Raises BrokenArchive or FileNotFoundError."""
    try:
        with zipfile.ZipFile(source) as archive:
            header = json.loads(archive.read("header.json"))
            fields = {
                name: _read_field(archive, name, about, views) for name, about in header["fields"].items()
            }
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError) as error:
        raise BrokenArchive(f"cannot be read ({type(error).__name__}: {error})") from error
    return header, fields


def _read_field(
    archive: zipfile.ZipFile, name: str, about: Mapping[str, Any], views: Sequence[int] | None
) -> np.ndarray:
    count, *shape = about["shape"]
    wanted = range(count) if views is None else views
    if any(not 0 <= view < count for view in wanted):
        raise UserError(f"view {max(wanted)} was asked for; the sample has {count}")
    decode = _DECODE[about["dtype"]]
    maps = [decode(archive.read(_member(name, view)), shape) for view in wanted]
    return np.stack(maps) if maps else np.empty((0, *shape), about["dtype"])


def _member(name: str, view: int) -> str:
    return f"{name}/{view:03d}"


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3  # the same bytes on every system
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
