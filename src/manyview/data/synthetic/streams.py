"""Endless procedural scenes by name and number: `rooms:7` are all rooms of seed 7, each rendered when asked for."""

from __future__ import annotations

import re
from pathlib import Path

from manyview.data.synthetic.scene import RenderedScene, render_scene
from manyview.errors import UserError

STREAMS: dict[str, tuple[str, ...]] = {
    "rooms": ("auto",),
    "abstract": ("abstract",),
    "outdoors": ("outdoors",),
    "worlds": ("abstract", "outdoors", "abstract", "auto"),
}
"""Names, and the kinds of scene that take turns in each."""
FIRST = 40
"""Bits below a stream's seed that count its scenes: none of them is one of the small seeds that others render."""


def parse_stream(text: str | Path) -> tuple[str, int] | None:
    """Name and seed of `rooms:7`; None for what names no stream. Raises UserError for a seed that is none."""
    name, colon, seed = str(text).partition(":")
    if name not in STREAMS or not colon:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", seed):
        raise UserError(
            f"--data {text}: behind the colon stands the seed of the scenes; give a number, such as {name}:1"
        )
    return name, int(seed)


def scene_of(
    name: str, seed: int, number: int, *, views: int, size: tuple[int, int], textures: str | None = None
) -> RenderedScene:
    """Scene `number` of a stream: the same arguments give the same bits on the same machine."""
    kinds = STREAMS[name]
    own, kind = ((seed + 1) << FIRST) + number, kinds[number % len(kinds)]
    return render_scene(own, views=views, size=size, kind=kind, thumbnails=False, textures=textures)
