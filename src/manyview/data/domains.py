"""Batches of single pictures, balanced over domains of any number and size; a pure function of the step."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from manyview.data.augment import Augmentation, augment
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.images.reading import ImageProblem, read_image
from manyview.types import Signal, Views

LOG = logging.getLogger(__name__)
DOMAIN = "domain"


class DomainImages:
    """`images(step, rank, world)` gives (N, 1, 3, H, W) views; signal `domain` says whose domain each came from.

    Every domain gives as many pictures, the first ones one more when the batch does not divide; a domain's pictures
    come in shuffled passes over all of them. With `crops` above 0 a picture has that many fixed crops, one per pass,
    which its name tells, so that a teacher's answers to them can be kept.
    """

    def __init__(
        self,
        domains: Sequence[Sequence[Manifest]],
        *,
        batch: int,
        size: tuple[int, int],
        augmentation: Augmentation | None = None,
        crops: int = 0,
        seed: int = 0,
        memory_mb: float = 2000,
    ) -> None:
        self.manifests = [list(manifests) for manifests in domains]
        self.domains = [
            [(number, i) for number, m in enumerate(manifests) for i in range(len(m))]
            for manifests in self.manifests
        ]
        empty = [index for index, rows in enumerate(self.domains) if not rows]
        if empty or not self.domains:
            raise UserError(
                f"domain {empty[0] if empty else 0} has no picture; give it a manifest with frames"
            )
        if batch < len(self.domains):
            raise UserError(f"a batch of {batch} cannot hold {len(self.domains)} domains; raise run.batch")
        self.batch, self.size, self.crops, self.seed = batch, size, crops, seed
        self.augmentation = augmentation or Augmentation()
        self.unreadable: dict[str, str] = {}
        self._memory: OrderedDict[str, np.ndarray] = OrderedDict()
        self._free = int(memory_mb * 1e6)

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        manifests = [[m.digest() for m in manifests] for manifests in self.manifests]
        return {
            "domains": [len(rows) for rows in self.domains],
            "manifests": manifests,
            "size": list(self.size),
            "crops": self.crops,
            "batch": self.batch,
            "seed": self.seed,
        }

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Views:
        """The pictures of one rank at `step`."""
        number, pictures, names, owners = step * world + rank, [], [], []
        count = len(self.domains)
        for domain in range(count):
            share = self.batch // count + (domain < self.batch % count)
            for draw in range(number * share, (number + 1) * share):
                picture, name = self._picture(domain, draw)
                pictures.append(torch.from_numpy(picture.copy()).permute(2, 0, 1))
                names.append([name])
                owners.append(domain)
        images = torch.stack(pictures)[:, None].float() / 255
        return Views(images, names=names, signals={DOMAIN: Signal(torch.tensor(owners))})

    def _picture(self, domain: int, draw: int) -> tuple[np.ndarray, str]:
        """The draw-th picture of a domain since the beginning, and its name; unreadable ones make way."""
        rows = self.domains[domain]
        for attempt in range(len(rows)):
            epoch, position = divmod(draw + attempt, len(rows))
            order = np.random.default_rng([self.seed, domain, epoch]).permutation(len(rows))
            index = int(order[position])
            number, row = rows[index]
            manifest = self.manifests[domain][number]
            name = manifest[row].image
            try:
                image = self._read(f"{domain}/{index}", manifest.path(name))
            except ImageProblem as problem:
                if name not in self.unreadable:
                    self.unreadable[name] = problem.reason
                    LOG.warning("left out %s (%d so far)", problem, len(self.unreadable))
                continue
            key = (
                [self.seed, 1, domain, index, epoch % self.crops]
                if self.crops
                else [self.seed, 2, domain, draw]
            )
            rng = np.random.default_rng(key)
            label = f"{domain}/{number}/{name}"  # names are unique in a manifest, not in a domain
            label = f"{label}#{epoch % self.crops}" if self.crops else label
            return augment(image, self.size, self.augmentation, rng), label
        raise UserError(
            f"no picture of domain {domain} can be read, first {next(iter(self.unreadable.items()))}"
        )

    def _read(self, key: str, path: Any) -> np.ndarray:
        """The decoded picture; the most recent stay in memory up to a bound."""
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        image = read_image(path)
        self._memory[key] = image
        self._free -= image.nbytes
        while self._free < 0 and len(self._memory) > 1:
            self._free += self._memory.popitem(last=False)[1].nbytes
        return image
