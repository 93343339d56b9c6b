"""What dense probes learn and are judged by: frames with a map, their split by scene, and the maps as one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from manyview.data.loading import load_depth, load_labels
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.progress import track

Kind = Literal["labels", "depth"]
Clean = Callable[[np.ndarray], np.ndarray]
"""Marks what is not to be looked at: -1 in labels, 0 in depth."""


@dataclass(frozen=True)
class Part:
    """Frames of a manifest that have a map, by index."""

    data: Manifest
    frames: tuple[int, ...]

    def write(self, kind: Kind, size: tuple[int, int], path: Path, clean: Clean) -> np.ndarray:
        """The cleaned maps (N, H, W) at `size`, int32 or float32, kept in `path`; made when it is not there."""
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".partial")
            dtype = np.int32 if kind == "labels" else np.float32
            maps = np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=(len(self.frames), *size))
            load = load_labels if kind == "labels" else load_depth
            for row, index in enumerate(track(self.frames, label=f"{kind}, {path.stem}", unit="frame")):
                found = load(self.data, self.data[index], size)
                if found is not None:
                    maps[row] = clean(found.numpy())
            maps.flush()
            del maps
            os.replace(draft, path)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def split(
    data: Manifest, train: Manifest | None, kind: Kind, *, share: float, most: tuple[int, int], seed: int
) -> dict[str, Part]:
    """Frames to train and to test on: two manifests, or `share` of one's scenes to train and the others to test.

    `most`: at most so many frames of each, evenly spread; 0 for all. Raises UserError for too few.
    """
    if train is not None:
        parts = {"train": Part(train, _with(train, kind)), "test": Part(data, _with(data, kind))}
    else:
        names = list(data.scenes())
        if len(names) < 2:
            raise UserError(
                f"{len(names)} scene cannot be split into train and test; give the probe's training scenes with "
                "--train TRAIN.parquet"
            )
        np.random.default_rng([seed, 3]).shuffle(names)
        count = min(len(names) - 1, max(1, round(share * len(names))))
        parts = {
            "train": Part(data, _with(data, kind, names[:count])),
            "test": Part(data, _with(data, kind, names[count:])),
        }
    found = {}
    for (name, part), limit in zip(parts.items(), most, strict=True):
        if not part.frames:
            raise UserError(f"no frame to {name} on has {kind}; give a manifest whose frames do")
        found[name] = Part(part.data, _spread(part.frames, limit))
    return found


def _with(data: Manifest, kind: Kind, scenes: Sequence[str] | None = None) -> tuple[int, ...]:
    groups = data.scenes()
    indices = sorted(index for name in (scenes or groups) for index in groups[name])
    return tuple(index for index in indices if getattr(data[index], kind) is not None)


def _spread(frames: tuple[int, ...], most: int) -> tuple[int, ...]:
    if not most or len(frames) <= most:
        return frames
    return tuple(frames[round(row)] for row in np.linspace(0, len(frames) - 1, most))
