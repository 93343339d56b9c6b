"""Batches of single pictures, balanced over domains of any number and size, maybe with a map of labels or depth."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from manyview.batches.augment import Augmentation, cropped_map, draw_change
from manyview.batches.road import Loaded, Road, Shares, Source, enough_for, open_sources, stack_pictures
from manyview.batches.shuffle import Draws
from manyview.data.depths import read_depth
from manyview.data.loading import read_classes
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.images.reading import read_fitted
from manyview.types import Signal, Views

DOMAIN = "domain"
"""The signal (N,) that says whose domain each picture came from."""
ATTEMPTS = 1000
"""Pictures that are tried for a place of a batch before unreadable ones end the run."""
Target = Literal["labels", "depth"]


@dataclass(frozen=True, kw_only=True)
class PictureWish:
    """How pictures become batches."""

    size: tuple[int, int]
    """(H, W) of the crops."""
    batch: int
    """Pictures of a batch."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Crops and colours."""
    crops: int = 0
    """Fixed crops of a picture, one per pass, which its name tells; 0 draws new ones for ever."""
    target: Target | None = None
    """The map that comes with every picture, cropped like it; pictures without one are left out."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn within its domain; empty: every picture as often."""
    seed: int = 0
    memory_mb: float = 2000.0
    """Decoded pictures that are kept in memory, in megabytes."""


