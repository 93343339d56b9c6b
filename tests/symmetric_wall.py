"""A wall that is mostly symmetric, as façades are, and photos of it: what a mirrored photo fits as well."""

from __future__ import annotations

import cv2
import numpy as np

SIZE, FOCAL = (240, 320), 350.0


def symmetric_wall(seed: int = 0) -> np.ndarray:
    """(800, 800, 3) uint8; all but the uppermost part of the right half mirrors the left one."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (800, 800), np.uint8), (0, 0), 4)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    texture[300:, 400:] = texture[300:, 399::-1]
    return np.repeat(texture[..., None], 3, -1)


def wall_seen(texture: np.ndarray, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """A wall one unit away and one unit high, as seen from `shift` to the right: pixels and their points (H, W, 3)."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x, y = (u - SIZE[1] / 2) / FOCAL + shift, (v - SIZE[0] / 2) / FOCAL
    places = ((np.stack([x, y]) + 0.5) * texture.shape[0] - 0.5).astype(np.float32)
    return cv2.remap(texture, *places, cv2.INTER_LINEAR), np.stack([x, y, np.ones_like(x)], -1)
