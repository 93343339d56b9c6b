"""Maps of points and of positive numbers in few bytes: logarithms in whole steps, differences or cosines, zstd.

A point is kept as the logarithm of its depth z and as x / z and y / z less the plane that fits them best: for a pinhole
camera nothing is left of those two. What a frame holds, little-endian:

    step (float32), number of channels (uint8), then per channel: a plane over u / W, v / H and 1 (3 float64), how it is
    coded (uint8), bytes per number (uint8), length (uint32) and the numbers

Numbers are whole steps, sign in the lowest bit, byte by byte, through zstd. Coded as ROWS they are differences along
rows, as MIXED differences along rows and columns (measured depth, with its edges), as COSINES a discrete cosine
transform of 14x14 blocks (a network's smooth maps), as NOTHING all zero. The widest steps are taken that keep the
relative error of all but a thousandth of the pixels below the tolerance.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

import numpy as np
import pyarrow
import torch

BLOCK = 14
NOTHING, ROWS, MIXED, COSINES = range(4)
WIDEST = 1.9
"""Steps are tried from this times the tolerance down."""
_HEAD, _CHANNEL = struct.Struct("<fB"), struct.Struct("<3dBBI")


def encode_points(points: np.ndarray, tolerance: float) -> bytes:
    """Points (H, W, 3) with z > 0; others count as invalid and come back as anything."""
    points = points.astype(np.float64)
    valid = _positive(points[..., 2])
    depth = np.where(valid, points[..., 2], 1)
    rays = [np.where(valid, points[..., axis] / depth, 0) for axis in (0, 1)]
    norm = np.linalg.norm(points, axis=-1)

    def error(channels: list[np.ndarray]) -> np.ndarray:
        back = points_of(np.stack(channels).astype(np.float32))
        return (np.linalg.norm(back - points, axis=-1) / np.maximum(norm, 1e-300))[valid]

    return _encode([np.log(depth), *rays], valid, error, tolerance)


def encode_positive(values: np.ndarray, tolerance: float) -> bytes:
    """Numbers (H, W) above 0; others count as invalid and come back as anything."""
    valid = _positive(values)
    logarithm = np.log(np.where(valid, values, 1).astype(np.float64))
    return _encode([logarithm], valid, lambda back: np.abs(np.expm1(back[0] - logarithm))[valid], tolerance)


def points_of(channels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(3, H, W) channels -> (H, W, 3) points."""
    depth = np.exp(channels[0])
    out = np.empty((*depth.shape, 3), depth.dtype) if out is None else out
    np.multiply(channels[1], depth, out=out[..., 0])
    np.multiply(channels[2], depth, out=out[..., 1])
    out[..., 2] = depth
    return out


def decode(frame: bytes, height: int, width: int) -> np.ndarray:
    """The channels of a frame: (C, H, W) float32. Raises ValueError, OSError or struct.error for other bytes."""
    step, count = _HEAD.unpack_from(frame)
    at, out = _HEAD.size, np.empty((count, height, width), np.float32)
    for channel in out:
        *plane, coded, size, length = _CHANNEL.unpack_from(frame, at)
        at += _CHANNEL.size
        channel[:] = _plane(tuple(plane), height, width)
        if coded != NOTHING:
            channel += _dequantised(_numbers(frame[at : at + length], coded, size, height, width), coded, step, channel)
        at += length
    return out


def _encode(
    channels: list[np.ndarray], valid: np.ndarray, error: Callable[[list[np.ndarray]], np.ndarray], tolerance: float
) -> bytes:
    """error: of the valid pixels, when these channels are read back."""
    height, width = valid.shape
    fits = [_fitted(channel, valid, flat=not index) for index, channel in enumerate(channels)]
    planes = [np.asarray(_plane(fit, height, width), np.float64) for fit in fits]
    rest = [_filled(channel - plane, valid) for channel, plane in zip(channels, planes, strict=True)]
    coded = [_best_coding(values, tolerance) for values in rest]
    step, quantised = WIDEST * tolerance, []
    while True:
        step = float(np.float32(step))
        quantised = [_quantised(values, how, step) for values, how in zip(rest, coded, strict=True)]
        back = [
            plane + (0 if how == NOTHING else _dequantised(numbers, how, step, valid))
            for plane, how, numbers in zip(planes, coded, quantised, strict=True)
        ]
        if not valid.any() or np.percentile(error(back), 99.9) <= tolerance or step < tolerance / 100:
            break
        step *= 0.93
    parts = [_HEAD.pack(step, len(channels))]
    for fit, how, numbers in zip(fits, coded, quantised, strict=True):
        content, size = bytes_of(numbers, 15)
        parts += [_CHANNEL.pack(*fit, how, size, len(content)), content]
    return b"".join(parts)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values) & (values > 0)


def _fitted(values: np.ndarray, valid: np.ndarray, *, flat: bool) -> tuple[float, float, float]:
    """The plane a u / W + b v / H + c through the valid values; the first channel has its mean only."""
    if not valid.any():
        return 0.0, 0.0, 0.0
    if flat:
        return 0.0, 0.0, float(values[valid].mean())
    v, u = np.nonzero(valid)
    here = np.stack([(u + 0.5) / valid.shape[1], (v + 0.5) / valid.shape[0], np.ones(len(u))], -1)
    return tuple(np.linalg.lstsq(here, values[valid], rcond=None)[0].tolist())


