"""What a training picture goes through: crop, mirror, colours; drawn where it is read, done on the run's device.

`draw_change` decides everything from a generator, in numbers; `cropped` and `recoloured` do it to a whole batch, with
the same code on a CPU and a GPU. Pixels are float in [0, 1]; every step stays inside.

Legend: N pictures, H x W pixels of the result, h x w of the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.batches.resampling import cropped_one, cropped_together
from manyview.config import Positive

Box = tuple[float, float, float, float]
"""(left, top, right, bottom)."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey picture (ITU-R 601, as in Pillow)."""
SIGMA = (0.1, 5.0)
SHEET = 256
"""Places along each side at which noise is taken from its sheet."""
BLUR = 4
"""Taps on each side of the blur: 9x9."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges and probabilities; the defaults are DUNE's release."""

    scale: tuple[float, float] = (0.4, 1.0)
    """Share of the picture's area that a crop keeps."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of a crop, before it is resized to the network's size."""
    flip: float = 0.5
    """Probability of a mirror."""
    jitter: float = 0.8
    """Probability of colour jitter."""
    strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Jitter of brightness, contrast, saturation and hue."""
    gamma: float = 0.0
    """Jitter of the exponent of the pixels' values: exp([-gamma, gamma])."""
    grey: float = 0.2
    """Probability of a grey picture."""
    blur: float = 0.2
    """Probability of a 9x9 Gaussian blur, its sigma uniform in [0.1, 5]."""
    solarise: float = 0.2
    """Probability of inverting what is brighter than half."""
    noise: float = 0.0
    """Largest standard deviation of noise, which is uniform in [0, noise]; 0: none."""

    @property
    def smallest(self) -> float:
        """The shortest side of a crop, in shorter sides of a square picture."""
        return math.sqrt(self.scale[0] * min(self.ratio[0], 1 / self.ratio[1]))


def only_colours(strength: float, *, hue: float = 0.0, gamma: float = 0.0) -> Augmentation:
    """Jitter of every picture and nothing else."""
    return Augmentation(
        scale=(1.0, 1.0),
        flip=0.0,
        jitter=1.0,
        strength=(strength, strength, strength, hue),
        gamma=gamma,
        grey=0.0,
        blur=0.0,
        solarise=0.0,
    )


