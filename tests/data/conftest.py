"""Pictures that the tests of data write, as functions on the `kit` fixture."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def corners(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green, blue and yellow quarters: top left, top right, bottom left, bottom right."""
    image = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    image[:h, :w] = (230, 20, 20)
    image[:h, w:] = (20, 200, 20)
    image[h:, :w] = (20, 20, 230)
    image[h:, w:] = (220, 220, 20)
    return image


def quarters(image: np.ndarray) -> np.ndarray:
    """(4, 3) colours in the middle of the quarters: top left, top right, bottom left, bottom right."""
    h, w = image.shape[:2]
    return np.array([image[y, x] for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)], np.int64)


def noise(height: int = 200, width: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(corners=corners, quarters=quarters, noise=noise, jpeg=jpeg, save=save)
