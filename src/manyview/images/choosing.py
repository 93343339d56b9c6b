"""Which frames of a long recording are kept: evenly spread over the camera's motion, the sharpest of each part."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SMALL = (72, 96)
"""Pixels (H, W) at which motion and sharpness are judged."""
STILL = 0.002
"""Share of the width below which a shift between two frames is noise."""


def choose_frames(frames: Iterable[np.ndarray], count: int) -> list[int]:
    """Numbers of at most `count` of the frames (H, W, 3) uint8, in order.

    Frames are weighed by how far the picture has moved since the one before, by phase correlation; a recording that
    does not move is spread evenly over its time.
    """
    import cv2

    travelled, sharpness, before = [0.0], [], None
    window = cv2.createHanningWindow(SMALL[::-1], cv2.CV_32F)
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        sharpness.append(float(cv2.Laplacian(cv2.resize(grey, (4 * SMALL[1], 4 * SMALL[0])), cv2.CV_32F).var()))
        small = cv2.resize(grey, SMALL[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        if before is not None:
            (across, down), _ = cv2.phaseCorrelate(before, small, window)
            step = float(np.hypot(across, down)) / SMALL[1]
            travelled.append(travelled[-1] + (step if step > STILL else 0.0))
        before = small
    total = len(sharpness)
    if total <= count:
        return list(range(total))
    way = np.asarray(travelled)
    way = way / way[-1] if way[-1] > 0.05 else np.linspace(0, 1, total)
    slots = np.minimum((way * count).astype(int), count - 1)
    return [int(max(np.flatnonzero(slots == slot), key=lambda i: sharpness[i])) for slot in np.unique(slots)]
