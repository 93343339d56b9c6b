"""Drawn people: jointed figures before cluttered backgrounds, with a body part per pixel.

A domain unlike rooms, for distilling from unlike teachers: what a pixel is follows from the pose of a whole body.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.files import fresh_file
from manyview.progress import track

PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg", "hand", "foot")
SHARPER = 3  # drawn this much larger, then shrunk

# Limbs in drawing order: part, length, width in torso lengths, and the spread of its angle at the joint (radians).
ARM = (("upper arm", 0.62, 0.22, 1.3), ("lower arm", 0.55, 0.18, 1.2), ("hand", 0.16, 0.2, 0.3))
LEG = (("upper leg", 0.85, 0.3, 0.6), ("lower leg", 0.8, 0.24, 0.6), ("foot", 0.28, 0.2, 0.2))


def render_figures(seed: int, size: tuple[int, int] = (112, 112)) -> tuple[np.ndarray, np.ndarray]:
    """One picture (H, W, 3) uint8 and its parts (H, W) uint8, indices into PARTS."""
    rng = np.random.default_rng([seed, 41])
    height, width = size[0] * SHARPER, size[1] * SHARPER
    picture = _background(rng, height, width)
    parts = Image.new("L", (width, height), 0)
    for _ in range(int(rng.integers(1, 4))):
        _person(ImageDraw.Draw(picture), ImageDraw.Draw(parts), rng, (height, width))
    small = picture.resize((size[1], size[0]), Image.Resampling.BOX)
    noisy = np.asarray(small).astype(np.float32) + rng.normal(0, rng.uniform(1, 8), (*size, 3))
    labels = parts.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return noisy.clip(0, 255).astype(np.uint8), np.asarray(labels)


def _background(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A smooth wash of colours under bars and discs that look like limbs and heads but belong to nobody."""
    coarse = rng.integers(30, 226, (int(rng.integers(2, 6)), int(rng.integers(2, 6)), 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 14))):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach, angle = rng.uniform(0.05, 0.5) * height, rng.uniform(0, math.pi)
        if rng.random() < 0.6:
            end = (x + reach * math.cos(angle), y + reach * math.sin(angle))
            draw.line([(x, y), end], fill=colour, width=int(rng.uniform(0.01, 0.06) * height))
        else:
            _disc(draw, (x, y), reach / 6, colour)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2 * SHARPER))))


def _person(
    draw: ImageDraw.ImageDraw, parts: ImageDraw.ImageDraw, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    """Legs, arms and torso from the hips up; the body leans, joints bend at random."""
    height, width = size
    torso = height * rng.uniform(0.18, 0.36)
    hips = np.array([rng.uniform(0.1, 0.9) * width, rng.uniform(0.35, 0.8) * height])
    lean = rng.normal(0, 0.25)
    up = np.array([math.sin(lean), -math.cos(lean)])
    side = np.array([-up[1], up[0]])
    neck = hips + torso * up
    skin, shirt, trousers = (tuple(int(c) for c in rng.integers(20, 240, 3)) for _ in range(3))
    bare = rng.random() < 0.4  # short sleeves: the colour does not tell an arm from a hand
    both = (draw, parts)
    for sign in (-1, 1):
        _chain(both, rng, hips + sign * 0.14 * torso * side, LEG, lean, torso, [trousers, trousers, skin])
    for sign in (-1, 1):
        colours = [shirt, skin if bare else shirt, skin]
        _chain(both, rng, neck + sign * 0.24 * torso * side, ARM, lean + sign * 0.4, torso, colours)
    for canvas, body, face in ((draw, shirt, skin), (parts, PARTS.index("torso"), PARTS.index("head"))):
        _limb(canvas, hips, neck, 0.5 * torso, body)
        _disc(canvas, neck + 0.3 * torso * up, 0.2 * torso, face)


def _chain(
    canvases: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    rng: np.random.Generator,
    start: np.ndarray,
    limbs: tuple[tuple[str, float, float, float], ...],
    angle: float,
    unit: float,
    colours: list[tuple[int, ...]],
) -> None:
    """Limbs hanging from one another, each bent from the one before."""
    for (name, length, width, spread), colour in zip(limbs, colours, strict=True):
        angle += float(rng.normal(0, spread))
        end = start + length * unit * np.array([math.sin(angle), math.cos(angle)])
        shade = tuple(int(c * rng.uniform(0.8, 1.0)) for c in colour)
        for canvas, fill in zip(canvases, (shade, PARTS.index(name))):
            _limb(canvas, start, end, width * unit, fill)
        start = end


def _limb(canvas: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, width: float, fill: Any) -> None:
    canvas.line([tuple(start), tuple(end)], fill=fill, width=max(1, int(width)))
    for point in (start, end):
        _disc(canvas, point, width / 2, fill)


def _disc(canvas: ImageDraw.ImageDraw, centre: Any, radius: float, fill: Any) -> None:
    x, y = centre
    canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def write_figures(out: str | Path, *, count: int, size: tuple[int, int] = (112, 112), seed: int = 0) -> Path:
    """Pictures 0 .. `count` - 1 with their parts into `out`; returns the manifest's path. What is there is kept."""
    if count < 1:
        raise UserError(f"count is {count}; draw at least one picture")
    out = Path(out)
    frames = []
    for index in track(range(count), label="figures", unit="picture"):
        name = f"{index:06d}"
        image, labels = f"images/{name}.png", f"labels/{name}.png"
        if not ((out / image).is_file() and (out / labels).is_file()):
            picture, parts = render_figures(seed * 1_000_000 + index, size)
            for path, array in ((labels, parts), (image, picture)):
                with fresh_file(out / path) as draft:
                    Image.fromarray(array).save(draft, "PNG")
        frames.append(
            Frame("manyview-figures", f"figure_{name}", name, "train", image, size[1], size[0], labels=labels)
        )
    info = {"generator": "manyview figures", "classes": list(PARTS), "seed": seed}
    return Manifest(frames, out, info).save(out / "manifest.parquet")
