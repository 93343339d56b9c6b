"""Batches of pictures with a label or a depth per pixel, cropped together; a pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from manyview.data.augment import Augmentation, crop_box, crop_map, recolour
from manyview.data.depths import read_depth
from manyview.data.loading import read_classes
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.images.reading import read_image
from manyview.types import Signal, Views

Target = Literal["labels", "depth"]


class LabelledImages:
    """`images(step, rank, world)` gives (N, 1, 3, H, W) views with a signal named like the target, (N, 1, H, W).

    Labels are int64; depth is float32 metres, not `valid` where it is 0. Pictures come in shuffled passes.
    """

    def __init__(
        self, manifests: Sequence[Manifest], *, target: Target, batch: int, size: tuple[int, int],
        augmentation: Augmentation, seed: int = 0,
    ) -> None:  # fmt: skip
        self.rows = [(m, frame) for m in manifests for frame in m.frames if getattr(frame, target)]
        if not self.rows:
            raise UserError(f"no frame has {target}; give --data a manifest whose frames do")
        self.manifests = list(manifests)
        self.target, self.batch, self.size, self.seed = target, batch, size, seed
        self.augmentation = augmentation
        self._memory: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "manifests": [manifest.digest() for manifest in self.manifests],
            "frames": len(self.rows),
            "target": self.target,
            "size": list(self.size),
            "batch": self.batch,
            "seed": self.seed,
        }

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Views:
        """The pictures of one rank at `step`."""
        first = (step * world + rank) * self.batch
        pictures, maps = zip(*(self._picture(draw) for draw in range(first, first + self.batch)), strict=True)
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[:, None].float() / 255
        values = torch.from_numpy(np.stack(maps))[:, None]
        if self.target == "labels":
            return Views(images, signals={"labels": Signal(values.long())})
        return Views(images, signals={"depth": Signal(values.float(), valid=values > 0)})

    def _picture(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = divmod(draw, len(self.rows))
        index = int(np.random.default_rng([self.seed, 3, epoch]).permutation(len(self.rows))[position])
        image, values = self._read(index)
        rng = np.random.default_rng([self.seed, 4, draw])
        box, mirrored = crop_box(values.shape, self.augmentation, rng)  # type: ignore[arg-type]
        height, width = image.shape[0] / values.shape[0], image.shape[1] / values.shape[1]
        of_image = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        picture = Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BICUBIC, box=of_image)
        picture = ImageOps.mirror(picture) if mirrored else picture
        target = crop_map(values, box, self.size, mirrored=mirrored)
        return recolour(picture, self.augmentation, rng), np.ascontiguousarray(target)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture and map of a row; small data sets stay in memory."""
        if index not in self._memory:
            manifest, frame = self.rows[index]
            self._memory[index] = (read_image(manifest.path(frame.image)), self._map(manifest, frame))
            if len(self._memory) > 4000:
                self._memory.pop(next(iter(self._memory)))
        return self._memory[index]

    def _map(self, manifest: Manifest, frame: Frame) -> np.ndarray:
        if self.target == "labels":
            return read_classes(manifest, str(frame.labels))
        return read_depth(manifest.path(str(frame.depth)), frame.depth_scale or 1.0)
