"""Views of golden cases: one whose true shape is the reverse of its buffer's lies transposed in it, maps too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# V views, B scenes, H x W the buffer that every view of a case shares, h x w the view as it was taken.
Shapes = Sequence[Sequence[Sequence[int]]]


def transposed_views(buffers: Sequence[Tensor], true_shape: Shapes | None) -> list[list[bool]]:
    """Which of the views (V, B) lie transposed in their buffers (B, 3, H, W).

    true_shape: (h, w) of each of them, None where all fill their buffers as they are. Raises ValueError for a
    shape that is neither the buffer's nor its reverse.
    """
    if true_shape is None:
        return [[False] * len(buffer) for buffer in buffers]
    flags = []
    for buffer, shapes in zip(buffers, true_shape, strict=True):
        height, width = buffer.shape[-2:]
        for shape in shapes:
            if tuple(shape) not in {(height, width), (width, height)}:
                raise ValueError(f"true_shape {tuple(shape)} does not fill a buffer of {height}x{width}")
        flags.append([tuple(shape) != (height, width) for shape in shapes])
        if len(flags[-1]) != len(buffer):
            raise ValueError(f"{len(flags[-1])} true shapes for {len(buffer)} images")
    return flags


def predict(
    model: nn.Module, buffers: Sequence[Tensor], transposed: list[list[bool]], view_ids: Tensor | None = None
) -> dict[str, list[Tensor]]:
    """Maps {name: V tensors (B, H, W, …)} in the layout of the buffers (B, 3, H, W).

    Without transposed views the network takes one tensor, else scene by scene a list of the views as taken.
    """
    rows: list[Any] = [None] * len(buffers[0]) if view_ids is None else list(view_ids.split(1))
    with torch.no_grad():
        if not any(map(any, transposed)):
            together = model(torch.stack(list(buffers), dim=1), view_ids)
            return {name: list(maps.unbind(1)) for name, maps in together.items()}
        scenes = []
        for scene, row in enumerate(rows):
            flags = [view[scene] for view in transposed]
            pred = model(_turned([buffer[scene : scene + 1] for buffer in buffers], flags, -2, -1), row)
            scenes.append({name: _turned(maps, flags, 1, 2) for name, maps in pred.items()})
    return {name: [torch.cat(maps) for maps in zip(*(s[name] for s in scenes))] for name in scenes[0]}


def _turned(tensors: Sequence[Tensor], flags: Sequence[bool], first: int, second: int) -> list[Tensor]:
    """Each tensor with two of its axes swapped where its flag is set."""
    return [t.transpose(first, second) if flag else t for t, flag in zip(tensors, flags, strict=True)]


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """Every image's output of a module, each (1, …), in the order of the calls."""
    rows: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: rows.extend(output.split(1)))
    try:
        yield rows
    finally:
        hook.remove()


def raw_output(rows: Sequence[Tensor], transposed: Sequence[bool], shape: Sequence[int] | None) -> Tensor:
    """Raw outputs (1, C, h, w) of a head as one tensor of the stored shape.

    A recorder inside the head sees a transposed view before it is turned back, in a call of its own, so that
    what was stored is either every view in the buffer's layout or one kind of view as taken.
    """
    layouts = [torch.cat(_turned(rows, transposed, -2, -1))]
    for kind in (True, False):
        kept = [row for row, flag in zip(rows, transposed, strict=True) if flag is kind]
        layouts += [torch.cat(kept)] if kept else []
    fitting = [layout for layout in layouts if shape is not None and list(layout.shape) == list(shape)]
    return fitting[0] if fitting else layouts[0]
