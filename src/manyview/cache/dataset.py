"""Training batches from a cache: the teacher's answers joined with the images they were given for.

A batch is a function of (seed, step, rank, world): the same call gives the same bits, whenever and wherever a
run stops and goes on. Over an epoch every sample is used once. What was decoded stays in memory up to a
bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.cache import augment
from manyview.cache.store import Cache
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.geometry import poses
from manyview.types import Signal, Views


@dataclass
class _Image:
    """A decoded frame at the cache's size."""

    pixels: Tensor  # (3, H, W) uint8
    intrinsics: Tensor | None  # (3, 3)
    cam2world: Tensor | None  # (4, 4)


class CachedViews:
    """`views(step, rank, world)` gives a batch of scenes with their signals.

    All scenes of a batch have `views` views: by default as many as the cache was built with, or as its
    longest sample has. Of longer samples a random run of consecutive views is taken, its first view becoming
    the reference; shorter samples are left out (`describe` says how many).
    """

    def __init__(
        self,
        cache_dir: str | Path,
        manifest: Manifest | str | Path | None = None,
        *,
        views: int | None = None,
        batch: int = 1,
        seed: int = 0,
        flip: bool = False,
        jitter: float = 0.0,
        shuffle_views: bool = False,
        memory_mb: float = 2000,
    ) -> None:
        """`manifest`: default is where it lay when the cache was built. `flip` mirrors every second scene,
        `jitter` in [0, 1) recolours images, `shuffle_views` also shuffles the order (and so the reference) of
        the views."""
        if not 0 <= jitter < 1:
            raise UserError(f"jitter is {jitter}; give 0 (off) up to below 1")
        self.cache = Cache.open(cache_dir)
        self.manifest = self._find_manifest(manifest)
        self.batch, self.seed, self.flip, self.jitter = batch, seed, flip, jitter
        self.shuffle_views = shuffle_views
        lengths = [len(entry.frames) for entry in self.cache.entries]
        if not lengths:
            raise UserError(f"{cache_dir} holds no samples yet; build it first: manyview cache build")
        self.views = min(self.cache.meta.views, max(lengths)) if views is None else views
        self.samples = [i for i, length in enumerate(lengths) if length >= self.views]
        if not self.samples or self.views < 1 or batch < 1:
            raise UserError(
                f"{cache_dir}: batches of {batch} with {self.views} views were asked for, its samples have "
                f"at most {max(lengths)}; ask for 1 to {max(lengths)} views"
            )
        self._where = self._join()
        self._memory: dict[tuple[Any, ...], Any] = {}
        self._free = int(memory_mb * 1e6)

    def __len__(self) -> int:
        """Samples per epoch."""
        return len(self.samples)

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        teacher = self.cache.teacher()
        return {
            "cache": str(self.cache.folder),
            "teacher": teacher.name,
            "digest": teacher.digest,
            "size": list(self.cache.meta.size),
            "samples": len(self),
            "left_out": len(self.cache) - len(self),
            "views": self.views,
            "batch": self.batch,
            "seed": self.seed,
            "flip": self.flip,
            "jitter": self.jitter,
            "shuffle_views": self.shuffle_views,
            "manifest": self.manifest.digest(),
        }

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Views:
        """The views of one rank at `step`: images, signals, and cameras where they are known."""
        first = (step * world + rank) * self.batch
        return _join_scenes([self._scene(draw) for draw in range(first, first + self.batch)])

    def _scene(self, draw: int) -> Views:
        """The `draw`-th scene since the beginning of the run, batch 1."""
        epoch, position = divmod(draw, len(self))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self))
        sample = self.samples[order[position]]
        rng = np.random.default_rng([self.seed, 1, draw])
        length = len(self.cache.entries[sample].frames)
        start = int(rng.integers(length - self.views + 1))
        chosen = list(range(start, start + self.views))
        if self.shuffle_views:
            rng.shuffle(chosen)
        views = self._load(sample, chosen)
        if self.flip and rng.random() < 0.5:
            views = augment.mirror(views)
        if self.jitter:
            views.images = augment.recolour(views.images[0], self.jitter, rng)[None]
        return views

    def _load(self, sample: int, chosen: list[int]) -> Views:
        """Views of one sample in this order, "pointmap" in the frame of the first of them."""
        entry = self.cache.entries[sample]
        frames = [self._image(self._where[entry.frames[i]]) for i in chosen]
        signals = self.cache.weighted(sample, self._signals(sample, chosen))
        if chosen[0] != 0:
            reference_from_first = None
            origin = self.manifest[self._where[entry.frames[0]]].pose
            target = self.manifest[self._where[entry.frames[chosen[0]]]].pose
            if self.cache.teacher().uses_given_poses and origin is not None and target is not None:
                world_from_first, world_from_target = torch.from_numpy(origin), torch.from_numpy(target)
                reference_from_first = poses.invert(world_from_target) @ world_from_first
            signals = augment.refer_to_view(signals, 0, reference_from_first)
        return Views(
            images=torch.stack([frame.pixels for frame in frames])[None].float() / 255,
            intrinsics=_stack([frame.intrinsics for frame in frames]),
            cam2world=_stack([frame.cam2world for frame in frames]),
            names=[[entry.frames[i] for i in chosen]],
            signals=signals,
        )

    def _image(self, index: int) -> _Image:
        key = ("image", index)
        if key not in self._memory:
            loaded = load_views(self.manifest, [index], self.cache.meta.size)
            pixels = (loaded.images[0, 0] * 255).round().to(torch.uint8)
            image = _Image(pixels, _only(loaded.intrinsics), _only(loaded.cam2world))
            return self._remember(key, image, pixels.nbytes)
        return self._memory[key]

    def _signals(self, sample: int, chosen: list[int]) -> dict[str, Signal]:
        """Signals of these views, batch 1, without derived weights; decoded once while memory lasts."""
        missing = [view for view in chosen if ("signals", sample, view) not in self._memory]
        fresh: dict[int, dict[str, Signal]] = {}
        if missing:
            read = self.cache.signals(sample, missing)
            for position, view in enumerate(missing):
                fresh[view], size = _one_view(read, position)
                self._remember(("signals", sample, view), fresh[view], size)
        return _concatenate(
            [fresh.get(view) or self._memory["signals", sample, view] for view in chosen], dim=1
        )

    def _remember(self, key: tuple[Any, ...], value: Any, size: int) -> Any:
        """Keep while there is room. Throwing others out would gain nothing: epochs are random orders."""
        if size <= self._free:
            self._memory[key] = value
            self._free -= size
        return value

    def _find_manifest(self, manifest: Manifest | str | Path | None) -> Manifest:
        if isinstance(manifest, Manifest):
            return manifest
        hint = self.cache.meta.manifest_path
        if manifest is None and hint is None:
            raise UserError(
                f"{self.cache.folder} does not say where its manifest lies; name it (--data M.parquet)"
            )
        if manifest is None:
            manifest = self.cache.folder / str(hint)
            if not manifest.exists():
                raise UserError(
                    f"the manifest of {self.cache.folder} is no longer at {manifest}; name it (--data "
                    "M.parquet)"
                )
        return Manifest.load(manifest)

    def _join(self) -> dict[str, int]:
        """Image path -> index in the manifest, for every frame the cache uses."""
        known = {frame.image: index for index, frame in enumerate(self.manifest.frames)}
        for sample in self.samples:
            for name in self.cache.entries[sample].frames:
                if name not in known:
                    raise UserError(
                        f"frame {name!r} of the cache {self.cache.folder} is not in the manifest under "
                        f"{self.manifest.root}; name the manifest it was built from"
                    )
        return known


