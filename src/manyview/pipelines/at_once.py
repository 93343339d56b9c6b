"""How many views a many-view network is asked about at once: as memory and time allow, in windows that overlap.

A window's answer is in the frame of its own first view; the views that it shares with those before it show the same
pixels in both, and so give the similarity that brings it into the first frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyview.engine.memory import free_memory, megabytes
from manyview.errors import UserError
from manyview.geometry import alignment

TOKENS_ON_CPU = 16_384
"""Tokens that attend to each other at once on a CPU: the time of more grows with their square."""
SHARED = 0.25
"""Share of a window's views that the one before it had too."""
LEAST = 4
"""Views of a window at least; with fewer photos there is one window."""
KEYPOINTS = 700_000
"""Bytes of a photo's keypoints and matches."""
SPARE = 0.7
"""Share of the free memory that is planned with; the rest is for what cannot be known before."""
POINTS = 20_000
"""Pixels from which the similarity of two windows is found."""


@dataclass(frozen=True)
class Plan:
    """What goes through a network together."""

    views: int
    chunks: dict[str, Any]
    """encoder_chunk and head_chunk, never above the network's own."""

    def halved(self) -> Plan:
        """Smaller chunks, and with the smallest of them fewer views."""
        if any(number > 1 for number in self.chunks.values()):
            return Plan(self.views, {name: max(1, number // 2) for name, number in self.chunks.items()})
        return Plan(self.views // 2, self.chunks)


def plan(network: Any, sizes: Sequence[tuple[int, int]], device: torch.device, asked: dict[str, int]) -> Plan:
    """For pictures of these (H, W), by the memory that is free.

    asked: chunks that the user chose, which are kept. Raises UserError, with numbers that would fit, when the fewest
    views or the answers of all do not.
    """
    config, count = network.config, len(sizes)
    pixels = max(h * w for h, w in sizes)
    tokens = pixels // int(config.patch_size) ** 2
    wide = max(int(getattr(getattr(config, "encoder", config), "dim", 1024)), int(getattr(config, "decoder_dim", 0)))
    head = 4 * pixels * 3 * max(int(getattr(config, "head_dim", 256)), 16)
    encode, view, kept = 4 * tokens * wide * 14, 4 * (tokens * wide * 16 + pixels * 20), pixels * 45 + KEYPOINTS
    least = min(LEAST, count)
    free = SPARE * free_memory(device)
    held = kept * count if device.type == "cpu" else 0
    need = held + view * least + max(encode, head)
    if need > free:
        fitting = int((free - view * least - max(encode, head)) / kept) if held else 0
        mend = f"--max-frames {fitting} would fit" if fitting >= least else "a smaller --image-size needs less"
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        raise UserError(
            f"{count} pictures of {width}x{height} need about {megabytes(need / SPARE)} of memory and "
            f"{megabytes(free / SPARE)} are free on {device}; {mend}"
        )
    room = free - held
    most = int((room - max(encode, head)) / view)
    if device.type == "cpu":
        most = min(most, max(least, TOKENS_ON_CPU // tokens))
    views = min(count, most)
    rest = room - view * views
    own = {"encoder_chunk": encode, "head_chunk": head}
    chunks = {
        n: max(1, min(int(getattr(config, n)), int(rest / each))) for n, each in own.items() if hasattr(config, n)
    }
    return Plan(views, chunks | asked)


def too_large(sizes: Sequence[tuple[int, int]], device: torch.device) -> UserError:
    """Says that memory ran out with the fewest views at once."""
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    return UserError(
        f"memory ran out on {device} with {min(LEAST, len(sizes))} of {len(sizes)} pictures of {width}x{height} at a "
        f"time; {megabytes(free_memory(device))} are free: a smaller --image-size needs less"
    )


def windows(count: int, views: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) view of each window: all have `views`, and share a quarter with the one before."""
    step = views - max(1, int(SHARED * views))
    start = 0
    while start + views < count:
        yield start, start + views
        start += step
    yield max(0, count - views), count


def in_first_frame(answer: list[dict[str, Tensor]], before: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """A window's maps of views, moved so that those of its first views lie on the ones `before` has of them.

    Robust: pixels on which the two disagree count little. Without a single pixel in common the maps stay.
    """
    pairs = list(zip(answer, before, strict=False))
    source, target, weights = (torch.cat(kind) for kind in zip(*(_common(*pair) for pair in pairs), strict=True))
    every = max(1, len(source) // POINTS)
    source, target, weights = source[::every], target[::every], weights[::every]
    if not bool((weights > 0).any()):
        return answer
    distance, trust = target.norm(dim=-1).clamp(min=1e-6), weights
    for _ in range(10):
        fit = alignment.similarity(source, target, trust)
        off = (alignment.apply_similarity(fit, source) - target).norm(dim=-1) / distance
        usual = off[weights > 0].median().clamp(min=1e-6)
        trust = weights / (1 + (off / usual) ** 2)
    moved = []
    for view in answer:
        shifted = dict(view)
        flat = view["pointmap"].double().reshape(-1, 3)
        shifted["pointmap"] = alignment.apply_similarity(fit, flat).reshape(view["pointmap"].shape).float()
        if "cam2world" in view:
            pose = view["cam2world"].double().clone()
            pose[:3, :3] = fit.rotation @ pose[:3, :3]
            pose[:3, 3] = fit.scale * fit.rotation @ pose[:3, 3] + fit.translation
            shifted["cam2world"] = pose
        moved.append(shifted)
    return moved


def _common(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, 3) of a view in both frames, and what they count."""
    source, target = (view["pointmap"].double().cpu().reshape(-1, 3) for view in (one, other))
    weights = torch.minimum(*(view["confidence"].double().cpu().flatten() for view in (one, other)))
    good = torch.isfinite(source).all(-1) & torch.isfinite(target).all(-1) & torch.isfinite(weights)
    return source, target, torch.where(good, weights.clamp(min=0), 0)
