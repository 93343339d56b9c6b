"""The one way from the rows of manifests to a batch: read as uint8, keep in memory, change on the run's device.

A subclass says which rows a batch is of (`make`) and may add to what the batch carries (`finish`). Everything that
reading needs is here: sources with their weights, a bounded memory, and files that cannot be read, counted once.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from manyview.batches.augment import Change, cropped, recoloured
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.reading import ImageProblem
from manyview.types import Batches, Signal, Views

LOG = logging.getLogger(__name__)


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)
P = TypeVar("P")
W = TypeVar("W")
ORDER = 3
"""Number of the rule by which draws become rows and pictures; runs and kept answers of another rule are told apart."""
PADDED = 32
"""Pictures are stacked with sides that are multiples of this, whatever else is in their batch."""


@dataclass(frozen=True)
class Source:
    """A manifest to draw from, and how often."""

    manifest: Manifest
    name: str
    weight: float | None = None


def parse_source(text: str | Path) -> tuple[Path, float | None]:
    """`M.parquet` or `M.parquet:WEIGHT`. Raises UserError for a weight that is none."""
    path = Path(text)
    before, colon, after = str(text).rpartition(":")
    if not colon or not before or path.exists():
        return path, None
    try:
        weight = float(after)
    except ValueError:
        return path, None
    if not (weight >= 0 and np.isfinite(weight)):
        raise UserError(f"--data {text}: the weight behind the colon is {after}; give a number from 0 on")
    return Path(before), weight


def open_sources(data: Sequence[Manifest | str | Path]) -> list[Source]:
    """Manifests, opened where they are paths, with weights where they are written as PATH:WEIGHT. Raises UserError."""
    sources = []
    for item in data:
        path, weight = (item.root, None) if isinstance(item, Manifest) else parse_source(item)
        sources.append(Source(item if isinstance(item, Manifest) else Manifest.load(path), str(path), weight))
    return sources


class Shares:
    """How often what is drawn: by the weights of manifests (PATH:WEIGHT), or else of data sets (method.weights)."""

    def __init__(self, sources: Sequence[Source], weights: Mapping[str, float]) -> None:
        self.by_manifest = any(source.weight is not None for source in sources)
        if self.by_manifest and weights:
            raise UserError(
                "weights are given twice, behind the manifests of --data and as method.weights; leave one away"
            )
        if any(not weight >= 0 for weight in weights.values()):
            raise UserError(f"method.weights has a negative number ({dict(weights)}); give numbers from 0 on")
        self.weights = weights

    def units(self, parts: Iterable[tuple[Source, str, P]], *, apart: bool = False) -> dict[str, tuple[float, list[P]]]:
        """What is drawn alike, by name: its weight, and its parts; without what has no weight.

        parts: source and dataset of each. apart: datasets are units of their own even if no weights are given.
        """
        units: dict[str, tuple[float, list[P]]] = {}
        for source, dataset, part in parts:
            name, weight = self.of(source, dataset)
            if weight > 0:
                unit = name if apart or self.by_manifest or self.weights else ""
                units.setdefault(unit, (weight, []))[1].append(part)
        return units

    def of(self, source: Source, dataset: str) -> tuple[str, float]:
        """What a row counts as, and the weight of all that counts so. Raises UserError for one without a weight."""
        if self.by_manifest:
            return source.name, 1.0 if source.weight is None else source.weight
        if self.weights and dataset not in self.weights:
            raise UserError(
                f"dataset {dataset!r} has no weight, {', '.join(self.weights)} have; give it one (0 leaves it out) or "
                "leave method.weights away"
            )
        return dataset, self.weights.get(dataset, 1.0)


class Memory:
    """What was decoded, up to a bound; processes that load side by side share it out."""

    def __init__(self, megabytes: float) -> None:
        self.megabytes = megabytes
        self._values: dict[Hashable, Any] = {}
        self._free: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.megabytes,)  # another process begins with an empty one

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any:
        return self._values.get(key)

    def room_for(self, size: int) -> bool:
        if self._free is None:
            worker = get_worker_info()
            self._free = 1e6 * self.megabytes / (1 if worker is None else worker.num_workers)
        return size <= self._free

    def keep(self, key: Hashable, value: Any, size: int) -> None:
        """Keep while there is room: draws are random, so that throwing others out would gain nothing."""
        if self.room_for(size):
            assert self._free is not None
            self._values[key] = value
            self._free -= size


@dataclass
class Pictures:
    """Whole pictures, padded to one size, whose crops are taken on the device."""

    pixels: Tensor  # (n, h, w, 3) uint8
    sources: list[tuple[int, int]]
    """The (h, w) of each that are its own."""
    rows: list[int]
    """Which images of the batch these are."""


@dataclass
class Loaded:
    """A batch as it was read: B scenes of V views of H x W."""

    names: list[list[str]]
    size: tuple[int, int]
    pixels: Tensor | None = None  # (B, V, H, W, 3) uint8
    pictures: list[Pictures] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """One for each of the B * V images, or none."""
    cameras: dict[str, Tensor] = field(default_factory=dict)
    """Fields of Views: intrinsics, cam2world, depth, labels."""
    signals: dict[str, Signal] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """File -> why it could not be read, those that were met for this batch."""
    extra: Any = None
    """What else a subclass's `finish` needs: tensors in lists, dictionaries and dataclasses."""

    def pin_memory(self) -> Loaded:
        return _mapped(self, lambda tensor: tensor.pin_memory(), {})

    def to(self, device: torch.device) -> Loaded:
        return _mapped(self, lambda tensor: tensor.to(device, non_blocking=True), {})


