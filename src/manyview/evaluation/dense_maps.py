"""What dense probes learn and are judged by: frames with a map, their split by scene, their crops, and map files.

Legend: N pictures, h x w pixels of a scaled picture, H x W of a crop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyview.data.depths import read_depth
from manyview.data.loading import read_classes
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.evaluation.dense_framing import Framing, Size
from manyview.evaluation.normal_maps import normals_of
from manyview.evaluation.pairs import share_out
from manyview.files import fresh_file
from manyview.images.fit import same_picture
from manyview.images.reading import ImageProblem
from manyview.pipelines.picture_table import places
from manyview.progress import track

Kind = Literal["labels", "depth", "normals"]
Clean = Callable[[np.ndarray], np.ndarray]
"""Marks in a stored map what is not to be looked at: -1 in labels and packed normals, 0 in depth."""
SPLITS = {"train": ("train", "training"), "test": ("val", "validation", "test")}
"""What data sets call them."""


def column_of(kind: Kind) -> str:
    """The manifest's column that a map is read from; normals lie beside depth, or are made of it."""
    return "depth" if kind == "normals" else kind


class Crop(NamedTuple):
    """A crop of a part's picture."""

    row: int
    top: int
    left: int


@dataclass(frozen=True)
class Part:
    """Frames of a manifest that have a map, by index, and how they are looked at."""

    data: Manifest
    frames: tuple[int, ...]
    kind: Kind
    framing: Framing

    @cached_property
    def sizes(self) -> list[Size]:
        """(h, w) of every scaled picture."""
        return [self.framing.full(_size(self.data[index])) for index in self.frames]

    @cached_property
    def crops(self) -> list[Crop]:
        """All crops, picture by picture."""
        corners = [self.framing.corners(_size(self.data[index])) for index in self.frames]
        return [Crop(row, top, left) for row, of in enumerate(corners) for top, left in of]

    def batches(self, pictures: int) -> Iterator[tuple[range, list[int]]]:
        """Rows of `pictures` pictures at a time, with the indices of their crops."""
        ends = np.searchsorted([crop.row for crop in self.crops], np.arange(len(self.frames) + 1)).tolist()
        for start in range(0, len(self.frames), pictures):
            rows = range(start, min(start + pictures, len(self.frames)))
            yield rows, list(range(ends[rows.start], ends[rows.stop]))

    def place(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of a crop in the scaled picture and map."""
        (_, top, left), (height, width) = self.crops[index], self.framing.size
        return slice(top, top + height), slice(left, left + width)

    def read(self, crops: Sequence[int]) -> tuple[Tensor, dict[int, str]]:
        """Crops by index, (n, H, W, 3) uint8, black where the picture cannot be read, and why it cannot."""
        pixels, problems = torch.zeros(len(crops), *self.framing.size, 3, dtype=torch.uint8), {}
        row, picture = -1, np.zeros(0)
        for place, index in enumerate(crops):
            crop = self.crops[index]
            frame = self.data[self.frames[crop.row]]
            try:
                if crop.row != row:
                    picture, row = self.framing.picture(self.data.path(frame.image), _size(frame)), crop.row
                pixels[place] = torch.from_numpy(picture[self.place(index)])
            except ImageProblem as problem:
                problems[index] = problem.reason
        return pixels, problems

    def maps(self, path: Path, clean: Clean) -> list[np.ndarray]:
        """The cleaned maps (h, w), int32 or float32, kept in `path`; made when it is not there."""
        if not path.is_file():
            maps = self.cleaned(path.stem, clean)
            write_maps(path, maps, self.sizes, np.float32 if self.kind == "depth" else np.int32)
        return read_maps(path, self.sizes)

    def cleaned(self, name: str, clean: Clean) -> Iterator[np.ndarray]:
        """The cleaned maps (h, w), one after the other; `name` is what progress calls them."""
        for index in track(self.frames, label=f"{self.kind}, {name}", unit="frame"):
            frame = self.data[index]
            relative = str(getattr(frame, column_of(self.kind)))
            if self.kind == "normals":
                values = normals_of(self.data, frame)
            elif self.kind == "labels":
                values = read_classes(self.data, relative)
            else:
                values = read_depth(self.data.path(relative), frame.depth_scale or 1.0, self.data.farthest)
            if not same_picture(values.shape, _size(frame)):
                raise UserError(
                    f"{relative} is {values.shape[1]}x{values.shape[0]} but its image {frame.image} "
                    f"{frame.width}x{frame.height}: another aspect; make both show the same picture and scan again"
                )
            kept = self.framing.map(clean(values), _size(frame))
            yield kept.astype(np.float32 if self.kind == "depth" else np.int32, copy=False)


def write_maps(path: Path, maps: Iterable[np.ndarray], sizes: Sequence[Size], dtype: type) -> None:
    """Maps (h, w) in one file, whole or not there: a row of all their pixels."""
    ends = np.cumsum([height * width for height, width in sizes])
    with fresh_file(path) as draft:
        flat = np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=(int(ends[-1]),))
        if hasattr(os, "posix_fallocate"):  # a full disk is noticed here; met in the mapped file it kills the process
            with open(draft, "r+b") as whole:
                os.posix_fallocate(whole.fileno(), 0, draft.stat().st_size)
        for end, values in zip(ends, maps, strict=True):
            flat[end - values.size : end] = values.reshape(-1)
        del flat


def read_maps(path: Path, sizes: Sequence[Size]) -> list[np.ndarray]:
    """Maps (h, w) of a file that `write_maps` made; pixels are read when they are looked at."""
    flat = np.load(path, mmap_mode="r", allow_pickle=False).reshape(-1)
    ends = np.cumsum([height * width for height, width in sizes])
    return [flat[end - h * w : end].reshape(h, w) for end, (h, w) in zip(ends, sizes, strict=True)]


def split(
    data: Manifest,
    train: Manifest | None,
    kind: Kind,
    framing: Framing,
    *,
    share: float,
    most: tuple[int, int],
    seed: int,
) -> dict[str, Part]:
    """Frames to train and to test on: those of two manifests, else by the splits that the data set itself names, else
    `share` of the scenes to train and the others to test.

    `most`: at most so many frames of each, evenly spread; 0 for all. Raises UserError for too few.
    """

    groups = data.scenes()

    def having(manifest: Manifest, indices: Iterable[int], splits: Sequence[str] = ()) -> tuple[int, ...]:
        """Those of the frames that have the map, of these splits or of any."""
        wanted = (index for index in sorted(indices) if not splits or manifest[index].split in splits)
        return tuple(index for index in wanted if getattr(manifest[index], column_of(kind)) is not None)

    named = {name: having(data, range(len(data)), words) for name, words in SPLITS.items()}
    if train is not None:
        first, second = (manifest.info.get("classes") for manifest in (train, data))
        if kind == "labels" and first and second and list(first) != list(second):
            raise UserError(
                f"--train has {len(first)} classes ({first[0]}, …) and the data {len(second)} ({second[0]}, …), "
                "another list; scan both with the same --classes"
            )
        chosen = {name: (of, having(of, range(len(of)))) for name, of in (("train", train), ("test", data))}
    elif all(named.values()):
        chosen = {name: (data, frames) for name, frames in named.items()}
    else:
        scenes = share_out(list(groups), {"train": share, "test": 1 - share}, seed)
        chosen = {
            name: (data, having(data, [index for scene in own for index in groups[scene]]))
            for name, own in scenes.items()
        }
    parts = {}
    for (name, (manifest, frames)), limit in zip(chosen.items(), most, strict=True):
        if not frames:
            raise UserError(f"no frame to {name} on has {kind}; give a manifest whose frames do")
        spread = tuple(frames[row] for row in places(len(frames), limit or len(frames)))
        parts[name] = Part(manifest, spread, kind, framing)
    return parts


def _size(frame: Frame) -> Size:
    return frame.height, frame.width
