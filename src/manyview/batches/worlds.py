"""Batches of procedural scenes that are rendered when they are due: no disk, no cache, never the same scene twice.

Scene i of a run is a function of the source's seed and of i, and so a batch is one of its index: any process renders
any of them, and a run resumes to the bit from the number of its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from manyview.batches.augment import Augmentation, draw_change
from manyview.batches.road import ORDER, Loaded, Road, stack_pixels
from manyview.batches.scene_changes import mirror
from manyview.config import Positive, Share, parse_size
from manyview.data.synthetic.photographs import read_photographs
from manyview.data.synthetic.scene import RenderedScene
from manyview.data.synthetic.streams import STREAMS, parse_stream, scene_of
from manyview.errors import UserError
from manyview.geometry import poses
from manyview.geometry.cameras import pixel_centres
from manyview.types import Views

LOOK = 16
"""Overlap is measured on pictures of at most this many pixels a side."""


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How scenes that are rendered while a run trains become its batches."""

    sizes: tuple[str, ...] = ("112x154", "112x154", "154x112", "126x126")
    """Rows x columns of the pictures; every batch draws one of these."""
    textures: str | None = None
    """A folder of pictures of your own, which then are on most surfaces."""
    rendered: int = 8
    """Views that are rendered of a scene; windows are drawn from these."""
    count: tuple[int, ...] = (2, 2, 3, 4, 4, 6, 8)
    """Views of a window; every batch draws one of these."""
    reuse: Positive = 1.0
    """How often each rendered view is used, on average: a scene gives so many windows. Raise it where rendering is what
    training waits for."""
    overlap: tuple[Share, Share] = (0.25, 0.85)
    """How much of a view the other views of its window should see: at least, at most."""
    order: Literal["any", "video"] = "any"
    """any: random views in random order, any of them the reference; video: consecutive ones as they were taken."""
    mirror: float = 0.5
    """Share of the windows that are seen in a mirror."""
    jitter: float = 0.4
    """Strength of changes of brightness, contrast, saturation and gamma, picture by picture."""
    hue: float = 0.03
    """Strength of changes of hue, as a share of the full circle."""
    grey: float = 0.05
    """Share of grey pictures."""
    blur: float = 0.1
    """Share of blurred pictures."""
    noise: float = 0.03
    """Largest deviation of the noise on a picture."""


class WorldBatches(Road):
    """`batches(index)` gives (B, V, 3, H, W) views with cameras and depth; B and V follow from what the batch draws.

    `scenes` are rendered for every batch; several sources take turns.
    """

    def __init__(self, data: Sequence[str | Path], streaming: Streaming, *, scenes: int, seed: int) -> None:
        """Raises UserError for data that name no procedural scenes, and for options that fit nothing."""
        super().__init__([], seed=seed)
        self.streams: list[tuple[str, int]] = []
        self.streaming, self.scenes = streaming, scenes
        for item in data:
            stream = parse_stream(item)
            if stream is None:
                raise UserError(f"--data {item}: give procedural scenes only ({', '.join(STREAMS)}, each with :SEED)")
            self.streams.append(stream)
        self.sizes = [parse_size(text, "method.stream.sizes") for text in streaming.sizes]
        _check(streaming)
        self._photographs = streaming.textures and read_photographs(streaming.textures).digest
        self._colours = Augmentation(
            scale=(1.0, 1.0),
            flip=0.0,
            jitter=0.8,
            strength=(streaming.jitter, streaming.jitter, streaming.jitter, streaming.hue),
            gamma=streaming.jitter,
            grey=streaming.grey,
            blur=streaming.blur,
            solarise=0.0,
            noise=streaming.noise,
        )

    def describe(self) -> dict[str, Any]:
        names = [f"{name}:{seed}" for name, seed in self.streams]
        known = {"streams": names, "scenes": self.scenes, "seed": self.seed, "photographs": self._photographs}
        return {"order": ORDER, **known}

    def make(self, index: int) -> Loaded:
        rng, how = np.random.default_rng([self.seed, index]), self.streaming
        size = self.sizes[rng.integers(len(self.sizes))]
        views = how.count[rng.integers(len(how.count))]
        loaded, pixels, mirrored = Loaded([], size), [], []
        cameras: dict[str, list[Tensor]] = {"depth": [], "intrinsics": [], "cam2world": [], "labels": []}
        for number in range(index * self.scenes, (index + 1) * self.scenes):
            name, scene = self.scene(number, size)
            pictures = scene.images.permute(0, 2, 3, 1).mul(255).round_().to(torch.uint8).numpy()
            for window in self._windows(scene, views, rng):
                loaded.names.append([f"{name} view {view}" for view in window])
                pixels += [pictures[view] for view in window]
                for key, values in cameras.items():
                    values.append(getattr(scene, key)[window])
                mirrored.append(rng.random() < how.mirror)
                loaded.changes += [draw_change(self._colours, size, size, rng) for _ in window]
        loaded.pixels = stack_pixels(pixels, (len(mirrored), views))
        loaded.cameras = {key: torch.stack(values) for key, values in cameras.items()}
        loaded.extra = [row for row, turned in enumerate(mirrored) if turned]
        return loaded

    def scene(self, number: int, size: tuple[int, int]) -> tuple[str, RenderedScene]:
        """Scene `number` of the run and its name."""
        name, seed = self.streams[number % len(self.streams)]
        own = number // len(self.streams)
        how = self.streaming
        scene = scene_of(name, seed, own, views=how.rendered, size=size, textures=how.textures)
        return f"{name}:{seed} scene {own}", scene

    def completed(self, views: Views, loaded: Loaded) -> Views:
        return mirror(views, loaded.extra) if loaded.extra else views

    def _windows(self, scene: RenderedScene, views: int, rng: np.random.Generator) -> list[list[int]]:
        count = max(1, round(self.streaming.reuse * len(scene.images) / views))
        if self.streaming.order == "video":
            starts = rng.integers(len(scene.images) - views + 1, size=count).tolist()
            return [list(range(start, start + views)) for start in starts]
        shared = overlaps(scene.depth, scene.intrinsics, scene.cam2world)
        turns = np.resize(rng.permutation(len(shared)), count).tolist()  # every view is the reference in turn
        return [draw_window(shared, reference, views, self.streaming.overlap, rng) for reference in turns]


