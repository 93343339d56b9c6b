"""A network and everything that decides its features: which blocks, normed or not, which size, whose space."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyview import zoo
from manyview.engine.device import autocast
from manyview.errors import UserError
from manyview.images.fit import Fit, longest
from manyview.images.inputs import FitFor, Photo, Picture, read_ahead
from manyview.models.family import require
from manyview.models.model import EncodesImages, ProjectsFeatures, fingerprint
from manyview.pipelines.feature_set import LAST, Tokens
from manyview.pipelines.opening import evaluating, opened
from manyview.pipelines.options import FeatureOptions
from manyview.types import Features

Levels = dict[int, Tokens]


class Encoding:
    """A network and everything that decides its features."""

    def __init__(
        self, model: Any, *, layers: Any, norm: bool, size: int | None, device: str, options: FeatureOptions
    ) -> None:
        self.network: Any
        self.network, self.name, self.device = opened(model, EncodesImages, device)
        self.dtype = next((p.dtype for p in self.network.parameters()), torch.float32)
        self.card = {} if isinstance(model, nn.Module) else zoo.card_of(model)
        self.encode, config = self.network.encode, self.network.trunk.config
        self.patch, self.depth = int(config.patch_size), int(config.depth)
        self.size = size or int(np.max(config.image_size))
        if self.size < self.patch:
            raise UserError(f"size {self.size} is less than a patch of {self.name} ({self.patch} pixels)")
        self.norm, self.options = norm, options
        self.layers = self._blocks(layers)
        if options.project is not None:
            teachers = require(self.network, ProjectsFeatures, self.name).teachers
            if options.project not in teachers:
                known = ", ".join(teachers) or "none"
                raise UserError(f"{self.name} has no projector {options.project!r}; it has {known}")
            if self.layers:
                raise UserError("a projector reads fixed blocks; ask for projected features or for layers, not both")

    def _blocks(self, layers: Any) -> list[int]:
        if layers is None:
            return []
        if isinstance(layers, str) and layers != "all":
            raise UserError(f"layers are {layers!r}; give block numbers, or 'all'")
        asked = range(self.depth) if isinstance(layers, str) else [int(i) for i in layers]
        wrong = [i for i in asked if not -self.depth <= i < self.depth]
        if wrong:
            raise UserError(f"{self.name} has no block {wrong[0]}; its {self.depth} blocks are 0 to {self.depth - 1}")
        return sorted({i % self.depth for i in asked})

    def settings(self) -> dict[str, Any]:
        """What decides the numbers in the files, JSON-able."""
        return {
            "weights": fingerprint(self.network),
            "size": self.size,
            "patch": self.patch,
            "layers": self.layers,
            "norm": self.norm,
            "project": self.options.project,
            "half": self.options.half,
            "precision": self.options.precision,
        }

    def fit(self, source: tuple[int, int]) -> Fit:
        return longest(source, long_side=self.size, multiple=self.patch)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Levels]:
        """Pictures of one size -> per picture {LAST: the last block's tokens, block: its tokens}."""
        images = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2)
        images = images.to(self.dtype) / 255
        try:
            with evaluating(self.network), autocast(self.device, self.options.precision):
                levels = self._levels(images)
        except torch.OutOfMemoryError:
            if len(pictures) == 1:
                raise UserError(
                    f"no memory on {self.device} for one picture of {images.shape[-1]}x{images.shape[-2]}; "
                    "choose a smaller size, or another device"
                ) from None
            del images
            half = len(pictures) // 2
            return self(pictures[:half]) + self(pictures[half:])
        stored = {key: self._stored(level) for key, level in levels.items()}
        return [{key: level[i] for key, level in stored.items()} for i in range(len(pictures))]

    def _levels(self, images: Tensor) -> dict[int, Features]:
        if self.options.project is not None:
            raw = self.encode(images, norm=False, layers=self.network.projected_layers)
            return {LAST: self.network.project(raw, self.options.project)}
        if not self.layers:
            return {LAST: self.encode(images, norm=self.norm)}
        wanted = sorted({*self.layers, self.depth - 1})
        levels = dict(zip(wanted, self.encode(images, layers=wanted, norm=self.norm), strict=True))
        return {LAST: levels[self.depth - 1], **{i: levels[i] for i in self.layers}}

    def _stored(self, level: Features) -> list[Tokens]:
        maps = self._numbers(level.patches.unflatten(1, level.grid))
        cls, registers = (
            [None] * len(maps) if value is None else self._numbers(value) for value in (level.cls, level.registers)
        )
        return [Tokens(*tokens) for tokens in zip(maps, cls, registers, strict=True)]

    def _numbers(self, values: Tensor) -> np.ndarray:
        if self.options.half:
            most = torch.finfo(torch.float16).max
            return values.clamp(-most, most).half().cpu().numpy()
        return values.float().cpu().numpy()


def photos(
    items: Iterable[Picture], fit_for: FitFor, skipped: list[str], *, ahead: int, warn: bool = False
) -> Iterator[Photo]:
    """Pictures as they are read; a line for each that cannot be goes into `skipped`, and where asked into a warning."""
    for photo in read_ahead(items, fit_for, ahead=ahead):
        if isinstance(photo, Photo):
            yield photo
            continue
        skipped.append(str(photo))
        if warn:
            warnings.warn(f"left out {photo}", stacklevel=4)


def some_of(done: Sized, skipped: Sequence[str]) -> None:
    """Raise UserError when nothing was done, with the first reason."""
    if not done:
        raise UserError(f"no picture could be read: {skipped[0] if skipped else 'there is none'}")
