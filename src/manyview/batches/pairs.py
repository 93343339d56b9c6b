"""Batches of posed pairs with depth: frames that overlap, at one of several sizes.

What pair reconstructors learn from (DUSt3R, MASt3R, SAB3R). How much the frames of a scene share is measured when the
scene is first drawn, on some of its pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.batches.augment import Change, draw_change, only_colours
from manyview.batches.road import Loaded, Road, Shares, Source, open_sources, stack_pixels
from manyview.batches.sequences import split_mask
from manyview.batches.shuffle import Shuffled
from manyview.data.loading import FittedFrame, read_frame
from manyview.data.manifest import Manifest
from manyview.data.overlap import groups_of
from manyview.data.pairs import Choice, DepthReader, measured_pairs
from manyview.errors import UserError
from manyview.progress import track
from manyview.types import Signal

METRIC = "metric"
"""The signal (B,) bool that says whose lengths are metres."""
SOURCE = "source"
"""The signal (B,) of numbers that says which manifest a pair is of: names of frames are unique in one only."""
MEASURED_SIDE = 96
"""Longer side in pixels at which overlap is measured."""
ATTEMPTS = 200
"""Draws for one place of a batch before a run without pairs ends."""
NEEDED = {"depth": "depth", "cam2world": "pose (cam2world)", "fx": "intrinsics"}
"""Columns that pairs need, in words."""


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What a user may say of how frames become batches of pairs."""

    candidates: int = 64
    """Pairs of a scene that are measured, in search of those that count."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn, in proportion; empty for all alike."""
    metric: tuple[str, ...] = ()
    """Datasets in metres, on which sizes are learned too (MASt3R); `in_metres` of manyview.recipes.pairs names them."""
    jitter: float = 0.0
    """Strength of the colour jitter, picture by picture; 0.5 in DUSt3R."""
    chunk: int | None = None
    """Pairs come from runs of so many frames of a scene; none: as each scan wrote, else whole scenes."""
    split: str | None = None
    """Only frames of this split of the manifests."""
    memory_mb: float = 2000.0
    """Decoded frames that are kept in memory, in megabytes."""


@dataclass(frozen=True, kw_only=True)
class PairWish(PairOptions):
    """How frames become batches of pairs."""

    sizes: tuple[tuple[int, int], ...]
    """(H, W) of the images, height at most width; every batch has one of them, turned for portrait frames."""
    pairs: int
    """Pairs of a batch."""
    choice: Choice
    """Which pairs count: overlap and motion."""
    seed: int = 0


@dataclass(frozen=True)
class _Scene:
    """Frames of one manifest that are paired with each other."""

    number: int
    source: int
    dataset: str
    portrait: bool
    rows: Callable[[], list[int]]


_Pool = tuple[float, dict[bool | None, list[_Scene]]]
"""A weight, and the scenes that are drawn with it: all, and those of each orientation (whether portrait)."""


