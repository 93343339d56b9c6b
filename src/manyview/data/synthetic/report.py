"""What the scenes show: the share of every class, whether its objects can be told apart, and a sheet of pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyview.data.synthetic.models import CLASSES, STRUCTURE
from manyview.data.synthetic.scene import RenderedScene, render_scene
from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.images.writing import encoded
from manyview.progress import track

CROP = 24  # pixels a side of a crop
GRID = 12  # cells a side of what the classifier sees of it
VIEWS_OF_EACH = 8  # crops of one object, at most
RIDGE = 0.5  # relative to the mean square of the features
SMALLEST = 8  # pixels: sides of the smallest object that becomes a crop


@dataclass
class ClassReport:
    """Shares of all pixels by class, and how well a linear classifier names the object in a crop."""

    shares: dict[str, float]
    accuracy: float  # mean over classes of the share of test crops named rightly, from colours and edges
    accuracy_of_pixels: float  # the same from the colours alone
    chance: float  # one over the number of classes tested
    per_class: dict[str, float]
    crops: int  # of training and test together

    @property
    def rarest(self) -> tuple[str, float]:
        return min(self.shares.items(), key=lambda item: item[1])


def class_report(
    seeds: int = 50, *, views: int = 8, size: tuple[int, int] = (112, 154), first: int = 0, progress: bool | None = None
) -> ClassReport:
    """Render `seeds` scenes, count their pixels, and teach a ridge classifier on half of them to name the others."""
    if seeds < 2:
        raise UserError(f"a report over {seeds} scenes has nothing to test on; use at least 2")
    counts = torch.zeros(len(CLASSES), dtype=torch.float64)
    halves: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
    seen = range(first, first + seeds)
    for seed in track(seen, total=seeds, label="scenes", unit="scene", enabled=progress):
        scene = render_scene(seed, views=views, size=size)
        counts += torch.bincount(scene.labels.flatten().long(), minlength=len(CLASSES))
        halves[seed % 2].append(crops(scene))
    (train, names), (test, truth) = ([torch.cat(column) for column in zip(*half)] for half in halves)
    mirrored = torch.cat([train, train.flip(-1)])  # a mirrored chair is a chair
    per_class, of_pixels = (
        linear_probe(read(mirrored), names.repeat(2), read(test), truth) for read in (features, _cells)
    )
    return ClassReport(
        shares=dict(zip(CLASSES, (counts / counts.sum()).tolist())),
        accuracy=float(np.mean([*per_class.values()] or [0.0])),
        accuracy_of_pixels=float(np.mean([*of_pixels.values()] or [0.0])),
        chance=1 / max(len(per_class), 1),
        per_class=per_class,
        crops=len(names) + len(truth),
    )


def crops(scene: RenderedScene) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, CROP, CROP) around furniture and objects with some of what surrounds them, and labels (N,).

    A few views of every object at most; none of what is smaller than SMALLEST pixels or mostly hidden.
    """
    pictures, names = [], []
    shown: Counter[int] = Counter()
    for view, instances in enumerate(scene.instances):
        for instance in instances.unique().tolist():
            rows, columns = (instances == instance).nonzero(as_tuple=True)
            (top, left), (bottom, right) = ((int(f(rows)), int(f(columns))) for f in (torch.min, torch.max))
            height, width = bottom + 1 - top, right + 1 - left
            name = int(scene.labels[view, rows[0], columns[0]])
            hidden = min(height, width) < SMALLEST or len(rows) < 0.2 * height * width
            if hidden or name < len(STRUCTURE) or shown[instance] >= VIEWS_OF_EACH:
                continue
            shown[instance] += 1
            margin = int(0.1 * max(height, width)) + 1
            across = slice(max(0, left - margin), right + 1 + margin)
            window = scene.images[view : view + 1, :, max(0, top - margin) : bottom + 1 + margin, across]
            pictures.append(torch.nn.functional.interpolate(window, (CROP, CROP), mode="bilinear", antialias=True))
            names.append(name)
    return torch.cat([torch.zeros(0, 3, CROP, CROP), *pictures]), torch.tensor(names, dtype=torch.int64)


