"""How one map of one view becomes bytes, by the name of its encoding. All numbers are little-endian, maps C-ordered.

- row-delta16+byte-shuffle+zstd: float16 (H, W, ...): each value's 16-bit pattern minus that of its left neighbour
  (wrap-around; the first column is kept), all low bytes, then all high bytes, zstd. Bit patterns survive, NaN,
  infinities and -0 included.
- packbits+zstd: bool: 8 pixels a byte, first pixel highest, zstd.
- int8-per-channel+zstd: float32 (..., D): the lowest value of every channel and its step (float32), then a byte per
  value: value = lowest + step * byte. At most half a step is lost, 1/510 of the channel's range in this map.
- pca+int8-per-channel+zstd: float32 (..., D): the coordinates of every (D,) on the axes of a Basis, kept like that.
- axes-in-steps+zstd: float32 (..., D): the coordinates on all axes of a Basis in whole steps, one step for all, which
  is the widest that keeps the mean cosine error below 0.019; step (float32), bytes per number (uint8), then axis by
  axis as compact has numbers. Weak axes are mostly zeros, which cost next to nothing.
- points-0.001+zstd: float32 (H, W, 3) with z > 0: to 0.1 % of their distance, see compact.
- positive-0.001+zstd, positive-0.02+zstd: float32 (H, W) above 0: to 0.1 % or 2 %, see compact.
- plain: any numbers as they are, so that a file can be mapped into memory.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow
import torch

from manyview.cache import compact

HALF, MASK, INT8 = "row-delta16+byte-shuffle+zstd", "packbits+zstd", "int8-per-channel+zstd"
PCA, PLAIN = f"pca+{INT8}", "plain"
STEPS = "axes-in-steps+zstd"
POINTS = "points-0.001+zstd"
POSITIVE = {"positive-0.001+zstd": 0.001, "positive-0.02+zstd": 0.02}
"""How positive numbers are kept -> the relative error that all but a thousandth of the pixels stay below."""
ON_AXES = {PCA: 4, STEPS: 1}
"""How maps are kept on the axes of a basis -> one axis for so many channels."""
LOSSLESS = {"float16": HALF, "bool": MASK}
"""How maps are kept that nobody asks to be kept smaller, by their type."""
LARGEST = 65504.0  # the largest finite float16
COSINE = 0.019
"""What one minus the cosine of what was kept in steps to what it was may be, on average over a map."""
WIDTHS = (3.0, 2.4, 2.0, 1.7, 1.4, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.25, 0.12, 0.06, 0.03, 0.01)
"""Steps that are tried, in standard deviations of a channel."""
_STEP = struct.Struct("<fB")


class BrokenArchive(ValueError):
    """An archive that cannot be read: cut off, flipped bits, or not one of ours."""


@dataclass(frozen=True)
class Basis:
    """Mean (D,) and principal axes (d, D) of features, float32, the strongest axis first."""

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray, share: int = ON_AXES[PCA]) -> Basis:
        """The axes of (..., D) values: one for `share` channels, at least one."""
        values = torch.from_numpy(np.ascontiguousarray(rows)).flatten(0, -2).double()
        centred = values - values.mean(0)
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        axes = vectors.flip(1)[:, : max(1, values.shape[1] // share)].T
        return cls(values.mean(0).float().numpy(), axes.float().contiguous().numpy())


def encode(values: np.ndarray, encoding: str, basis: Basis | None = None) -> bytes:
    """The bytes of one view's map."""
    if encoding == HALF:
        bits = np.ascontiguousarray(values).view(np.uint16)
        rows = bits.reshape(_rows(bits.shape))
        delta = rows.copy()
        delta[:, 1:] -= rows[:, :-1]
        return _deflated(delta.reshape(-1).view(np.uint8).reshape(-1, 2).T)
    if encoding == MASK:
        return _deflated(np.packbits(values))
    if encoding == PLAIN:
        return values.tobytes()
    if encoding == POINTS:
        return compact.encode_points(values, 0.001)
    if encoding in POSITIVE:
        return compact.encode_positive(values, POSITIVE[encoding])
    wide = values.reshape(-1, values.shape[-1]).astype(np.float32)
    if encoding == STEPS:
        return _in_steps(wide, _needed(basis))
    if encoding == PCA:
        wide = (wide - _needed(basis).mean) @ _needed(basis).axes.T
    low = wide.min(0)
    step = np.maximum((wide.max(0) - low) / 255, 1e-12)
    codes = np.rint((wide - low) / step).astype(np.uint8)
    return _deflated(np.concatenate([low.view(np.uint8), step.view(np.uint8), codes.reshape(-1)]))