class PairBatches(Road):
    """`batches(index)` gives the Views of one forward pass, (B, 2, 3, H, W) with depth and cameras."""

    replacement = "another pair"
    names: tuple[str, ...] | None = None
    """Classes, by whose places in here the views hold labels; None: they hold none."""

    def __init__(self, data: Sequence[Manifest | str | Path], wish: PairWish) -> None:
        """Raises UserError for a manifest without posed depth, and when no two frames are a pair that counts."""
        super().__init__(open_sources(data), seed=wish.seed, memory_mb=wish.memory_mb)
        self.wish = wish
        self._pools = self._find_pools()
        self._pairs: dict[int, np.ndarray] = {}  # of a scene: (n, 2) rows
        self._colours = only_colours(wish.jitter, hue=wish.jitter / 5)
        height, width = max(wish.sizes)
        shrink = min(1.0, MEASURED_SIDE / max(height, width))
        self._measured_at = (max(2, round(height * shrink)), max(2, round(width * shrink)))
        self._check_pairs()

    def describe(self) -> dict[str, Any]:
        frames: dict[str, int] = {}
        for scene in self._every():
            frames[scene.dataset] = frames.get(scene.dataset, 0) + len(scene.rows())
        return {
            **super().describe(),
            "datasets": frames,
            "weights": {name: weight for name, (weight, _) in self._pools.items()},
            "sizes": [list(size) for size in self.wish.sizes],
            "overlap": list(self.wish.choice.overlap),
            "motion": self.wish.choice.motion,
        }

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets that pairs are drawn from."""
        return list(dict.fromkeys(scene.dataset for scene in self._every()))

    def make(self, index: int) -> Loaded:
        rng = np.random.default_rng([self.seed, 6, index])
        size = self.wish.sizes[int(rng.integers(len(self.wish.sizes)))]
        first, pair = self._draw(rng, None)
        size = size[::-1] if first.portrait else size
        rows = [self._row(index, 0, first, pair, size)]
        for row in range(1, self.wish.pairs):
            rows.append(self._row(index, row, *self._draw(rng, first.portrait), size))
        frames = [frame for _, both, _, _ in rows for frame in both]
        loaded = Loaded([names for *_, names in rows], size)
        loaded.pixels = stack_pixels([frame.pixels for frame in frames], (len(rows), 2))
        loaded.changes = [change for _, _, changes, _ in rows for change in changes]
        for name in ("intrinsics", "cam2world", "depth"):
            values = torch.stack([getattr(frame, name) for frame in frames])
            loaded.cameras[name] = values.unflatten(0, (len(rows), 2))
        if self.names is not None:
            labels = torch.stack([frame.labels for frame in frames if frame.labels is not None])
            loaded.cameras["labels"] = labels.unflatten(0, (len(rows), 2))
        loaded.signals[METRIC] = Signal(torch.tensor([scene.dataset in self.wish.metric for scene, *_ in rows]))
        loaded.signals[SOURCE] = Signal(torch.tensor([scene.source for scene, *_ in rows]))
        return loaded

    def _row(
        self, index: int, row: int, scene: _Scene, pair: np.ndarray, size: tuple[int, int]
    ) -> tuple[_Scene, list[FittedFrame], list[Change], list[str]]:
        """One pair's frames, changes and names; one that cannot be read makes way for another draw."""
        rng = np.random.default_rng([self.seed, 7, index, row])
        for _ in range(ATTEMPTS):
            frames = [self._frame(scene.source, int(place), size) for place in pair]
            both = [frame for frame in frames if frame is not None]
            if len(both) == 2:
                changes = [draw_change(self._colours, size, size, rng) if self.wish.jitter else Change() for _ in both]
                manifest = self.sources[scene.source].manifest
                return scene, both, changes, [manifest[int(place)].image for place in pair]
            scene, pair = self._draw(rng, scene.portrait)
        raise UserError(
            f"{ATTEMPTS} pairs in a row could not be read, the last one for {self.unread(1)}; "
            "look with manyview data check"
        )

    def _frame(self, source: int, row: int, size: tuple[int, int]) -> FittedFrame | None:
        manifest = self.sources[source].manifest
        return self.read((source, row, size), lambda: read_frame(manifest, row, size, depth=True, names=self.names))

    def _draw(self, rng: np.random.Generator, portrait: bool | None) -> tuple[_Scene, np.ndarray]:
        """A dataset by weight, any of its scenes with pairs, any of its pairs (2,); of one orientation unless None."""
        left = {name: pool for name, pool in self._pools.items() if pool[1][portrait]}
        while left:
            weights = np.array([weight for weight, _ in left.values()])
            name = list(left)[int(rng.choice(len(left), p=weights / weights.sum()))]
            scenes = left.pop(name)[1][portrait]
            order = Shuffled(len(scenes), int(rng.integers(2**62)))
            for place in range(len(scenes)):
                pairs = self._pairs_of(scenes[order[place]])
                if len(pairs):
                    return scenes[order[place]], pairs[int(rng.integers(len(pairs)))]
        raise RuntimeError("no scene has a pair")  # _check_pairs has seen one, and rows follow the first one's turn

    def _pairs_of(self, scene: _Scene) -> np.ndarray:
        """(n, 2): the pairs of a scene that count, among those that are measured."""
        if scene.number not in self._pairs:
            reader = DepthReader(self.sources[scene.source].manifest, self._measured_at, most=1e8)
            rng = np.random.default_rng([self.seed, 5, scene.number])
            measured = measured_pairs(reader, "", scene.rows(), self.wish.candidates, rng)
            kept = [(pair.a, pair.b) for pair in measured if self.wish.choice.accepts(pair)]
            self._pairs[scene.number] = np.array(kept, np.int64).reshape(-1, 2)
            for problem in reader.unreadable.values():
                self._fresh[str(problem.path)] = problem.reason
        return self._pairs[scene.number]

    def _every(self) -> list[_Scene]:
        return [scene for _, scenes in self._pools.values() for scene in scenes[None]]

    def _find_pools(self) -> dict[str, _Pool]:
        """Name -> scenes, those with a weight. Raises UserError when none is left or one has no weight."""

        def scenes() -> Iterator[tuple[Source, str, _Scene]]:
            number = 0
            for which, source in enumerate(self.sources):
                frames = source.manifest.frames
                groups = groups_of(source.manifest, chunk=self.wish.chunk)
                groups = groups.only(measured_mask(source) & split_mask(source, self.wish.split), least=2)
                heads = groups.order[groups.starts[:-1]]
                codes, names = frames.codes("dataset")
                portrait = (frames.numbers("height") > frames.numbers("width"))[heads].tolist()
                for place, (code, tall) in enumerate(zip(codes[heads].tolist(), portrait, strict=True)):
                    rows = partial(groups.__getitem__, place)
                    yield source, names[code], _Scene(number, which, names[code], tall, rows)
                    number += 1

        units = Shares(self.sources, self.wish.weights).units(scenes(), apart=True)
        if not units:
            raise UserError("no two frames are left to pair: give data with them (of the split, with a weight)")
        pools: dict[str, _Pool] = {}
        for name, (weight, of) in units.items():
            wide, tall = ([scene for scene in of if scene.portrait == portrait] for portrait in (False, True))
            pools[name] = weight, {None: [*wide, *tall], False: wide, True: tall}
        return pools

    def _check_pairs(self) -> None:
        scenes = sorted(self._every(), key=lambda scene: scene.number)
        for scene in track(scenes, label="pairs", unit="scene"):
            if len(self._pairs_of(scene)):
                return
        (least, most), motion = self.wish.choice.overlap, self.wish.choice.motion
        raise UserError(
            f"none of {len(scenes)} scenes with two frames of posed depth or more has a pair with an overlap of "
            f"{least:g} to {most:g} and a motion of at least {motion:g}; widen method.overlap or lower method.motion"
        )


def measured_mask(source: Source) -> np.ndarray:
    """(N,) bool: the rows with depth, pose and intrinsics. Raises UserError when no two frames of a scene have them."""
    manifest = source.manifest
    known = {words: manifest.frames.known(column) for column, words in NEEDED.items()}
    measured = np.logical_and.reduce(list(known.values()))
    if len(manifest) and len(groups_of(manifest).only(measured, least=2)):
        return measured
    absent = [words for words, rows in known.items() if not rows.any()]
    why = f"no frame has {' or '.join(absent)}" if absent else "no scene has two frames with all three"
    raise UserError(
        f"{source.name}: pairs need {', '.join(NEEDED.values())} of two frames of a scene, and {why} "
        f"({len(manifest)} frames); scan data of a format that has them, or make some with manyview data synth"
    )