def _only(values: Tensor | None) -> Tensor | None:
    return None if values is None else values[0, 0]


def _stack(values: list[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known)[None] if len(known) == len(values) else None


def _one_view(signals: dict[str, Signal], position: int) -> tuple[dict[str, Signal], int]:
    """One view (kept as a dimension of 1) in memory of its own, shared parts still shared; and its bytes."""
    copies: dict[int, Tensor] = {}

    def cut(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        if id(part) not in copies:
            copies[id(part)] = part[:, position : position + 1].clone()
        return copies[id(part)]

    view = {}
    for name, signal in signals.items():
        value = cut(signal.value)
        assert value is not None
        view[name] = Signal(value, cut(signal.weight), cut(signal.valid))
    return view, sum(part.nbytes for part in copies.values())


def _joined(parts: list[Tensor | None], dim: int, made: dict[tuple[int, ...], Tensor]) -> Tensor | None:
    """Concatenated, float16 as float32; None unless all are there. Shared parts are joined once."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    key = tuple(map(id, there))
    if key not in made:
        shape = list(there[0].shape)
        shape[dim] = sum(part.shape[dim] for part in there)
        kind = torch.float32 if there[0].dtype == torch.float16 else there[0].dtype
        made[key] = torch.cat(there, dim, out=torch.empty(shape, dtype=kind))
    return made[key]


def _concatenate(parts: list[dict[str, Signal]], dim: int) -> dict[str, Signal]:
    made: dict[tuple[int, ...], Tensor] = {}
    signals = {}
    for name in parts[0]:
        each = [part[name] for part in parts]
        value = _joined([signal.value for signal in each], dim, made)
        assert value is not None
        signals[name] = Signal(
            value,
            _joined([signal.weight for signal in each], dim, made),
            _joined([signal.valid for signal in each], dim, made),
        )
    return signals


def _join_scenes(scenes: list[Views]) -> Views:
    """Scenes of batch 1 as one batch; cameras only where every scene has them."""

    return Views(
        images=torch.cat([scene.images for scene in scenes]),
        intrinsics=_joined([scene.intrinsics for scene in scenes], 0, {}),
        cam2world=_joined([scene.cam2world for scene in scenes], 0, {}),
        names=[names for scene in scenes for names in scene.names or []],
        signals=_concatenate([scene.signals for scene in scenes], dim=0),
    )
