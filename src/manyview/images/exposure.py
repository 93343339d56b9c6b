"""Exposure, white balance and gamma of a frame, drawn at random: what another camera, or the same one later, would do.

A value v of [0, 1] becomes gain * v ** gamma, the gain drawn for each channel, and is cut off at 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manyview.errors import UserError


@dataclass(frozen=True)
class Exposure:
    """What happens to one frame."""

    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of red, green and blue."""
    gamma: float = 1.0
    """Exponent of the values before that."""


@dataclass(frozen=True)
class Exposures:
    """How far frames differ. Raises UserError for what no frame could bear."""

    gain: float = 0.0
    """Gains are uniform in [1 - gain, 1 + gain]."""
    gamma: float = 0.0
    """Exponents are exp of uniform in [-gamma, gamma]."""

    def __post_init__(self) -> None:
        if not 0 <= self.gain < 1:
            raise UserError(f"gain is {self.gain}; it is a share of a channel's brightness: from 0 to below 1")
        if not 0 <= self.gamma <= 3:
            raise UserError(f"gamma is {self.gamma}; exponents are exp(-gamma) to exp(gamma): give 0 to 3")

    def __bool__(self) -> bool:
        return self.gain > 0 or self.gamma > 0

    def draw(self, rng: np.random.Generator) -> Exposure:
        red, green, blue = (1 + self.gain * rng.uniform(-1, 1, 3)).tolist()
        return Exposure((red, green, blue), math.exp(self.gamma * rng.uniform(-1, 1)))

    def of(self, name: str, seed: int) -> Exposure:
        """The same one for the same name and seed."""
        return self.draw(np.random.default_rng([seed, *name.encode()]))


def exposed(pixels: np.ndarray, exposure: Exposure) -> np.ndarray:
    """RGB pixels (..., 3) uint8 as they would be at that exposure."""
    values = (np.arange(256) / 255) ** exposure.gamma
    tables = np.clip(255 * np.array(exposure.gains)[:, None] * values + 0.5, 0, 255).astype(np.uint8)
    return np.stack([table[pixels[..., channel]] for channel, table in enumerate(tables)], -1)
