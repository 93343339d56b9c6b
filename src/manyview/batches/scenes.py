"""Batches of scenes with a teacher's kept answers: images as the teacher saw them, joined with what it said of them.

Of a sample a run of consecutive views is taken; over a pass every sample is used once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.batches.augment import draw_change, only_colours
from manyview.batches.road import Loaded, Road, Shares, Source, open_sources, shared_memory, stack_pixels
from manyview.batches.scene_changes import mirror, refer_to_view
from manyview.batches.shuffle import Draws
from manyview.cache.store import Cache
from manyview.data.loading import FittedFrame, read_frame
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.geometry import poses
from manyview.types import Signal, Views

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SceneWish:
    """How a cache's samples become batches."""

    teacher: str | None = None
    """Whose answers; none: the first teacher's of the cache."""
    views: int | None = None
    """Views of a scene; none: as many as the cache was built with, or as its longest sample has."""
    batch: int = 1
    """Scenes of a batch."""
    flip: bool = False
    """Mirror every second scene."""
    jitter: float = 0.0
    """Strength of the colour jitter, view by view: brightness, contrast, saturation and gamma; in [0, 1)."""
    shuffle_views: bool = False
    """Also shuffle the order, and so the reference, of the views."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often its samples are drawn, in proportion; empty: every sample as often."""
    seed: int = 0
    memory_mb: float = 2000.0
    """Decoded images and answers that are kept in memory, in megabytes."""


@dataclass
class _Scene:
    """A teacher's answers to one scene of a batch, as they are stored, and what becomes of them."""

    sample: int
    signals: dict[str, Signal]  # batch 1
    moved: bool
    """Whether the first view is not the sample's own."""
    reference_from_first: Tensor | None
    """(4, 4), where the data's poses say it."""
    mirrored: bool