def decode_into(out: np.ndarray, frame: bytes, encoding: str, basis: Basis | None = None) -> None:
    """Fill `out`, a contiguous map of the right type and shape. Raises BrokenArchive for other bytes."""
    if encoding == HALF:
        low, high = _inflated(frame, out.nbytes).reshape(2, -1)
        delta = high.astype(np.uint16)
        delta <<= 8
        delta |= low
        # torch adds up along rows in half of numpy's time.
        rows = torch.from_numpy(delta.view(np.int16).reshape(_rows(out.shape)))
        torch.cumsum(rows, 1, dtype=torch.int16, out=torch.from_numpy(out.view(np.int16).reshape(rows.shape)))
    elif encoding == MASK:
        out.reshape(-1)[:] = np.unpackbits(_inflated(frame, -(-out.size // 8)), count=out.size).view(bool)
    elif encoding == PLAIN:
        if len(frame) != out.nbytes:
            raise BrokenArchive(f"a map has {len(frame)} bytes instead of {out.nbytes}")
        out.reshape(-1)[:] = np.frombuffer(frame, out.dtype)
    elif encoding == POINTS or encoding in POSITIVE:
        try:
            decoded = compact.decode(frame, *out.shape[:2])
            if encoding == POINTS:
                compact.points_of(decoded, out)
            else:
                np.exp(decoded[0], out=out)
        except (ValueError, OSError, IndexError, struct.error) as error:
            raise BrokenArchive(f"a map cannot be decoded ({error})") from error
    elif encoding in (INT8, PCA):
        flat = out.reshape(-1, out.shape[-1])
        channels = flat.shape[1] if encoding == INT8 else len(_needed(basis).axes)
        raw = _inflated(frame, (8 + len(flat)) * channels)
        low, step = raw[: 8 * channels].view(np.float32).reshape(2, -1)
        wide = flat if encoding == INT8 else np.empty((len(flat), channels), np.float32)
        np.multiply(raw[8 * channels :].reshape(wide.shape), step, out=wide)
        wide += low
        if encoding == PCA:
            np.matmul(wide, _needed(basis).axes, out=flat)
            flat += _needed(basis).mean
    elif encoding == STEPS:
        flat, basis = out.reshape(-1, out.shape[-1]), _needed(basis)
        try:
            step, size = _STEP.unpack_from(frame)
            numbers = compact.numbers_of(frame[_STEP.size :], size, (len(basis.axes), len(flat)))
        except (ValueError, OSError, struct.error) as error:
            raise BrokenArchive(f"a map cannot be decoded ({error})") from error
        np.matmul(numbers.T.astype(np.float32) * np.float32(step), basis.axes, out=flat)
        flat += basis.mean
    else:
        raise BrokenArchive(f"a map is kept as {encoding!r}, which this program does not know")


def _in_steps(wide: np.ndarray, basis: Basis) -> bytes:
    """(N, D) rows by the widest step that keeps their directions."""
    places = (wide - basis.mean) @ basis.axes.T
    spread, lengths = float(np.sqrt(np.square(places).mean())), np.linalg.norm(wide, axis=-1)
    for width in WIDTHS:
        step = np.float32(max(width * spread, 1e-12))
        numbers = np.rint(places / step)
        back = numbers * step @ basis.axes + basis.mean
        cosines = (back * wide).sum(-1) / np.maximum(np.linalg.norm(back, axis=-1) * lengths, 1e-30)
        if 1 - cosines[lengths > 0].mean() <= COSINE if lengths.any() else True:
            break
    content, size = compact.bytes_of(numbers.T.astype(np.int64), 12)
    return _STEP.pack(step, size) + content


def to_half(values: np.ndarray, valid: np.ndarray, *, saturate: bool = False) -> tuple[np.ndarray, np.ndarray]:
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


@cache
def _zstd() -> pyarrow.Codec:
    return pyarrow.Codec("zstd", 1)


def _deflated(values: np.ndarray) -> bytes:
    return _zstd().compress(values.tobytes(), asbytes=True)


def _inflated(frame: bytes, size: int) -> np.ndarray:
    try:
        return np.frombuffer(_zstd().decompress(frame, decompressed_size=size), np.uint8)
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise BrokenArchive(f"a frame does not decompress to {size} bytes") from error


def _rows(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, the rest); a vector (D,) is one row."""
    height, width = shape[:2] if len(shape) > 1 else (1, shape[0])
    return height, width, math.prod(shape[2:])


def _needed(basis: Basis | None) -> Basis:
    if basis is None:
        raise BrokenArchive("a map is kept on principal axes, and the store has none")
    return basis