class _Rows(Sequence[tuple[int, int]]):
    """Manifest and row of every picture, where `parts` are numbers of manifests and rows of theirs."""

    def __init__(self, parts: Sequence[tuple[int, Sequence[int]]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(rows) for _, rows in parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: Any) -> Any:
        part = bisect_right(self._ends, place)
        number, rows = self._parts[part]
        return number, int(rows[place - self._ends[part]])  # counted from the part's end


class PictureBatches(Road):
    """`batches(index)` gives (N, 1, 3, H, W) views; every domain gives as many, the first ones one more if need be.

    A domain's pictures come in shuffled passes over all of them. The signal `domain` says whose each is; with a
    target a signal of its name holds the maps: labels (N, 1, H, W) int64, or depth in metres, not valid where it is 0.
    """

    def __init__(
        self, data: Sequence[Manifest | str | Path], wish: PictureWish, *, domains: Sequence[int] | None = None
    ) -> None:
        """`domains`: for each manifest the number of its domain, from 0 on; None for one domain. Raises UserError."""
        super().__init__(open_sources(data), seed=wish.seed, memory_mb=wish.memory_mb)
        self.wish = wish
        owners = [0] * len(self.sources) if domains is None else list(domains)
        count = max(owners, default=-1) + 1
        if not count:
            raise UserError("domain 0 has no picture; give it a manifest with frames")
        if wish.batch < count:
            raise UserError(f"a batch of {wish.batch} cannot hold {count} domains; raise run.batch")
        shares = Shares(self.sources, wish.weights)
        self._domains: list[Draws[tuple[int, int]]] = []
        for domain in range(count):
            own = [number for number, owner in enumerate(owners) if owner == domain]
            units = shares.units(self._parts(own, by_dataset=bool(shares.weights)))
            if not units and wish.target is not None:
                raise UserError(f"no frame has {wish.target}; give --data a manifest whose frames do")
            if not units:
                raise UserError(f"domain {domain} has no picture; give it a manifest with frames (and a weight)")
            rows = [(weight, _Rows(parts)) for _, (weight, parts) in sorted(units.items())]
            self._domains.append(Draws(rows, self.seed, domain))

    def _parts(
        self, own: Sequence[int], *, by_dataset: bool
    ) -> Iterator[tuple[Source, str, tuple[int, Sequence[int]]]]:
        """The rows of these manifests that count, dataset by dataset where that matters."""
        for number in own:
            frames = self.sources[number].manifest.frames
            if not len(frames):
                continue
            has = None if self.wish.target is None else frames.known(self.wish.target)
            codes, names = frames.codes("dataset") if by_dataset else (0, [frames[0].dataset])
            for code, name in enumerate(names):
                alike = True if len(names) == 1 else codes == code
                wanted = np.broadcast_to(alike if has is None else alike & has, len(frames))
                rows: Any = range(len(frames)) if wanted.all() else np.flatnonzero(wanted).astype(np.int32)
                if len(rows):
                    yield self.sources[number], name, (number, rows)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "domains": [len(domain) for domain in self._domains],
            "shares": [domain.weights for domain in self._domains],
            "size": list(self.wish.size),
            "crops": self.wish.crops,
            "batch": self.wish.batch,
            **({"target": self.wish.target} if self.wish.target else {}),
        }

    def rows(self, index: int) -> list[tuple[int, int, int, int, int]]:
        """Of each picture of a batch: domain, its draw, manifest, row, and number of the pass."""
        count, rows = len(self._domains), []
        for number, domain in enumerate(self._domains):
            share = self.wish.batch // count + (number < self.wish.batch % count)
            for draw in range(index * share, (index + 1) * share):
                place, turn = domain[draw]
                rows.append((number, draw, *place, turn))
        return rows

    def make(self, index: int) -> Loaded:
        loaded = Loaded([], self.wish.size)
        pictures, maps, owners = [], [], []
        for domain, draw, *place in self.rows(index):
            picture, values, change, name = self._picture(domain, draw, *place)
            pictures.append(picture)
            loaded.changes.append(change)
            loaded.names.append([name])
            owners.append(domain)
            if values is not None:
                maps.append(cropped_map(values, change, self.wish.size))
        loaded.pictures = stack_pictures(pictures)
        loaded.signals[DOMAIN] = Signal(torch.tensor(owners))
        if self.wish.target is not None:
            loaded.signals[self.wish.target] = Signal(torch.from_numpy(np.stack(maps))[:, None])
        return loaded

    def completed(self, views: Views, loaded: Loaded) -> Views:
        if self.wish.target == "labels":
            views.signals["labels"] = Signal(views.signals["labels"].value.long())
        elif self.wish.target == "depth":
            depth = views.signals["depth"].value.float()
            views.signals["depth"] = Signal(depth, valid=depth > 0)
        return views

    def _picture(self, domain: int, draw: int, number: int, row: int, turn: int) -> tuple[Any, ...]:
        """Pixels, map, change and name; a picture that cannot be read makes way for the next one."""
        tries = min(ATTEMPTS, len(self._domains[domain]))
        for attempt in range(tries):
            if attempt:
                (number, row), turn = self._domains[domain][draw + attempt]
            frame = self.sources[number].manifest[row]
            picture, values = self._read(number, row, frame)
            if picture is None or (values is None and self.wish.target is not None):
                continue
            crop = turn % self.wish.crops if self.wish.crops else draw
            key = [self.seed, 1, domain, number, row, crop] if self.wish.crops else [self.seed, 2, domain, draw]
            rng = np.random.default_rng(key)
            change = draw_change(self.wish.augmentation, (frame.height, frame.width), self.wish.size, rng)
            name = f"{domain}/{number}/{frame.image}"  # names are unique in a manifest, not in a domain
            return picture, values, change, f"{name}#{crop}" if self.wish.crops else name
        which = f"no picture of domain {domain}" if tries < ATTEMPTS else f"none of {tries} pictures of domain {domain}"
        raise UserError(f"{which} can be read, the last ones: {self.unread()}; look with manyview data check")

    def _read(self, number: int, row: int, frame: Frame) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Picture (h, w, 3), not larger than its crops need it, and map (h, w); None for what cannot be read."""
        manifest, target = self.sources[number].manifest, self.wish.target
        fit = enough_for(self.wish.size, self.wish.augmentation.smallest)
        picture = self.read((number, row), lambda: read_fitted(manifest.path(frame.image), fit)[0])
        if picture is None or target is None:
            return picture, None
        path = str(getattr(frame, target))

        def read_map() -> np.ndarray:
            if target == "labels":
                return read_classes(manifest, path)
            return read_depth(manifest.path(path), frame.depth_scale or 1.0, manifest.farthest)

        return picture, self.read((number, row, "map"), read_map)
