"""Views of one or of several sizes through the parts of a network, a few at a time: bounds memory, not the result.

Legend: B scenes, v views of one size, N = B*v, n = h*w patches of a view, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from manyview.hardware import short_of_memory
from manyview.models.heads import FeatureMap, Head
from manyview.models.model import Maps
from manyview.models.vit import Encoder


def groups_of(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """(B, V, 3, H, W) is one group; a list of V (B, 3, Hi, Wi) is V groups of one view each."""
    return [images] if isinstance(images, Tensor) else [image[:, None] for image in images]


def answer_of(maps: Mapping[str, list[Tensor]], images: Tensor | Sequence[Tensor]) -> Maps:
    """A map per group -> a map of all views, or a list of one per view, as the images came."""
    if isinstance(images, Tensor):
        return {name: values[0] for name, values in maps.items()}
    return {name: [value[:, 0] for value in values] for name, values in maps.items()}


def chunk_size(name: str, asked: int | None, usual: int) -> int | None:
    """What was asked for, else the usual number where no gradient is kept, else None: all at once.

    Raises ValueError for a number below one.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"{name} must be at least 1, got {asked}")
    return asked or (None if torch.is_grad_enabled() else usual)


def heads_at_once(most: int, device: torch.device) -> int:
    """Views that go through a dense head together: two on a CPU, which gains nothing from more; at most four on a GPU
    that is short of memory, else `most`.
    """
    return min(most, 2 if device.type == "cpu" else 4 if short_of_memory(device) else most)


def encoded(encoder: Encoder, images: Tensor, chunk: int | None) -> Tensor:
    """(B, v, 3, H, W) -> patches (B, v, n, D)."""
    flat = images.flatten(0, 1)
    parts = [encoder.encode(part).patches for part in flat.split(chunk or len(flat))]
    return torch.cat(parts).unflatten(0, images.shape[:2])


def decoded(head: Head, levels: Sequence[Tensor], grid: tuple[int, int], chunk: int | None) -> tuple[Tensor, Tensor]:
    """Tokens (B, v, n, D) of four depths -> values (B, v, H, W, ...) and confidences (B, v, H, W)."""
    shape = levels[0].shape[:2]
    flat = [level.flatten(0, 1) for level in levels]
    answers = (head([*part], grid) for part in zip(*(level.split(chunk or len(level)) for level in flat)))
    values, confidence = _joined(answers, len(flat[0]))
    return values.unflatten(0, shape), confidence.unflatten(0, shape)


def _joined(answers: Iterable[tuple[Tensor, ...]], count: int) -> list[Tensor]:
    """Answers for some of `count` views each, one after the other; without gradients each is dropped once it is
    copied.
    """
    if torch.is_grad_enabled():
        return [torch.cat(kind) for kind in zip(*answers, strict=True)]
    whole: list[Tensor] = []
    done = 0
    for parts in answers:
        if len(parts[0]) == count:
            return [*parts]
        whole = whole or [part.new_empty(count, *part.shape[1:]) for part in parts]
        for place, part in zip(whole, parts, strict=True):
            place[done : done + len(part)] = part
        done += len(parts[0])
    return whole


def featured(head: FeatureMap, levels: Sequence[Tensor], grid: tuple[int, int], chunk: int | None) -> Tensor:
    """Tokens (B, v, n, D) of four depths -> features (B, v, finer h, finer w, C)."""
    flat = [level.flatten(0, 1) for level in levels]
    answers = ((head([*part], grid),) for part in zip(*(level.split(chunk or len(level)) for level in flat)))
    return _joined(answers, len(flat[0]))[0].unflatten(0, levels[0].shape[:2])
