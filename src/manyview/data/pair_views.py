"""Batches of posed pairs with depth: frames that overlap, at one of several sizes, a pure function of the step.

What pair reconstructors learn from (DUSt3R, MASt3R, SAB3R). How much the frames of a scene share is measured when the
scene is first drawn, on some of its pairs; decoded frames stay in memory up to a bound.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyview.data.augment import Augmentation, recolour
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.overlap import groups_of
from manyview.data.pairs import Choice, DepthReader, Pair, is_measured, measured_pairs
from manyview.errors import UserError
from manyview.images.reading import ImageProblem
from manyview.progress import track
from manyview.types import Signal, Views

LOG = logging.getLogger(__name__)

METRIC = "metric"
"""The signal (B,) bool that says whose lengths are metres."""
MEASURED_SIDE = 96
"""Longer side in pixels at which overlap is measured."""
ATTEMPTS = 200
"""Draws for one place of a batch before a run without pairs ends."""
NEEDED = ("depth", "pose (cam2world)", "intrinsics")


@dataclass(frozen=True, kw_only=True)
class PairSampling:
    """How frames become batches of pairs."""

    sizes: tuple[tuple[int, int], ...]
    """(H, W) of the images, height at most width; every batch has one of them, turned for portrait frames."""
    pairs: int
    """Pairs of a batch."""
    choice: Choice
    """Which pairs count: overlap and motion."""
    candidates: int = 64
    """Pairs of a scene that are measured, in search of those that count."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn, in proportion; empty for all alike."""
    metric: tuple[str, ...] = ()
    """Datasets whose lengths are metres."""
    jitter: float = 0.0
    """Strength of the colour jitter, picture by picture; 0.5 in DUSt3R."""
    chunk: int | None = None
    """Pairs come from runs of so many frames; none: as each scan wrote, else whole scenes."""
    split: str | None = None
    """Only frames of this split."""


@dataclass(frozen=True)
class _Group:
    """Frames of one manifest that are paired with each other."""

    number: int
    dataset: str
    which: int
    rows: list[int]
    portrait: bool