@dataclass(frozen=True)
class Change:
    """What happens to one picture."""

    box: Box = (0.0, 0.0, 1.0, 1.0)
    """The part that is kept, as shares of the picture's width and height."""
    mirrored: bool = False
    factors: tuple[float, float, float, float] | None = None
    """Factors of brightness, contrast and saturation, and turns of hue; None for no jitter."""
    order: tuple[int, ...] = (0, 1, 2, 3)
    """In which order these four are applied."""
    gamma: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of red, green and blue, after gamma."""
    grey: bool = False
    sigma: float = 0.0
    """Of the blur, in pixels of the result; 0 for none."""
    solarised: bool = False
    noise: float = 0.0
    """Standard deviation of the noise."""
    grain: tuple[int, int] = (0, 0)
    """Where in the sheet of noise."""

    @property
    def coloured(self) -> bool:
        lit = self.gamma != 1.0 or self.gains != (1.0, 1.0, 1.0)
        return lit or self.factors is not None or self.grey or self.sigma > 0 or self.solarised or self.noise > 0


def draw_change(
    config: Augmentation, source: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> Change:
    """Another crop of an (h, w) picture for `size` (H, W), mirror and colours for every state of `rng`."""
    box = random_box(config, source, size, rng)
    mirrored = bool(rng.random() < config.flip)
    factors, order, gamma = None, (0, 1, 2, 3), 1.0
    if rng.random() < config.jitter:
        drawn = (rng.uniform(-1, 1, 4) * config.strength).tolist()
        factors = (1 + drawn[0], 1 + drawn[1], 1 + drawn[2], drawn[3])
        order = tuple(rng.permutation(4).tolist())
        gamma = math.exp(rng.uniform(-config.gamma, config.gamma))
    grey = bool(rng.random() < config.grey)
    sigma = float(rng.uniform(*SIGMA)) if rng.random() < config.blur else 0.0
    solarised = bool(rng.random() < config.solarise)
    if not config.noise:
        return Change(box, mirrored, factors, order, gamma, grey=grey, sigma=sigma, solarised=solarised)
    noise, grain = float(rng.uniform(0, config.noise)), (int(rng.integers(SHEET)), int(rng.integers(SHEET)))
    drawn = {"grey": grey, "sigma": sigma, "solarised": solarised, "noise": noise, "grain": grain}
    return Change(box, mirrored, factors, order, gamma, **drawn)


def random_box(config: Augmentation, source: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A part of random area and form, as shares of the sides; the largest centred one of `size`'s form if none fits."""
    height, width = source
    for _ in range(10):
        area = rng.uniform(*config.scale) * height * width
        ratio = math.exp(rng.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left / width, top / height, (left + w) / width, (top + h) / height
    scale = min(width / size[1], height / size[0])
    w, h = size[1] * scale / width, size[0] * scale / height
    return (1 - w) / 2, (1 - h) / 2, (1 + w) / 2, (1 + h) / 2


def cropped_map(values: np.ndarray, change: Change, size: tuple[int, int]) -> np.ndarray:
    """A picture's crop of its map (h, w) of labels or depth: the nearest values at the pixel centres of `size`."""
    left, top, right, bottom = change.box
    rows, columns = (
        np.clip(((low + (np.arange(count) + 0.5) / count * (high - low)) * most).astype(int), 0, most - 1)
        for low, high, count, most in ((top, bottom, size[0], values.shape[0]), (left, right, size[1], values.shape[1]))
    )
    kept = values[rows[:, None], columns[None]]
    return np.ascontiguousarray(kept[:, ::-1] if change.mirrored else kept)


def cropped(
    pictures: Tensor, sources: Sequence[tuple[int, int]], changes: Sequence[Change], size: tuple[int, int]
) -> Tensor:
    """Crop, resize (bicubic, antialiased: Pillow's rule) and mirror: (N, h, w, 3) uint8 -> (N, 3, H, W) float.

    Only the upper left `sources[n]` pixels (h, w) of a picture are its own; the others never show.
    """
    device = pictures.device
    sides = torch.tensor([[*source] for source in sources], dtype=torch.float32)
    boxes = torch.tensor([change.box for change in changes], dtype=torch.float32)
    low, high = boxes[:, [1, 0]] * sides, boxes[:, [3, 2]] * sides  # (N, 2): rows, columns
    mirrored = torch.tensor([change.mirrored for change in changes])
    first, step = low, high - low
    first[mirrored, 1], step[mirrored, 1] = high[mirrored, 1], -step[mirrored, 1]
    if device.type == "cpu":
        each = zip(pictures, sources, first.tolist(), step.tolist(), strict=True)
        return torch.stack(
            [cropped_one(picture[:h, :w], tuple(low), tuple(way), size) for picture, (h, w), low, way in each]
        )
    sides, first, step = (values.to(device, non_blocking=True) for values in (sides, first, step))
    return cropped_together(pictures, sides, first, step, size)


def recoloured(images: Tensor, changes: Sequence[Change]) -> Tensor:
    """Jitter, gamma, gains, grey, blur and inverted highlights of images (N, 3, H, W), each as its change says."""
    device = images.device
    if device.type == "cpu" and len(images) > 1:  # one picture fits the nearest memory, a batch does not
        return torch.cat([recoloured(image[None], [change]) for image, change in zip(images, changes, strict=True)])
    factors = torch.tensor([change.factors or (1.0, 1.0, 1.0, 0.0) for change in changes])
    others = torch.tensor([[change.gamma, change.sigma or 1.0, *change.gains] for change in changes])
    factors, others = factors.to(device, non_blocking=True), others.to(device, non_blocking=True)
    images = images.clone()
    for place in range(4):
        for kind, change_colour in enumerate((_brighter, _contrasted, _saturated, _turned)):
            rows = [n for n, c in enumerate(changes) if c.factors is not None and c.order[place] == kind]
            _apply(images, rows, lambda some, index: change_colour(some, factors[index, kind]))  # noqa: B023
    rows = [n for n, change in enumerate(changes) if change.gamma != 1.0]
    _apply(images, rows, lambda some, index: some.pow(others[index, 0, None, None, None]))
    rows = [n for n, change in enumerate(changes) if change.gains != (1.0, 1.0, 1.0)]
    _apply(images, rows, lambda some, index: some * others[index, 2:, None, None])
    rows = [n for n, change in enumerate(changes) if change.grey]
    _apply(images, rows, lambda some, index: grey(some).expand(-1, 3, -1, -1))
    rows = [n for n, change in enumerate(changes) if change.sigma]
    _apply(images, rows, lambda some, index: blurred(some, others[index, 1]))
    rows = [n for n, change in enumerate(changes) if change.solarised]
    _apply(images, rows, lambda some, index: torch.where(some >= 0.5, 1 - some, some))
    rows = [n for n, change in enumerate(changes) if change.noise]
    _apply(images, rows, lambda some, index: some + _noise([changes[n] for n in rows], some))
    return images


@lru_cache(maxsize=2)
def _sheet(height: int, width: int, device: str) -> Tensor:
    """Unit noise (3, H + SHEET, W + SHEET), the same on every device."""
    noise = torch.randn(3, height + SHEET, width + SHEET, generator=torch.Generator().manual_seed(71))
    return noise.to(device)


def _noise(changes: Sequence[Change], images: Tensor) -> Tensor:
    """What is added to images (N, 3, H, W): a piece of the sheet for each."""
    height, width = images.shape[-2:]
    sheet = _sheet(height, width, str(images.device))
    pieces = [sheet[:, y : y + height, x : x + width] * c.noise for c in changes for y, x in [c.grain]]
    return torch.stack(pieces)


def _apply(images: Tensor, rows: list[int], change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change some of the images in place; which ones is known on the CPU, so that a GPU is not waited for."""
    if len(rows) == len(images):
        torch.clamp(change(images, torch.arange(len(images), device=images.device)), 0, 1, out=images)
    elif rows:
        index = torch.tensor(rows).to(images.device, non_blocking=True)
        images[index] = change(images[index], index).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = GREY
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]


def _brighter(images: Tensor, factor: Tensor) -> Tensor:
    return images * factor[:, None, None, None]


def _contrasted(images: Tensor, factor: Tensor) -> Tensor:
    mean = grey(images).mean((2, 3), keepdim=True)
    return mean + factor[:, None, None, None] * (images - mean)


def _saturated(images: Tensor, factor: Tensor) -> Tensor:
    without = grey(images)
    return without + factor[:, None, None, None] * (images - without)


def _turned(images: Tensor, turns: Tensor) -> Tensor:
    """The same value and saturation, the hue turned by a share of the full circle."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    inverse = spread.clamp(min=1e-12).reciprocal_()
    sector = torch.where(
        value == red,
        (green - blue).mul_(inverse),
        torch.where(value == green, (blue - red).mul_(inverse).add_(2), (red - green).mul_(inverse).add_(4)),
    )  # in sixths of the circle
    sector += 6 * turns[:, None, None]
    turned = torch.empty_like(images)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        # A channel falls from `value` by `spread` with the distance of its sector, kept within [0, 1].
        around = sector + offset
        around -= torch.floor(around * (1 / 6)).mul_(6)
        share = torch.minimum(around, 4 - around).clamp_(0, 1)
        torch.sub(value, share.mul_(spread), out=turned[:, channel])
    return turned


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """A 9x9 Gaussian blur of (N, 3, H, W) by `sigma` (N,) pixels, mirrored at the borders."""
    taps = torch.arange(-BLUR, BLUR + 1, device=images.device)
    kernel = torch.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).T[..., None, None, None]  # (9, N, 1, 1, 1)
    for axis in (2, 3):
        padding = (0, 0, BLUR, BLUR) if axis == 2 else (BLUR, BLUR, 0, 0)
        padded = F.pad(images, padding, mode="reflect")
        parts = (padded.narrow(axis, tap, images.shape[axis]) for tap in range(2 * BLUR + 1))
        images = sum((weight * part for weight, part in zip(kernel, parts, strict=True)), torch.zeros(()))
    return images
