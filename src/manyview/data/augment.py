"""What a distillation picture goes through: a random resized crop, a mirror, and photometric changes.

All of it is a function of a generator, so the same crop can be made again for a cached teacher answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges and probabilities; the defaults are DUNE's release."""

    scale: tuple[float, float] = (0.4, 1.0)
    """Share of the picture's area that a crop keeps."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a crop, before it is resized to the network's size."""
    flip: float = 0.5
    """Probability of a mirror."""
    jitter: float = 0.8
    """Probability of colour jitter."""
    strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Jitter of brightness, contrast, saturation and hue."""
    grey: float = 0.2
    """Probability of a grey picture."""
    blur: float = 0.2
    """Probability of a 9x9 Gaussian blur, its sigma uniform in [0.1, 5]."""
    solarise: float = 0.2
    """Probability of inverting what is brighter than half."""


def augment(
    image: np.ndarray, size: tuple[int, int], config: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8: another crop, mirror and colours for every state of `rng`."""
    return recolour(random_crop(image, size, config, rng), config, rng)


def recolour(picture: Image.Image, config: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) uint8: jitter, grey, blur and inverted highlights, each with its probability."""
    if rng.random() < config.jitter:
        picture = _jitter(picture, config.strength, rng)
    if rng.random() < config.grey:
        picture = ImageOps.grayscale(picture).convert("RGB")
    if rng.random() < config.blur:
        import cv2

        sigma = float(rng.uniform(0.1, 5.0))
        picture = Image.fromarray(cv2.GaussianBlur(np.asarray(picture), (9, 9), sigma))
    if rng.random() < config.solarise:
        picture = ImageOps.solarize(picture, 128)
    return np.asarray(picture)


def random_crop(
    image: np.ndarray, size: tuple[int, int], config: Augmentation, rng: np.random.Generator
) -> Image.Image:
    """A crop of random area and shape, bicubic and antialiased at `size` (h, w), maybe mirrored."""
    box, mirrored = crop_box((image.shape[0], image.shape[1]), config, rng)
    picture = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
    return ImageOps.mirror(picture) if mirrored else picture


def crop_box(
    shape: tuple[int, int], config: Augmentation, rng: np.random.Generator
) -> tuple[tuple[float, float, float, float], bool]:
    """(left, top, right, bottom) of a crop of random area and shape of an (H, W) picture, and whether to mirror it."""
    height, width = shape
    box = (0.0, 0.0, float(width), float(height))
    for _ in range(10):
        area = rng.uniform(*config.scale) * height * width
        ratio = math.exp(rng.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = (left, top, left + w, top + h)
            break
    return box, bool(rng.random() < config.flip)


def crop_map(
    values: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int], *, mirrored: bool
) -> np.ndarray:
    """The same crop of a map (H, W) of labels or depth: its nearest values at the pixel centres of `size` (h, w)."""
    left, top, right, bottom = box
    rows, columns = (
        np.clip((low + (np.arange(count) + 0.5) / count * (high - low)).astype(int), 0, most - 1)
        for low, high, count, most in (
            (top, bottom, size[0], values.shape[0]),
            (left, right, size[1], values.shape[1]),
        )
    )
    cropped = values[rows[:, None], columns[None]]
    return cropped[:, ::-1] if mirrored else cropped


def _jitter(
    picture: Image.Image, strength: tuple[float, float, float, float], rng: np.random.Generator
) -> Image.Image:
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(-1, 1, 4) * strength
    for index in rng.permutation(4):
        if index == 3:
            hue, *rest = picture.convert("HSV").split()
            shift = round(float(factors[3]) * 256)
            turned = Image.fromarray((np.asarray(hue).astype(np.int16) + shift).astype(np.uint8))
            picture = Image.merge("HSV", (turned, *rest)).convert("RGB")
        else:
            picture = kinds[index](picture).enhance(1 + float(factors[index]))
    return picture
