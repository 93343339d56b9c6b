"""What dense probes learn and are judged by: frames with a map, their split by scene, their crops, and map files.

Legend: N pictures, h x w pixels of a scaled picture, H x W of a crop.
"""

from __future__ import annotations

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
from manyview.evaluation.pairs import share_out
from manyview.files import fresh_file
from manyview.images.fit import same_picture
from manyview.images.reading import ImageProblem
from manyview.models.vit import IMAGENET_MEAN
from manyview.progress import track

Kind = Literal["labels", "depth"]
Clean = Callable[[np.ndarray], np.ndarray]
"""Marks in a stored map what is not to be looked at: -1 in labels, 0 in depth."""
SPLITS = {"train": ("train", "training"), "test": ("val", "validation", "test")}
"""What data sets call them."""


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
        first = 0
        for start in range(0, len(self.frames), pictures):
            rows = range(start, min(start + pictures, len(self.frames)))
            last = first
            while last < len(self.crops) and self.crops[last].row < rows.stop:
                last += 1
            yield rows, list(range(first, last))
            first = last

    def cut(self, picture: np.ndarray, crop: Crop) -> np.ndarray:
        """The crop's part of a scaled picture or map."""
        height, width = self.framing.size
        return picture[crop.top : crop.top + height, crop.left : crop.left + width]

    def read(self, data: Manifest, crops: Sequence[int], size: Size) -> tuple[Tensor, dict[int, str]]:
        """Pictures of crops by index, (n, 3, H, W) in [0, 1] and padded with ImageNet's mean, and why some
        are only that.
        """
        images, problems = torch.tensor(IMAGENET_MEAN)[:, None, None].repeat(len(crops), 1, *size), {}
        row, picture = -1, np.zeros(0)
        for place, index in enumerate(crops):
            crop = self.crops[index]
            frame = data[self.frames[crop.row]]
            try:
                if crop.row != row:
                    picture, row = self.framing.picture(data.path(frame.image), _size(frame)), crop.row
            except ImageProblem as problem:
                problems[index] = problem.reason
                continue
            pixels = torch.from_numpy(self.cut(picture, crop)).permute(2, 0, 1).float() / 255
            images[place, :, *self.framing.inside] = pixels
        return images, problems

    def maps(self, path: Path, clean: Clean) -> list[np.ndarray]:
        """The cleaned maps (h, w), int32 or float32, kept in `path`; made when it is not there."""
        if not path.is_file():
            write_maps(path, self.cleaned(path.stem, clean), self.sizes, self.dtype)
        return read_maps(path, self.sizes)

    @property
    def dtype(self) -> type:
        return np.int32 if self.kind == "labels" else np.float32

    def cleaned(self, name: str, clean: Clean) -> Iterator[np.ndarray]:
        """The cleaned maps (h, w), one after the other; `name` is what progress calls them."""
        for index in track(self.frames, label=f"{self.kind}, {name}", unit="frame"):
            yield self._map(self.data[index], clean).astype(self.dtype, copy=False)

    def _map(self, frame: Frame, clean: Clean) -> np.ndarray:
        relative = str(getattr(frame, self.kind))
        if self.kind == "labels":
            values = read_classes(self.data, relative)
        else:
            values = read_depth(self.data.path(relative), frame.depth_scale or 1.0)
        if not same_picture(values.shape, _size(frame)):
            raise UserError(
                f"{relative} is {values.shape[1]}x{values.shape[0]} but its image {frame.image} "
                f"{frame.width}x{frame.height}: another aspect; make both show the same picture and scan again"
            )
        return self.framing.map(clean(values), _size(frame))


def write_maps(path: Path, maps: Iterable[np.ndarray], sizes: Sequence[Size], dtype: type) -> None:
    """Maps in one file, whole or not there: (N, h, w), or one row of pixels where sizes differ."""
    ends = np.cumsum([height * width for height, width in sizes])
    shape = (len(sizes), *sizes[0]) if len(set(sizes)) == 1 else (int(ends[-1]),)
    with fresh_file(path) as draft:
        flat = np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape).reshape(-1)
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
    named = {name: _with(data, kind, splits=words) for name, words in SPLITS.items()}
    if train is not None:
        _same_classes(train, data, kind)
        chosen = {"train": (train, _with(train, kind)), "test": (data, _with(data, kind))}
    elif all(named.values()):
        chosen = {name: (data, frames) for name, frames in named.items()}
    else:
        scenes = share_out(list(data.scenes()), {"train": share, "test": 1 - share}, seed)
        chosen = {name: (data, _with(data, kind, names)) for name, names in scenes.items()}
    parts = {}
    for (name, (manifest, frames)), limit in zip(chosen.items(), most, strict=True):
        if not frames:
            raise UserError(f"no frame to {name} on has {kind}; give a manifest whose frames do")
        parts[name] = Part(manifest, _spread(frames, limit), kind, framing)
    return parts


def _same_classes(train: Manifest, data: Manifest, kind: Kind) -> None:
    first, second = (manifest.info.get("classes") for manifest in (train, data))
    if kind == "labels" and first and second and list(first) != list(second):
        raise UserError(
            f"--train has {len(first)} classes ({first[0]}, …) and the data {len(second)} ({second[0]}, …), another "
            "list; scan both with the same --classes"
        )


def _size(frame: Frame) -> Size:
    return frame.height, frame.width


def _with(
    data: Manifest, kind: Kind, scenes: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Frames that have the map, of these scenes or of these splits."""
    groups = data.scenes()
    indices = sorted(index for name in (groups if scenes is None else scenes) for index in groups[name])
    wanted = (index for index in indices if splits is None or data[index].split in splits)
    return tuple(index for index in wanted if getattr(data[index], kind) is not None)


def _spread(frames: tuple[int, ...], most: int) -> tuple[int, ...]:
    if not most or len(frames) <= most:
        return frames
    return tuple(frames[round(row)] for row in np.linspace(0, len(frames) - 1, most))