def overlaps(depth: Tensor, intrinsics: Tensor, cam2world: Tensor) -> np.ndarray:
    """Of views (V, H, W) with cameras, the share of view i that view j sees too: (V, V), the mean of both ways."""
    height, width = depth.shape[1:]
    step = -(-max(height, width) // LOOK)
    pixels = pixel_centres(height, width)[step // 2 :: step, step // 2 :: step].flatten(0, 1)  # (P, 2)
    near = depth[:, step // 2 :: step, step // 2 :: step]
    rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], -1) @ torch.linalg.inv(intrinsics).transpose(1, 2)
    world = poses.apply(cam2world, rays * near.flatten(1)[..., None])  # (V, P, 3)
    seen = poses.apply(poses.invert(cam2world)[None], world[:, None])  # (V of the points, V that look, P, 3)
    places = (seen @ intrinsics.transpose(1, 2))[..., :2] / seen[..., 2:].clamp(min=1e-6)
    column, row = (places / step).floor().long().unbind(-1)
    rows, columns = near.shape[1:]
    inside = (seen[..., 2] > 0) & (places >= 0).all(-1) & (column < columns) & (row < rows)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    there = near.flatten(1).expand(len(near), -1, -1).gather(2, index)
    share = (inside & (seen[..., 2] < 1.1 * there)).float().mean(-1)
    return ((share + share.T) / 2).numpy()


def draw_window(
    shared: np.ndarray, reference: int, views: int, bounds: tuple[float, float], rng: np.random.Generator
) -> list[int]:
    """`views` of the views whose overlaps (V, V) these are, the reference first, each next one drawn of those that
    share at least bounds[0] with a view before it and no more than bounds[1] with any; the nearest to that where none
    does.
    """
    window = [reference]
    while len(window) < views:
        most = shared[window].max(0)
        outside = np.maximum(bounds[0] - most, most - bounds[1]).clip(min=0)
        outside[window] = np.inf
        good = np.flatnonzero(outside <= outside.min())
        window.append(int(rng.choice(good)))
    return window


def _check(how: Streaming) -> None:
    if not how.sizes or not how.count:
        raise UserError("method.stream.sizes and method.stream.count must not be empty")
    if min(how.count) < 1 or max(how.count) > how.rendered:
        raise UserError(
            f"method.stream.count asks for windows of {min(how.count)} to {max(how.count)} views of "
            f"{how.rendered} rendered ones; give numbers from 1 to {how.rendered}, or raise method.stream.rendered"
        )
    if not 0 <= how.overlap[0] <= how.overlap[1] <= 1:
        raise UserError(f"method.stream.overlap is {how.overlap}; give two rising numbers in [0, 1]")
