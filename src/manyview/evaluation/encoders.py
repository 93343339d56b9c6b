"""What probes judge: the model's encoder, and beside it the same encoder with random weights, raw pixels, no answer."""

from __future__ import annotations

from typing import Any

from manyview.errors import UserError

LABELS = {
    "model": "model",
    "projected": "model, through its projector",
    "untrained": "the same encoder, random weights",
    "pixels": "raw pixels",
    "constant": "one answer for every pixel",
    "zero_flow": "zero flow",
}


def image_size(encoder: Any, wanted: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) for this encoder. Raises UserError for sides that are no multiples of its patch."""
    patch = int(encoder.config.patch_size)
    if wanted is None:
        own = encoder.config.image_size
        sides = (own, own) if isinstance(own, int) else tuple(own)
        return int(sides[0]) // patch * patch, int(sides[1]) // patch * patch
    size = (wanted, wanted) if isinstance(wanted, int) else (wanted[0], wanted[1])
    if any(side < 2 * patch or side % patch for side in size):
        raise UserError(f"size {size[0]}x{size[1]}: both sides must be multiples of the patch, {patch}")
    return size
