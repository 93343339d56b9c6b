"""Batches of image sequences: as many scenes of V views as fit a number of frames, V drawn anew for every batch.

MuM's sampler (Nordström et al., 2025, section 3.4 and appendix A).
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from manyview.batches.augment import Augmentation, Change, draw_change
from manyview.batches.road import Loaded, Road, Shares, Source, enough_for, open_sources, stack_pictures, stack_pixels
from manyview.batches.shuffle import Shuffled
from manyview.data.manifest import Manifest
from manyview.data.overlap import groups_of
from manyview.errors import UserError
from manyview.images.exposure import Exposures
from manyview.images.fit import cover
from manyview.images.reading import read_fitted

LOG = logging.getLogger(__name__)

AREA = (0.2, 1.0)
"""Share of the image that a random crop keeps: the released code's."""
ATTEMPTS = 20
"""Sequences that are tried for a scene before unreadable images end the run."""


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """What a user may say of how sequences become batches."""

    frames: int = 96
    """Most images of a batch (one scene may have more); as many scenes as fit are drawn."""
    single: float = 0.1
    """Share of the batches that are single images: of data sets without sequences, where there are any."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn, in proportion; empty for all alike."""
    chunk: int | None = None
    """Frames of a sequence: longer scenes are cut in order. None: as each data set's scan wrote, else whole scenes."""
    crop: Literal["random", "resize", "cover"] = "random"
    """A random part at a random aspect, frame by frame; the whole image squashed; or its centre, not squashed."""
    flip: bool = True
    """Mirror every second frame, frame by frame."""
    gain: float = 0.0
    """Exposure and white balance change from frame to frame: every channel by up to this share; 0.35: ±35 %."""
    gamma: float = 0.0
    """So does the exponent of the values: exp(-gamma) to exp(gamma)."""
    split: str | None = None
    """Only frames of this split of the manifests; none for all."""
    memory_mb: float = 2000.0
    """Decoded images that are kept in memory, in megabytes."""


@dataclass(frozen=True, kw_only=True)
class SequenceWish(SequenceOptions):
    """How sequences become batches."""

    size: tuple[int, int]
    """(H, W) of the images of a batch."""
    views: tuple[int, int] = (2, 24)
    """Fewest and most views of a scene; every batch draws one number for all its scenes."""
    seed: int = 0


@dataclass(frozen=True)
class _Pool:
    """The sequences that are drawn with one weight, longest first; of each where its rows begin and how many."""

    name: str
    weight: float
    sources: np.ndarray  # (n,)
    starts: np.ndarray  # (n,) in the source's order of rows
    lengths: np.ndarray  # (n,) falling

    def long_enough(self, views: int) -> int:
        """How many of the sequences have at least `views` frames."""
        return bisect_left(self.lengths, 1 - views, key=lambda length: -length)