@functools.lru_cache(maxsize=64)
def _plane(fit: tuple[float, float, float], height: int, width: int) -> np.ndarray:
    u, v = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    return (fit[0] * u + (fit[1] * v + fit[2])[:, None]).astype(np.float32)


def _filled(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Invalid pixels take the value of the last valid one to their left, or 0."""
    last = np.maximum.accumulate(np.where(valid, np.arange(valid.shape[1]), -1), 1)
    return np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), 1), 0).astype(np.float32)


def _best_coding(values: np.ndarray, tolerance: float) -> int:
    """The coding that needs the fewest bytes at a step that is about the final one."""
    if np.abs(values).max(initial=0) < tolerance / 50:
        return NOTHING
    size = {how: len(bytes_of(_quantised(values, how, tolerance), 1)[0]) for how in (ROWS, MIXED, COSINES)}
    return min(size, key=lambda how: size[how])


def _quantised(values: np.ndarray, how: int, step: float) -> np.ndarray:
    if how == NOTHING:
        return np.zeros(0, np.int32)
    if how == COSINES:
        height, width = values.shape
        padded = np.pad(values, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
        blocks = torch.from_numpy(padded).unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(1, 2)
        waves = _cosines() @ blocks @ _cosines().T
        rounded = torch.round(waves / step).to(torch.int32).flatten(0, 1).flatten(1)
        return rounded[:, _from_slow_to_fast()].T.contiguous().numpy()
    numbers: np.ndarray = np.rint(values / step).astype(np.int32)
    numbers = np.diff(numbers, axis=1, prepend=0)
    if how == MIXED:
        numbers = np.diff(numbers, axis=0, prepend=0)
    return numbers


def _dequantised(numbers: np.ndarray, how: int, step: float, like: np.ndarray) -> np.ndarray:
    values = torch.from_numpy(numbers)
    if how == COSINES:
        down, across = -(-like.shape[0] // BLOCK), -(-like.shape[1] // BLOCK)
        waves = torch.empty(down * across, BLOCK * BLOCK)
        waves[:, _from_slow_to_fast()] = values.T.float()
        blocks = _cosines().T @ waves.mul_(step).view(down, across, BLOCK, BLOCK) @ _cosines()
        return blocks.transpose(1, 2).reshape(down * BLOCK, -1)[: like.shape[0], : like.shape[1]].numpy()
    values = torch.cumsum(values, 1, dtype=torch.int32)
    if how == MIXED:
        values = torch.cumsum(values, 0, dtype=torch.int32)
    return (values.float() * step).numpy()


def bytes_of(numbers: np.ndarray, level: int) -> tuple[bytes, int]:
    """Whole numbers as bytes, and how many of them a number has."""
    signed = numbers.reshape(-1).astype(np.int64)
    plain = ((signed << 1) ^ (signed >> 63)).astype(np.uint32)
    size = max(1, (int(plain.max(initial=0)).bit_length() + 7) // 8)
    return _zstd(level).compress(plain.view(np.uint8).reshape(-1, 4)[:, :size].T.tobytes(), asbytes=True), size


def _numbers(content: bytes, how: int, size: int, height: int, width: int) -> np.ndarray:
    shape = (height, width)
    if how == COSINES:
        shape = (BLOCK * BLOCK, -(-height // BLOCK) * -(-width // BLOCK))
    if how not in (ROWS, MIXED, COSINES):
        raise ValueError(f"numbers coded as {how}")
    return numbers_of(content, size, shape)


def numbers_of(content: bytes, size: int, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of bytes_of: int32. Raises ValueError or OSError for other bytes."""
    count = shape[0] * shape[1]
    if not 1 <= size <= 4:
        raise ValueError(f"numbers of {size} bytes")
    raw = np.frombuffer(_zstd(1).decompress(content, decompressed_size=size * count), np.uint8).reshape(size, count)
    plain = raw[0].astype(np.int32)
    for byte in range(1, size):
        plain |= raw[byte].astype(np.int32) << (8 * byte)
    return ((plain >> 1) ^ -(plain & 1)).reshape(shape)


@functools.cache
def _zstd(level: int) -> pyarrow.Codec:
    return pyarrow.Codec("zstd", level)


@functools.cache
def _cosines() -> torch.Tensor:
    """(14, 14) orthonormal: row k is the wave of k half turns."""
    k, n = torch.arange(BLOCK)[:, None].double(), torch.arange(BLOCK)[None].double()
    waves = torch.cos(torch.pi * (2 * n + 1) * k / (2 * BLOCK)) * (2 / BLOCK) ** 0.5
    waves[0] /= 2**0.5
    return waves.float()


@functools.cache
def _from_slow_to_fast() -> torch.Tensor:
    """The (14 * 14,) waves in order of their frequency."""
    k = torch.arange(BLOCK)
    return torch.argsort((k[:, None] + k[None]).flatten(), stable=True)