class PairViews:
    """`pairs(index)` gives the Views of one forward pass, (B, 2, 3, H, W) with depth and cameras."""

    def __init__(
        self,
        manifests: Sequence[Manifest | str | Path],
        sampling: PairSampling,
        *,
        seed: int = 0,
        memory_mb: float = 2000,
    ) -> None:
        """Raises UserError for a manifest without posed depth, and when no two frames are a pair that counts."""
        self.sampling, self.seed = sampling, seed
        self.unreadable: dict[str, str] = {}
        """File -> why it could not be read; another pair took its place."""
        self._manifests = [m if isinstance(m, Manifest) else Manifest.load(m) for m in manifests]
        names = [f"{m.root}" if isinstance(m, Manifest) else f"{m}" for m in manifests]
        for manifest, name in zip(self._manifests, names, strict=True):
            _check_measured(manifest, name)
        self._groups = _by_dataset(list(self._find_groups()), sampling.weights)
        height, width = max(sampling.sizes)
        shrink = min(1.0, MEASURED_SIDE / max(height, width))
        self._measured_at = (max(2, round(height * shrink)), max(2, round(width * shrink)))
        self._pairs: dict[int, list[Pair]] = {}
        self._memory: dict[tuple[int, int, tuple[int, int]], Views] = {}
        self._free = int(memory_mb * 1e6)
        self._check_pairs()

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "manifests": [manifest.digest() for manifest in self._manifests],
            "datasets": {
                name: sum(len(g.rows) for g in groups) for name, (_, groups) in self._groups.items()
            },
            "sizes": [list(size) for size in self.sampling.sizes],
            "overlap": list(self.sampling.choice.overlap),
            "motion": self.sampling.choice.motion,
            "seed": self.seed,
        }

    def __call__(self, index: int) -> Views:
        """The batch of forward pass `index` of the run, over all ranks."""
        rng = np.random.default_rng([self.seed, 6, index])
        size = self.sampling.sizes[int(rng.integers(len(self.sampling.sizes)))]
        first, pair = self._draw(rng, None)
        size = size[::-1] if first.portrait else size
        drawn = [self._row(index, 0, first, pair, size)]
        drawn += [self._row(index, row, *self._draw(rng, first.portrait), size)
                  for row in range(1, self.sampling.pairs)]  # fmt: skip
        metric = torch.tensor([group.dataset in self.sampling.metric for group, _ in drawn])
        names = [name for _, views in drawn for name in views.names or []]
        batch = _joined([views for _, views in drawn], 0, names)
        batch.signals[METRIC] = Signal(metric)
        return batch

    def _row(
        self, index: int, row: int, group: _Group, pair: Pair, size: tuple[int, int]
    ) -> tuple[_Group, Views]:
        """One pair's Views; one that cannot be read makes way for another draw."""
        rng = np.random.default_rng([self.seed, 7, index, row])
        for _ in range(ATTEMPTS):
            try:
                frames = [self._frame(group.which, i, size) for i in (pair.a, pair.b)]
                manifest = self._manifests[group.which]
                names = [[manifest[i].image for i in (pair.a, pair.b)]]
                return group, self._coloured(_joined(frames, 1, names), rng)
            except ImageProblem as problem:
                self._tell(problem)
            group, pair = self._draw(rng, group.portrait)
        raise UserError(
            f"{ATTEMPTS} pairs in a row could not be read, the last one for {list(self.unreadable)[-1]}; "
            "look with manyview data check"
        )

    def _draw(self, rng: np.random.Generator, portrait: bool | None) -> tuple[_Group, Pair]:
        """A dataset by weight, any of its scenes, any of the scene's pairs; of one orientation unless None."""
        left = {
            name: [group for group in groups if portrait in (None, group.portrait)]
            for name, (_, groups) in self._groups.items()
        }
        while names := [name for name, groups in left.items() if groups]:
            weights = np.array([self._groups[name][0] for name in names])
            groups = left[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
            group = groups.pop(int(rng.integers(len(groups))))
            if pairs := self._pairs_of(group):
                return group, pairs[int(rng.integers(len(pairs)))]
        raise RuntimeError(
            "no group has a pair"
        )  # _check_pairs has seen one, and rows follow the first one's turn

    def _pairs_of(self, group: _Group) -> list[Pair]:
        """The pairs of a group that count, among those that are measured."""
        if group.number not in self._pairs:
            manifest = self._manifests[group.which]
            reader = DepthReader(manifest, self._measured_at, most=1e8)
            rng = np.random.default_rng([self.seed, 5, group.number])
            scene = manifest[group.rows[0]].scene
            measured = measured_pairs(reader, scene, group.rows, self.sampling.candidates, rng)
            self._pairs[group.number] = [pair for pair in measured if self.sampling.choice.accepts(pair)]
            for problem in reader.unreadable.values():
                self._tell(problem)
        return self._pairs[group.number]

    def _frame(self, which: int, row: int, size: tuple[int, int]) -> Views:
        """One frame as Views (1, 1, ...)."""
        key = (which, row, size)
        if key in self._memory:
            return self._memory[key]
        views = load_views(self._manifests[which], [row], size)
        volume = 16 * size[0] * size[1]  # three colours and depth, float32
        if volume <= self._free:  # throwing others out would gain nothing: draws are random
            self._memory[key] = views
            self._free -= volume
        return views

    def _coloured(self, views: Views, rng: np.random.Generator) -> Views:
        strength = self.sampling.jitter
        if strength == 0:
            return views
        colours = Augmentation(
            jitter=1.0, strength=(strength, strength, strength, strength / 5), grey=0, blur=0, solarise=0
        )
        views.images = torch.stack([_recoloured(image, colours, rng) for image in views.images[0]])[None]
        return views

    def _find_groups(self) -> Iterator[_Group]:
        number = 0
        for which, manifest in enumerate(self._manifests):
            for rows in groups_of(manifest, chunk=self.sampling.chunk):
                kept = [
                    i
                    for i in rows
                    if is_measured(manifest[i]) and self.sampling.split in (None, manifest[i].split)
                ]
                if len(kept) > 1:
                    frame = manifest[kept[0]]
                    yield _Group(number, frame.dataset, which, kept, frame.height > frame.width)
                    number += 1

    def _check_pairs(self) -> None:
        groups = [group for _, groups in self._groups.values() for group in groups]
        for group in track(groups, label="pairs", unit="scene"):
            if self._pairs_of(group):
                return
        raise UserError(
            f"none of {len(groups)} scenes with two frames of posed depth or more has a pair with {self._wish}; widen "
            "method.overlap or lower method.motion"
        )

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets that pairs are drawn from."""
        return list(self._groups)

    @property
    def _wish(self) -> str:
        (least, most), motion = self.sampling.choice.overlap, self.sampling.choice.motion
        return f"an overlap of {least:g} to {most:g} and a motion of at least {motion:g}"

    def _tell(self, problem: ImageProblem) -> None:
        name = str(problem.path)
        if name not in self.unreadable:
            self.unreadable[name] = problem.reason
            LOG.warning("%s; another pair takes its place (%d so far)", problem, len(self.unreadable))


def _check_measured(manifest: Manifest, name: str) -> None:
    """Refuse a manifest in which no two frames of a scene have depth, pose and intrinsics."""
    if any(sum(is_measured(manifest[i]) for i in rows) > 1 for rows in manifest.scenes().values()):
        return
    has = [
        sum(value is not None for value in values)
        for values in zip(*((f.depth, f.cam2world, f.fx) for f in manifest.frames), strict=True)
    ] or [0, 0, 0]
    absent = [what for what, count in zip(NEEDED, has, strict=True) if count == 0]
    why = f"no frame has {' or '.join(absent)}" if absent else "no scene has two frames with all three"
    raise UserError(
        f"{name}: pairs need {', '.join(NEEDED)} of two frames of a scene, and {why} ({len(manifest)} frames); scan "
        "data of a format that has them, or make some with manyview data synth"
    )


def _by_dataset(groups: Sequence[_Group], weights: dict[str, float]) -> dict[str, tuple[float, list[_Group]]]:
    """Dataset -> (weight, groups), those with a weight. Raises UserError when none is left or one has no weight."""
    found: dict[str, tuple[float, list[_Group]]] = {}
    for group in groups:
        if weights and group.dataset not in weights:
            raise UserError(
                f"dataset {group.dataset!r} has no weight, {', '.join(weights)} have; give it one (0 leaves it out) or "
                "leave method.weights away"
            )
        weight = weights.get(group.dataset, 1.0)
        if weight > 0:
            found.setdefault(group.dataset, (weight, []))[1].append(group)
    if not found:
        raise UserError("no two frames are left to pair: give data with them (of the split, with a weight)")
    return found


def _joined(parts: Sequence[Views], axis: int, names: list[list[str]]) -> Views:
    """Frames as the views of one scene (axis 1), or scenes as one batch (axis 0)."""
    return Views(
        images=torch.cat([part.images for part in parts], axis),
        intrinsics=_cat([part.intrinsics for part in parts], axis),
        cam2world=_cat([part.cam2world for part in parts], axis),
        depth=_cat([part.depth for part in parts], axis),
        names=names,
    )


def _cat(parts: Sequence[Tensor | None], axis: int) -> Tensor:
    return torch.cat([part for part in parts if part is not None], axis)


def _recoloured(image: Tensor, colours: Augmentation, rng: np.random.Generator) -> Tensor:
    """(3, H, W) in [0, 1] with other colours."""
    picture = Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().numpy())
    return torch.from_numpy(recolour(picture, colours, rng).copy()).permute(2, 0, 1).float() / 255