class Sequences(Road):
    """`batches(index)` gives the batch of one forward pass: (B, V, 3, H, W) with B * V <= frames, and names."""

    replacement = "another frame of the scene"

    def __init__(self, data: Sequence[Manifest | str | Path], wish: SequenceWish) -> None:
        """Raises UserError for options that fit nothing. A corpus without sequences gives single images and says so."""
        fewest, most = wish.views
        if not 1 <= fewest <= most:
            raise UserError(f"{fewest} to {most} views: give at least 1, and no fewer at most than at least")
        if wish.frames < 1 or min(wish.size) < 1:
            raise UserError(f"batches of {wish.frames} images of {wish.size}: both must be positive")
        if not 0 <= wish.single <= 1:
            raise UserError(f"single is {wish.single}; it is a share of the batches, from 0 to 1")
        super().__init__(open_sources(data), seed=wish.seed, memory_mb=wish.memory_mb)
        self.wish = wish
        self._orders: list[np.ndarray] = []  # of each source: rows, sequence after sequence
        self._pools = self._find_pools()
        self._alone = [pool for pool in self._pools if not pool.long_enough(2)] or self._pools
        longest = max(int(pool.lengths[0]) for pool in self._pools)
        self.views = (min(fewest, longest), min(most, longest))
        if longest < fewest:
            LOG.warning("no scene has %d frames: training on single images", fewest)
            self.views = (1, 1)
        elif longest < most:
            LOG.warning("the longest sequence has %d frames: 2 to %d views are drawn, not %d", longest, longest, most)
        flip = 0.5 if wish.flip else 0.0
        self._exposures = Exposures(wish.gain, wish.gamma)
        self._crops = Augmentation(scale=AREA, flip=flip, jitter=0, grey=0, blur=0, solarise=0)

    def describe(self) -> dict[str, Any]:
        lengths = np.concatenate([pool.lengths for pool in self._pools])
        total = sum(pool.weight for pool in self._pools)
        return {
            **super().describe(),
            "datasets": {pool.name: round(pool.weight / total, 6) for pool in self._pools},
            "frames": int(lengths.sum()),
            "sequences": len(lengths),
            "shorter_than_asked": int((lengths < self.wish.views[1]).sum()),
            "views": list(self.views),
        }

    def make(self, index: int) -> Loaded:
        rng = np.random.default_rng([self.seed, index])
        single = bool(rng.random() < self.wish.single) or self.views[1] == 1
        views = 1 if single else int(rng.integers(self.views[0], self.views[1] + 1))
        scenes = [self._scene(index, s, views, single) for s in range(max(1, self.wish.frames // views))]
        pixels, changes, _ = zip(*(shot for scene in scenes for shot in scene), strict=True)
        loaded = Loaded([[name for *_, name in scene] for scene in scenes], self.wish.size, changes=list(changes))
        if self.wish.crop == "random":
            loaded.pictures = stack_pictures(pixels)
        else:
            loaded.pixels = stack_pixels(pixels, (len(scenes), views))
        return loaded

    def _scene(self, index: int, scene: int, views: int, single: bool) -> list[tuple[np.ndarray, Change, str]]:
        """Pixels, change and name of frames of one sequence, without replacement, in random order."""
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, index, scene, attempt])
            source, rows = self._sequence(rng, views, single)
            order = Shuffled(len(rows), self.seed, index, scene, attempt)
            shots: list[tuple[np.ndarray, Change, str]] = []
            for place in range(len(rows)):
                shot = self._shot(source, int(rows[order[place]]), rng)
                shots += [] if shot is None else [shot]
                if len(shots) == views:
                    return shots
        raise UserError(
            f"{ATTEMPTS} sequences in a row had fewer than {views} readable images, the last ones: {self.unread()}; "
            "look with manyview data check"
        )

    def _sequence(self, rng: np.random.Generator, views: int, single: bool) -> tuple[int, np.ndarray]:
        """A data set by weight, then any of its sequences that are long enough: source and rows."""
        pools = [pool for pool in (self._alone if single else self._pools) if pool.long_enough(views)]
        weights = np.array([pool.weight for pool in pools])
        pool = pools[int(rng.choice(len(pools), p=weights / weights.sum()))]
        number = int(rng.integers(pool.long_enough(views)))
        source, start = int(pool.sources[number]), int(pool.starts[number])
        return source, self._orders[source][start : start + int(pool.lengths[number])]

    def _shot(self, source: int, row: int, rng: np.random.Generator) -> tuple[np.ndarray, Change, str] | None:
        """A frame as it is kept, what becomes of it, and its name; None when it cannot be read."""
        manifest = self.sources[source].manifest
        frame = manifest[row]
        pixels = self.read((source, row), lambda: self._pixels(manifest.path(frame.image)))
        if self.wish.crop == "random":
            change = draw_change(self._crops, (frame.height, frame.width), self.wish.size, rng)
        else:
            change = Change(mirrored=self.wish.flip and bool(rng.random() < 0.5))
        if self._exposures:
            change = replace(change, **vars(self._exposures.draw(rng)))
        return None if pixels is None else (pixels, change, frame.image)

    def _pixels(self, path: Path) -> np.ndarray:
        """A decoded image (h, w, 3) uint8: at the batch's size, or not larger than its crops need it."""
        size = self.wish.size
        if self.wish.crop == "cover":
            return read_fitted(path, lambda source: cover(source, size))[0]
        if self.wish.crop == "random":
            return read_fitted(path, enough_for(size, self._crops.smallest))[0]
        whole, _ = read_fitted(path, enough_for(size, 0.5))
        return np.array(Image.fromarray(whole).resize(size[::-1], Image.Resampling.BICUBIC))

    def _find_pools(self) -> list[_Pool]:
        """Every pool with a weight. Raises UserError when none is left."""

        def parts() -> Iterator[tuple[Source, str, tuple[np.ndarray, ...]]]:
            for number, source in enumerate(self.sources):
                groups = groups_of(source.manifest, chunk=self.wish.chunk).only(split_mask(source, self.wish.split))
                self._orders.append(groups.order.astype(np.int32))
                codes, names = source.manifest.frames.codes("dataset")
                datasets = codes[groups.order[groups.starts[:-1]]]
                for code in np.unique(datasets).tolist():
                    own = datasets == code
                    yield (
                        source,
                        names[code],
                        (np.full(own.sum(), number), groups.starts[:-1][own], groups.lengths[own]),
                    )

        pools = []
        units = Shares(self.sources, self.wish.weights).units(parts(), apart=True)
        for name, (weight, of) in sorted(units.items()):
            sources, starts, lengths = (np.concatenate(arrays) for arrays in zip(*of, strict=True))
            longest = np.argsort(-lengths, kind="stable")
            pools.append(_Pool(name, weight, sources[longest], starts[longest], lengths[longest]))
        if not pools:
            raise UserError("no frame is left to train on: give a manifest with frames (of the split, with a weight)")
        return pools


def split_mask(source: Source, split: str | None) -> np.ndarray:
    """(N,) bool: the rows of a split; all for None."""
    frames = source.manifest.frames
    if split is None:
        return np.ones(len(frames), bool)
    codes, names = frames.codes("split")
    return codes == (names.index(split) if split in names else -1)