def features(images: Tensor) -> Tensor:
    """Colours and strengths of edges across and along, averaged in cells: (N, 3, CROP, CROP) -> (N, 5 GRID^2)."""
    grey = images.mean(1, keepdim=True)
    across = torch.nn.functional.pad(grey[..., 1:] - grey[..., :-1], (0, 1)).abs()
    along = torch.nn.functional.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1)).abs()
    return _cells(torch.cat([images, 2 * across, 2 * along], 1))


def _cells(images: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(images, (GRID, GRID), mode="area").flatten(1)


def linear_probe(train: Tensor, names: Tensor, test: Tensor, truth: Tensor) -> dict[str, float]:
    """Recall by class of a class-balanced ridge classifier from rows of features to names."""
    present = [c for c in range(len(CLASSES)) if (names == c).sum() >= 3 and (truth == c).sum() >= 3]
    if not present:
        return {}
    mean = train.mean(0, keepdim=True)
    x = torch.nn.functional.pad(train - mean, (0, 1), value=1.0).double()
    y = torch.nn.functional.pad(test - mean, (0, 1), value=1.0).double()
    targets = (names[:, None] == torch.tensor(present)[None]).double()
    weight = (targets / targets.sum(0).clamp(min=1)).sum(1, keepdim=True)
    gram = x.T @ (x * weight)
    gram += torch.eye(len(gram), dtype=gram.dtype) * gram.diagonal().mean() * RIDGE
    answer = (y @ torch.linalg.solve(gram, x.T @ (targets * weight))).argmax(1)
    answer = torch.tensor(present)[answer]
    return {CLASSES[c]: float((answer[truth == c] == c).double().mean()) for c in present}


def contact_sheet(
    path: str | Path, *, columns: int = 6, rows: int = 6, size: tuple[int, int] = (132, 200), seed: int = 0
) -> Path:
    """Write a sheet of scenes, one view each; every third row ends with the depth, normals and labels of its third."""
    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"cannot write a picture to {path}; name a .jpg or .png file")
    tiles: list[Tensor] = []
    while len(tiles) < columns * rows:
        scene = render_scene(seed, views=3, size=size)
        tiles.append(scene.images[1])
        row, column = divmod(len(tiles), columns)
        if row % 3 == 0 and column == columns - 3:
            tiles += _coloured_maps(scene, 1)
        seed += 1
    grid = torch.stack(tiles[: columns * rows]).unflatten(0, (rows, columns))  # (rows, columns, 3, H, W)
    grid = torch.nn.functional.pad(grid, (2, 2, 2, 2), value=1.0)
    sheet = (grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1) * 255 + 0.5).to(torch.uint8)
    write_bytes(path, encoded(sheet.numpy(), path.suffix.lower()))
    return path


def _coloured_maps(scene: RenderedScene, view: int) -> list[Tensor]:
    """Depth (near is warm, far is cold), normals, and labels in a fixed colour for every class: (3, H, W) each."""
    near = 1 / scene.depth[view]
    t = ((near - near.min()) / (near.max() - near.min() + 1e-6)).sqrt()
    depth = torch.stack([t, 0.25 + 0.6 * (1 - (2 * t - 1).abs()), 1 - t]).clamp(0, 1)
    normals = (scene.normals[view] * torch.tensor([0.5, -0.5, -0.5]) + 0.5).permute(2, 0, 1).clamp(0, 1)
    steps, shifts = torch.tensor([[0.618, 0.381, 0.786], [0.2, 0.6, 0.4]])
    palette = (torch.arange(len(CLASSES))[:, None] * steps + shifts) % 1.0
    return [depth, normals, (0.2 + 0.75 * palette).T[:, scene.labels[view].long()]]