class Road(Batches):
    """Base of all batches made of manifests."""

    replacement = "another picture"
    """What takes the place of a file that cannot be read, in words."""
    keep_unchanged = False
    """Whether the views also hold the images before their colours are changed, for teachers of pixels."""

    def __init__(self, sources: Sequence[Source], *, seed: int, memory_mb: float = 2000.0) -> None:
        self.sources, self.seed = list(sources), seed
        self.memory = Memory(memory_mb)
        self.unreadable: dict[str, str] = {}
        """File -> why it could not be read, over all processes that load."""
        self._failed: dict[Hashable, str] = {}  # in this process: what was asked for, the file
        self._fresh: dict[str, str] = {}  # not yet handed on with a batch

    @abstractmethod
    def make(self, index: int) -> Loaded:
        """The batch of forward pass `index` of the run, over all ranks."""

    def load(self, index: int) -> Loaded:
        loaded = self.make(index)
        loaded.unreadable, self._fresh = self._fresh, {}
        return loaded

    def finish(self, loaded: Loaded, device: torch.device) -> Views:
        for path, reason in loaded.unreadable.items():
            if path not in self.unreadable:
                self.unreadable[path] = reason
                count = len(self.unreadable)
                LOG.warning("%s: %s; %s takes its place (%d so far)", path, reason, self.replacement, count)
        loaded = loaded.to(device)
        unchanged = _images(loaded, device).unflatten(0, (len(loaded.names), len(loaded.names[0])))
        images, changes = unchanged, loaded.changes
        if any(change.coloured for change in changes):
            images = recoloured(unchanged.flatten(0, 1), changes).view_as(unchanged)
        views = Views(images, names=loaded.names, signals=loaded.signals, **loaded.cameras)
        views.unchanged = unchanged if self.keep_unchanged else None
        return self.completed(views, loaded)

    def completed(self, views: Views, loaded: Loaded) -> Views:
        """The views with whatever else a kind of batch does on the device."""
        return views

    def describe(self) -> dict[str, Any]:
        return {"order": ORDER, "rows": [source.manifest.fingerprint() for source in self.sources], "seed": self.seed}

    def read(self, key: Hashable, make: Callable[[], T]) -> T | None:
        """What `make` reads for `key`, from memory if it was read before; None when it cannot be, told once."""
        value = self.memory.get(key)
        if value is not None or key in self._failed:
            return value
        try:
            value = make()
        except ImageProblem as problem:
            self._failed[key] = str(problem.path)
            self._fresh[str(problem.path)] = problem.reason
            return None
        self.memory.keep(key, value, value.nbytes)
        return value

    def unread(self, most: int = 3) -> str:
        """The files that could last not be read, in words."""
        return ", ".join(list(dict.fromkeys([*self.unreadable, *self._failed.values()]))[-most:])


