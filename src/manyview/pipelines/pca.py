"""Features as colours: the first three principal components of a whole set, so that colours mean the same in all.

Writes OUT/pca/NAME.png at the network's size, OUT/pca.png (photos beside their colours) and the basis itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.images.inputs import FitFor, Photo, Pictures, read_ahead
from manyview.images.writing import write_picture
from manyview.pipelines.feature_set import FeatureSet
from manyview.pipelines.picture_table import Cell, Row, places, table
from manyview.progress import track

MOST_SAMPLES = 40_000
MOST_ON_SHEET, ON_A_ROW = 24, 3
BLANK = Cell(np.full((1, 1, 3), 255, np.uint8))


@dataclass(frozen=True)
class Basis:
    """Where the colours come from: rgb = (directions (x - mean) - low) / (high - low), clipped."""

    mean: np.ndarray  # (D,)
    directions: np.ndarray  # (3, D)
    low: np.ndarray  # (3,) 1st percentile of the projections
    high: np.ndarray  # (3,) 99th percentile
    explained: np.ndarray  # (3,) share of the variance

    def colours(self, patches: np.ndarray) -> np.ndarray:
        """(..., D) -> uint8 (..., 3)."""
        values = (np.asarray(patches, np.float32) - self.mean) @ self.directions.T
        shares = (values - self.low) / np.maximum(self.high - self.low, 1e-12)
        return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)

    def write(self, path: Path) -> None:
        write_bytes(path, save({k: np.ascontiguousarray(v) for k, v in vars(self).items()}))


def fit_basis(maps: Iterable[np.ndarray], count: int, *, seed: int = 0) -> Basis:
    """The basis of `count` maps (h, w, D), from at most about 40,000 patches drawn evenly from all of them."""
    generator = np.random.default_rng(seed)
    share = max(1, MOST_SAMPLES // max(1, count))
    samples = []
    for patches in maps:
        flat = patches.reshape(-1, patches.shape[-1])
        chosen = generator.permutation(len(flat))[:share]
        samples.append(np.asarray(flat[np.sort(chosen)], np.float32))
    drawn = np.concatenate(samples)
    if len(drawn) < 4 or drawn.shape[1] < 3 or not np.isfinite(drawn).all():
        raise UserError(
            f"{len(drawn)} patches of {drawn.shape[1]} finite channels are too few for three components; "
            "leave the pictures of components away"
        )
    mean = drawn.mean(0, dtype=np.float64)
    centred = (drawn - mean).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(drawn))
    directions = vectors[:, ::-1][:, :3].T
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    directions = directions * np.sign(largest)  # a sign that does not depend on the solver
    low, high = np.percentile(centred @ directions.T, [1, 99], axis=0)
    explained = values[::-1][:3] / max(values.sum(), 1e-30)
    return Basis(*(np.asarray(v, np.float32) for v in (mean, directions, low, high, explained)))


def write_components(folder: Path, features: FeatureSet, photos: Pictures, fit_for: FitFor) -> dict[str, Any]:
    """A PNG of a set's components for every picture, the basis, and a sheet beside the photos; what it wrote."""
    count = len(features)
    basis = fit_basis((one.patches for one in track(features, total=count, label="components")), count)
    for one in track(features, total=count, label="colours", unit="image"):
        colours = Image.fromarray(basis.colours(one.patches))  # a patch is a square, nothing is smoothed
        colours = colours.resize(one.size[::-1], Image.Resampling.NEAREST)
        write_picture(folder / "pca" / f"{one.name}.png", np.asarray(colours))
    basis.write(folder / "pca" / "basis.safetensors")
    chosen = places(count, MOST_ON_SHEET)
    place = {name: index for index, name in enumerate(features.names) if index in chosen}
    shown = read_ahead((item for item in photos.items if item.name in place), fit_for)
    pairs = [
        (Cell(photo.image, photo.name, smooth=True), Cell(basis.colours(features[place[photo.name]].patches)))
        for photo in shown
        if isinstance(photo, Photo)
    ]
    pairs += [(BLANK, BLANK)] * (-len(pairs) % ON_A_ROW)
    rows = [Row("", [*chain(*pairs[start : start + ON_A_ROW])]) for start in range(0, len(pairs), ON_A_ROW)]
    sheet = table(["photo", "components"] * ON_A_ROW, rows, side=150)
    write_picture(folder / "pca.png", sheet)
    return {"explained": basis.explained.tolist(), "sheet": "pca.png", "pictures": "pca/"}
