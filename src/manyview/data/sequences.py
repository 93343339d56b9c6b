"""Batches of image sequences: as many scenes of V views as fit a number of frames, V drawn anew for every batch.

MuM's sampler (Nordström et al., 2025, section 3.4 and appendix A). A batch is a pure function of (seed, index of the
forward pass): the same call gives the same bits. Decoded images stay in memory up to a bound.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from manyview.data.manifest import Manifest
from manyview.data.overlap import groups_of
from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.reading import ImageProblem, read_fitted
from manyview.types import Views

LOG = logging.getLogger(__name__)

AREA, ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)
"""Share of the image and width / height of a random crop: the released code's."""

ATTEMPTS = 20
"""Sequences that are tried for a scene before unreadable images end the run."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How sequences become batches."""

    size: tuple[int, int]
    """(H, W) of the images of a batch."""
    frames: int = 96
    """Most images of a batch (one scene may have more)."""
    views: tuple[int, int] = (2, 24)
    """Fewest and most views of a scene; every batch draws one number for all its scenes."""
    single: float = 0.1
    """Share of the batches that are single images: of data sets without sequences, where there are any."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn, in proportion; empty for all alike."""
    chunk: int | None = None
    """Frames of a sequence: longer scenes are cut in order. None: as each scan wrote, else whole scenes."""
    crop: Literal["random", "resize", "cover"] = "random"
    """A random part at a random aspect, frame by frame; the whole image squashed; or its centre, not squashed."""
    flip: bool = True
    """Mirror every second frame, frame by frame."""
    split: str | None = None
    """Only frames of this split."""


@dataclass(frozen=True)
class _Dataset:
    """One dataset's sequences, longest first."""

    name: str
    weight: float
    sequences: list[tuple[int, list[int]]]  # manifest, frames

    def long_enough(self, views: int) -> int:
        """How many of the sequences have at least `views` frames."""
        return bisect_left(self.sequences, 1 - views, key=lambda sequence: -len(sequence[1]))