class SceneBatches(Road):
    """`batches(index)` gives (B, V, 3, H, W) views with signals, and with cameras where all of them are known.

    All scenes of a batch have `views` views. Of longer samples a random run of consecutive views is taken, its first
    view becoming the reference; shorter samples are left out (`describe` says how many).
    """

    def __init__(
        self, cache: str | Path, data: Sequence[Manifest | str | Path] = (), wish: SceneWish | None = None
    ) -> None:
        """`data`: the manifests that the cache's frames are in; default: the one it was built from, where that lay."""
        wish = wish or SceneWish()
        if not 0 <= wish.jitter < 1:
            raise UserError(f"jitter is {wish.jitter}; give 0 (off) up to below 1")
        self.cache = Cache.open(cache)
        self.teacher = self.cache.teacher(wish.teacher)
        super().__init__(open_sources(data or [self._manifest()]), seed=wish.seed, memory_mb=wish.memory_mb)
        self.wish = wish
        lengths = np.array(
            [len(e.frames) if self.teacher.name in e.teachers else 0 for e in self.cache.entries], np.int64
        )
        if not lengths.any():
            raise UserError(f"{cache} holds no samples yet; build it first: manyview cache build")
        longest = int(lengths.max())
        self.views = min(self.cache.meta.views, longest) if wish.views is None else wish.views
        self.samples = np.flatnonzero(lengths >= max(1, self.views))
        if not len(self.samples) or self.views < 1 or wish.batch < 1:
            raise UserError(
                f"{cache}: batches of {wish.batch} with {self.views} views were asked for, its samples have at most "
                f"{longest}; ask for 1 to {longest} views"
            )
        self._where = self._join()
        self._say_what_changed()
        own = self.cache.meta.aspect == "own"
        self._draws = Draws(self._find_units(), self.seed, together=wish.batch if own else 1)
        self._colours = only_colours(wish.jitter, gamma=wish.jitter)

    def __len__(self) -> int:
        """Samples per pass."""
        return len(self._draws)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "cache": str(self.cache.folder),
            "teacher": self.teacher.name,
            "digest": self.teacher.digest,
            "size": list(self.cache.meta.size),
            "samples": len(self),
            "left_out": len(self.cache) - len(self.samples),
            "views": self.views,
            "batch": self.wish.batch,
            "flip": self.wish.flip,
            "jitter": self.wish.jitter,
            "shuffle_views": self.wish.shuffle_views,
        }

    def make(self, index: int) -> Loaded:
        first = index * self.wish.batch
        size = self.cache.size_of(self._draws[first][0])
        loaded, frames = Loaded([], size, extra=[]), list[FittedFrame]()
        for draw in range(first, first + self.wish.batch):
            sample, chosen, mirrored, rng = self._drawn(draw)
            names = [self.cache.entries[sample].frames[view] for view in chosen]
            for source, row in (self._where[name] for name in names):
                frame = self.memory.get((source, row, size))  # there is no other for one that cannot be read
                if frame is None:
                    frame = read_frame(self.sources[source].manifest, row, size, depth=False)
                    self.memory.keep((source, row, size), frame, frame.nbytes)
                frames.append(frame)
            loaded.names.append(names)
            if self.wish.jitter:
                loaded.changes += [draw_change(self._colours, size, size, rng) for _ in chosen]
            loaded.extra.append(self._scene(sample, chosen, mirrored))
        shape = (self.wish.batch, self.views)
        loaded.pixels = stack_pixels([frame.pixels for frame in frames], shape)
        for name in ("intrinsics", "cam2world"):
            known = [value for frame in frames if (value := getattr(frame, name)) is not None]
            if len(known) == len(frames):
                loaded.cameras[name] = torch.stack(known).unflatten(0, shape)
        return loaded

    def completed(self, views: Views, loaded: Loaded) -> Views:
        scenes: list[_Scene] = loaded.extra
        signals = []  # of each scene: float32 with weights, "pointmap" in the frame of the first view
        for scene in scenes:
            weighted = self.cache.weighted(scene.sample, scene.signals, teacher=self.teacher.name)
            signals.append(refer_to_view(weighted, 0, scene.reference_from_first) if scene.moved else weighted)
        views.signals = signals[0] if len(signals) == 1 else _joined(signals, 0)
        rows = [row for row, scene in enumerate(scenes) if scene.mirrored]
        return mirror(views, rows) if rows else views

    def _drawn(self, draw: int) -> tuple[int, list[int], bool, np.random.Generator]:
        """Sample, its views, and whether it is mirrored, of the draw-th scene since the beginning of the run."""
        sample = int(self._draws[draw][0])
        rng = np.random.default_rng([self.seed, 1, draw])
        start = int(rng.integers(len(self.cache.entries[sample].frames) - self.views + 1))
        chosen = list(range(start, start + self.views))
        if self.wish.shuffle_views:
            rng.shuffle(chosen)
        return sample, chosen, self.wish.flip and bool(rng.random() < 0.5), rng

    def _scene(self, sample: int, chosen: list[int], mirrored: bool) -> _Scene:
        moved, reference_from_first = chosen[0] != 0, None
        if moved and self.teacher.uses_given_poses:
            frames = self.cache.entries[sample].frames
            world_from_first, world_from_reference = (self._pose(frames[view]) for view in (0, chosen[0]))
            if world_from_first is not None and world_from_reference is not None:
                reference_from_first = poses.invert(world_from_reference) @ world_from_first
        return _Scene(sample, self._stored(sample, chosen), moved, reference_from_first, mirrored)

    def _pose(self, name: str) -> Tensor | None:
        source, row = self._where[name]
        pose = self.sources[source].manifest[row].pose
        return None if pose is None else torch.from_numpy(pose)

    def _stored(self, sample: int, chosen: list[int]) -> dict[str, Signal]:
        """Signals of these views as stored, batch 1; decoded once while memory lasts."""
        views: dict[int, Any] = {view: self.memory.get((sample, "view", view)) for view in chosen}
        missing = [view for view, kept in views.items() if kept is None]
        if missing:
            stored = self.cache.signals(sample, missing, teacher=self.teacher.name)
            if missing == chosen and not self.memory.room_for(_size(stored)):
                return stored
            for place, view in enumerate(missing):
                one = slice(place, place + 1)
                views[view] = {
                    name: Signal(s.value[:, one], *(None if p is None else p[:, one] for p in (s.weight, s.valid)))
                    for name, s in stored.items()
                }
                self.memory.keep((sample, "view", view), views[view], _size(views[view]))
        return _joined([views[view] for view in chosen], 1)

    def _manifest(self) -> Path:
        """Where the cache's manifest lies. Raises UserError when nobody says, or it is gone."""
        hint = self.cache.meta.manifest_path
        if hint is None:
            raise UserError(f"{self.cache.folder} does not say where its manifest lies; name it (--data M.parquet)")
        path = self.cache.folder / str(hint)
        if not path.exists():
            raise UserError(f"the manifest of {self.cache.folder} is no longer at {path}; name it (--data M.parquet)")
        return path

    def _join(self) -> dict[str, tuple[int, int]]:
        """Image path -> manifest and row, for every frame the cache uses."""
        names = list(dict.fromkeys(n for s in self.samples for n in self.cache.entries[s].frames))
        where: dict[str, tuple[int, int]] = {}
        for number, source in enumerate(self.sources):
            rows = source.manifest.frames.where_image(names).tolist()
            where |= {name: (number, row) for name, row in zip(names, rows, strict=True) if row >= 0}
        for name in names:
            if name not in where:
                roots = " or ".join(str(source.manifest.root) for source in self.sources)
                raise UserError(
                    f"frame {name!r} of the cache {self.cache.folder} is not in the manifest under {roots}; name the "
                    "manifest it was built from"
                )
        return where

    def _say_what_changed(self) -> None:
        """Warn when the data are not those that the teacher saw, or not all of its answers are there."""
        meta, here = self.cache.meta, int(sum(self.teacher.name in e.teachers for e in self.cache.entries))
        if here < meta.samples:
            LOG.warning(
                "%s holds %d of its %d samples: an interrupted build, or lost lines of its index; build it again with "
                "the same command to have all",
                self.cache.folder,
                here,
                meta.samples,
            )
        same = [source for source in self.sources if source.manifest.digest() == meta.manifest]
        if same and meta.files and all(source.manifest.files_digest() != meta.files for source in same):
            LOG.warning(
                "the image files of %s have other sizes than when %s was built: they may not be the pictures that the "
                "teacher saw; build the cache again if they changed",
                " and ".join(source.name for source in same),
                self.cache.folder,
            )
        if not same:
            LOG.warning(
                "%s was built from another manifest than %s: frames are matched by their names, and their pictures, "
                "cameras and depths may not be those that the teacher saw; build the cache again if the data changed",
                self.cache.folder,
                " and ".join(source.name for source in self.sources),
            )

    def _find_units(self) -> list[tuple[float, list[int]]]:
        """Weight and samples of all that is drawn alike. Raises UserError when none is left."""

        def samples() -> Iterator[tuple[Source, str, int]]:
            for sample in self.samples.tolist():
                number, row = self._where[self.cache.entries[sample].frames[0]]
                yield self.sources[number], self.sources[number].manifest[row].dataset, sample

        units = Shares(self.sources, self.wish.weights).units(samples())
        if not units:
            raise UserError("no sample is left to train on: give its dataset or manifest a weight above 0")
        parts = []
        for _, (weight, alike) in sorted(units.items()):
            for size in sorted({self.cache.size_of(sample) for sample in alike}):
                part = [sample for sample in alike if self.cache.size_of(sample) == size]
                parts.append((weight * len(part) / len(alike), part))
        return parts


def _size(signals: dict[str, Signal]) -> int:
    """Bytes, what is shared counted once."""
    parts = {
        part.data_ptr(): part.nbytes
        for signal in signals.values()
        for part in (signal.value, signal.weight, signal.valid)
        if part is not None
    }
    return sum(parts.values())


def _joined(parts: list[dict[str, Signal]], dim: int) -> dict[str, Signal]:
    """Signals put together along a dimension; None unless all have it. What all share is joined once."""
    made: dict[tuple[int, ...], Tensor] = {}

    def join(tensors: list[Tensor | None]) -> Any:
        known = [tensor for tensor in tensors if tensor is not None]
        if len(known) < len(tensors):
            return None
        key = tuple(tensor.data_ptr() for tensor in known)
        if key not in made:
            shape = list(known[0].shape)
            shape[dim] = sum(tensor.shape[dim] for tensor in known)
            out = shared_memory(tuple(shape), known[0].dtype) if known[0].device.type == "cpu" else None
            made[key] = torch.cat(known, dim, out=out)
        return made[key]

    return {
        name: Signal(*(join([getattr(part[name], field) for part in parts]) for field in ("value", "weight", "valid")))
        for name in parts[0]
    }