def enough_for(size: tuple[int, int], smallest: float) -> Callable[[tuple[int, int]], Fit]:
    """Shrinks a picture so far that crops of `smallest` of its shorter side still have the resolution of `size`.

    By less than a half it is left as it is: resampling would take longer than the crops save.
    """

    def fit(source: tuple[int, int]) -> Fit:
        scale = max(size) / smallest / min(source)
        scale = scale if scale <= 0.5 else 1.0
        shrunk = (max(1, round(source[0] * scale)), max(1, round(source[1] * scale)))
        return Fit(source, shrunk, scale, (0.0, 0.0))

    return fit


def wish_of(kind: type[W], config: Any, **more: Any) -> W:
    """A wish for batches: the fields that a recipe's config has under the same names, and `more`."""
    names = {f.name for f in dataclasses.fields(kind)} - set(more)  # type: ignore[arg-type]
    return kind(**{name: getattr(config, name) for name in names if hasattr(config, name)}, **more)


def stack_pictures(pictures: Sequence[np.ndarray]) -> list[Pictures]:
    """Pictures (h, w, 3) of any sizes, stacked with those of nearly the same size."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, picture in enumerate(pictures):
        height, width = (-(-side // PADDED) * PADDED for side in picture.shape[:2])
        groups.setdefault((height, width), []).append(row)
    stacked = []
    for (height, width), rows in groups.items():
        pixels = shared_memory((len(rows), height, width, 3), torch.uint8)
        for place, row in enumerate(rows):
            h, w = pictures[row].shape[:2]
            pixels[place, :h, :w] = torch.from_numpy(pictures[row])
        sources = [(pictures[row].shape[0], pictures[row].shape[1]) for row in rows]
        stacked.append(Pictures(pixels, sources, rows))
    return stacked


def stack_pixels(pixels: Sequence[np.ndarray], shape: tuple[int, int]) -> Tensor:
    """B * V images (H, W, 3) uint8 as (B, V, H, W, 3)."""
    stacked = shared_memory((len(pixels), *pixels[0].shape), torch.uint8)
    np.stack(pixels, out=stacked.numpy())
    return stacked.unflatten(0, shape)


def shared_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor which, in a process that loads, need not be copied on its way to the one that trains."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    numbers = int(np.prod(shape))
    storage = torch.empty(0, dtype=dtype).untyped_storage()._new_shared(max(1, numbers * dtype.itemsize))
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]


def _images(loaded: Loaded, device: torch.device) -> Tensor:
    """(B * V, 3, H, W) in [0, 1]."""
    changes = loaded.changes
    if loaded.pixels is not None:
        pixels = loaded.pixels.flatten(0, 1).permute(0, 3, 1, 2)
        images = torch.empty(pixels.shape, device=device).copy_(pixels).div_(255)
        if rows := [row for row, change in enumerate(changes) if change.mirrored]:
            index = torch.tensor(rows).to(device, non_blocking=True)
            images[index] = images[index].flip(-1)
    else:
        count = sum(len(group.rows) for group in loaded.pictures)
        images = torch.empty(count, 3, *loaded.size, device=device)
        for group in loaded.pictures:
            index = torch.tensor(group.rows).to(device, non_blocking=True)
            own = [changes[row] for row in group.rows]
            images[index] = cropped(group.pixels, group.sources, own, loaded.size)
    return images


def _mapped(value: Any, change: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Any:
    """The same structure with every tensor changed; what is shared stays shared."""
    if isinstance(value, Tensor):
        if id(value) not in done:
            done[id(value)] = change(value)
        return done[id(value)]
    if isinstance(value, dict):
        return {key: _mapped(inner, change, done) for key, inner in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], (str, int, Change)):
        return [_mapped(inner, change, done) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Change)):
        inner = {f.name: _mapped(getattr(value, f.name), change, done) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **inner)
    return value