class SequenceViews:
    """`views(index)` gives the batch of one forward pass: (B, V, 3, H, W) with B * V <= frames, and names."""

    def __init__(
        self,
        manifests: Sequence[Manifest | str | Path],
        sampling: Sampling,
        *,
        seed: int = 0,
        memory_mb: float = 2000,
        workers: int = 2,
    ) -> None:
        """Raises UserError for options that fit nothing. A corpus without sequences gives single images and says so."""
        _check(sampling)
        self.sampling, self.seed = sampling, seed
        self.unreadable: dict[str, str] = {}
        """Image -> why it could not be read; another frame of its scene took its place."""
        self._manifests = [m if isinstance(m, Manifest) else Manifest.load(m) for m in manifests]
        self._datasets = _datasets(self._manifests, sampling)
        self._alone = [d for d in self._datasets if not d.long_enough(2)] or self._datasets
        self.longest = max(len(d.sequences[0][1]) for d in self._datasets)
        self.views = (min(sampling.views[0], self.longest), min(sampling.views[1], self.longest))
        if self.longest < sampling.views[0]:
            LOG.warning("no scene has %d frames: training on single images", sampling.views[0])
            self.views = (1, 1)
        elif self.longest < sampling.views[1]:
            LOG.warning("the longest sequence has %d frames: 2 to %d views are drawn, not %d",
                        self.longest, self.longest, sampling.views[1])  # fmt: skip
        self._memory: dict[tuple[int, int], np.ndarray] = {}
        self._free = int(memory_mb * 1e6)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images") if workers > 1 else None

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        total = sum(d.weight for d in self._datasets)
        lengths = [len(frames) for d in self._datasets for _, frames in d.sequences]
        return {
            "manifests": [manifest.digest() for manifest in self._manifests],
            "datasets": {d.name: round(d.weight / total, 6) for d in self._datasets},
            "frames": sum(lengths),
            "sequences": len(lengths),
            "shorter_than_asked": sum(length < self.sampling.views[1] for length in lengths),
            "views": list(self.views),
            "seed": self.seed,
        }

    def __call__(self, index: int) -> Views:
        """The batch of forward pass `index` of the run, over all ranks."""
        rng = np.random.default_rng([self.seed, index])
        single = bool(rng.random() < self.sampling.single) or self.views[1] == 1
        views = 1 if single else int(rng.integers(self.views[0], self.views[1] + 1))
        draws = [(index, scene, views, single) for scene in range(max(1, self.sampling.frames // views))]
        scenes = list((self._pool.map if self._pool else map)(self._scene, draws))
        images = torch.from_numpy(np.stack([pixels for pixels, _ in scenes]))  # (B, V, H, W, 3) uint8
        return Views(images.permute(0, 1, 4, 2, 3).float() / 255, names=[names for _, names in scenes])

    def _scene(self, draw: tuple[int, int, int, bool]) -> tuple[np.ndarray, list[str]]:
        """(V, H, W, 3) uint8 and the images' names: frames of one sequence without replacement, unordered."""
        index, scene, views, single = draw
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, index, scene, attempt])
            which, frames = self._sequence(rng, views, single)
            pixels, names = [], []
            for frame in rng.permutation(frames):
                source = self._pixels(which, int(frame))
                if source is not None:
                    pixels.append(self._augment(source, rng))
                    names.append(self._manifests[which][int(frame)].image)
                if len(pixels) == views:
                    return np.stack(pixels), names
        raise UserError(
            f"{ATTEMPTS} sequences in a row had fewer than {views} readable images, the last ones: "
            f"{', '.join(list(self.unreadable)[-3:])}; look with manyview data check"
        )

    def _sequence(self, rng: np.random.Generator, views: int, single: bool) -> tuple[int, list[int]]:
        """A dataset by weight, then any of its sequences that are long enough."""
        pool = [d for d in (self._alone if single else self._datasets) if d.long_enough(views)]
        weights = np.array([d.weight for d in pool])
        dataset = pool[int(rng.choice(len(pool), p=weights / weights.sum()))]
        return dataset.sequences[int(rng.integers(dataset.long_enough(views)))]

    def _pixels(self, which: int, frame: int) -> np.ndarray | None:
        """A decoded image (h, w, 3) uint8, not larger than crops need it; None when it cannot be read."""
        key = (which, frame)
        if key in self._memory:
            return self._memory[key]
        manifest = self._manifests[which]
        name = manifest[frame].image
        if name in self.unreadable:
            return None
        try:
            pixels, _ = read_fitted(manifest.path(name), self._enough)
        except ImageProblem as problem:
            with self._lock:
                if name not in self.unreadable:  # another thread may have met it
                    self.unreadable[name] = problem.reason
                    LOG.warning("%s: %s; another frame of the scene takes its place (%d so far)",
                                name, problem.reason, len(self.unreadable))  # fmt: skip
            return None
        with self._lock:
            if pixels.nbytes <= self._free:  # throwing others out would gain nothing: draws are random
                self._memory[key] = pixels
                self._free -= pixels.nbytes
        return pixels

    def _enough(self, source: tuple[int, int]) -> Fit:
        """Shrink an image so far that the smallest crop still has the batch's resolution."""
        smallest = (AREA[0] * ASPECT[0]) ** 0.5 if self.sampling.crop == "random" else 0.5
        scale = min(1.0, max(self.sampling.size) / smallest / min(source))
        size = (max(1, round(source[0] * scale)), max(1, round(source[1] * scale)))
        return Fit(source, size, scale, (0.0, 0.0))

    def _augment(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crop and mirror one frame: (H, W, 3) uint8."""
        sampling = self.sampling
        box = crop_box(pixels.shape[:2], sampling.size, sampling.crop, rng)
        size = (sampling.size[1], sampling.size[0])
        resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box))
        return resized[:, ::-1] if sampling.flip and rng.random() < 0.5 else resized


def crop_box(
    source: tuple[int, ...], size: tuple[int, int], crop: str, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of an (H, W) image that becomes `size`."""
    height, width = source[:2]
    if crop == "resize":
        return 0.0, 0.0, float(width), float(height)
    if crop == "random":
        for _ in range(10):
            area = height * width * rng.uniform(*AREA)
            aspect = np.exp(rng.uniform(*np.log(ASPECT)))
            w, h = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return float(left), float(top), float(left + w), float(top + h)
    scale = min(width / size[1], height / size[0])
    whole, high = size[1] * scale, size[0] * scale
    return (width - whole) / 2, (height - high) / 2, (width + whole) / 2, (height + high) / 2


def _check(sampling: Sampling) -> None:
    fewest, most = sampling.views
    if not 1 <= fewest <= most:
        raise UserError(f"{fewest} to {most} views: give at least 1, and no fewer at most than at least")
    if sampling.frames < 1 or min(sampling.size) < 1:
        raise UserError(f"batches of {sampling.frames} images of {sampling.size}: both must be positive")
    if not 0 <= sampling.single <= 1:
        raise UserError(f"single is {sampling.single}; it is a share of the batches, from 0 to 1")


def _datasets(manifests: Sequence[Manifest], sampling: Sampling) -> list[_Dataset]:
    """Every dataset with a weight, its sequences longest first. Raises UserError when none is left."""
    found: dict[str, list[tuple[int, list[int]]]] = {}
    for which, manifest in enumerate(manifests):
        for frames in groups_of(manifest, chunk=sampling.chunk):
            kept = [i for i in frames if sampling.split in (None, manifest[i].split)]
            if kept:
                found.setdefault(manifest[kept[0]].dataset, []).append((which, kept))
    unweighted = [name for name in found if sampling.weights and name not in sampling.weights]
    if unweighted:
        raise UserError(f"dataset {unweighted[0]!r} has no weight, {', '.join(sampling.weights)} have; give it one "
                        "(0 leaves it out) or leave the weights away")  # fmt: skip
    datasets = [
        _Dataset(name, sampling.weights.get(name, 1.0), sorted(items, key=lambda item: -len(item[1])))
        for name, items in sorted(found.items())
    ]
    datasets = [d for d in datasets if d.weight > 0]
    if not datasets:
        raise UserError(
            "no frame is left to train on: give a manifest with frames (of the split, with a weight)"
        )
    return datasets
