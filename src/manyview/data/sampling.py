"""Which frames are looked at together: windows of consecutive frames of one scene."""

from __future__ import annotations

from manyview.data.manifest import Manifest
from manyview.errors import UserError


def windows(manifest: Manifest, views: int, step: int) -> list[list[int]]:
    """Indices of `views` consecutive frames of one scene, a new window every `step` frames, in natural order.

    A scene with fewer frames gives one shorter window; frames after the last full window are left out.
    """
    if views < 1 or step < 1:
        raise UserError(f"windows of {views} views every {step} frames: both must be at least 1")
    found: list[list[int]] = []
    for indices in manifest.scenes().values():
        last = max(0, len(indices) - views)
        found += [indices[start : start + views] for start in range(0, last + 1, step)]
    return found
