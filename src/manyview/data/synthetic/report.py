"""What the scenes show: the share of every class, whether its objects can be told apart, and a sheet of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyview.data.synthetic.models import CLASSES, STRUCTURE
from manyview.data.synthetic.scene import RenderedScene, render_scene
from manyview.errors import UserError
from manyview.files import write_bytes
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
    seeds: int = 50,
    *,
    views: int = 8,
    size: tuple[int, int] = (112, 154),
    first: int = 0,
    progress: bool | None = None,
) -> ClassReport:
    """Render `seeds` scenes, count their pixels, and teach a ridge classifier on half of them to name the others."""
    if seeds < 2:
        raise UserError(f"a report over {seeds} scenes has nothing to test on; use at least 2")
    counts = torch.zeros(len(CLASSES), dtype=torch.int64)
    sides: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
    for seed in track(
        range(first, first + seeds), total=seeds, label="scenes", unit="scene", enabled=progress
    ):
        scene = render_scene(seed, views=views, size=size)
        counts += torch.bincount(scene.labels.flatten().long(), minlength=len(CLASSES))
        sides[seed % 2].append(crops(scene))
    train, test = ([torch.cat(column) for column in zip(*side)] for side in sides)
    train = [torch.cat([train[0], train[0].flip(-1)]), train[1].repeat(2)]  # a mirrored chair is a chair
    per_class = linear_probe(features(train[0]), train[1], features(test[0]), test[1])
    of_pixels = linear_probe(_cells(train[0]), train[1], _cells(test[0]), test[1])
    shares = counts.double() / counts.sum()
    return ClassReport(
        shares=dict(zip(CLASSES, shares.tolist())),
        accuracy=float(np.mean(list(per_class.values()))) if per_class else 0.0,
        accuracy_of_pixels=float(np.mean(list(of_pixels.values()))) if of_pixels else 0.0,
        chance=1 / max(len(per_class), 1),
        per_class=per_class,
        crops=len(train[1]) // 2 + len(test[1]),
    )


def crops(scene: RenderedScene) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, CROP, CROP) around furniture and objects with some of what surrounds them, and labels (N,).

    A few views of every object at most; none of what is smaller than SMALLEST pixels or mostly hidden.
    """
    pictures, names = [], []
    seen: dict[int, int] = {}
    height, width = scene.depth.shape[1:]
    for view in range(len(scene.images)):
        for instance in scene.instances[view].unique().tolist():
            if seen.get(instance, 0) >= VIEWS_OF_EACH:
                continue
            rows, columns = (scene.instances[view] == instance).nonzero(as_tuple=True)
            top, bottom = int(rows.min()), int(rows.max()) + 1
            left, right = int(columns.min()), int(columns.max()) + 1
            if min(bottom - top, right - left) < SMALLEST or len(rows) < 0.2 * (bottom - top) * (
                right - left
            ):
                continue
            name = int(scene.labels[view, rows[0], columns[0]])
            if name < len(STRUCTURE):
                continue
            seen[instance] = seen.get(instance, 0) + 1
            margin = int(0.1 * max(bottom - top, right - left)) + 1
            window = scene.images[
                view : view + 1, :, max(0, top - margin) : min(height, bottom + margin),
                max(0, left - margin) : min(width, right + margin),
            ]  # fmt: skip
            pictures.append(
                torch.nn.functional.interpolate(window, (CROP, CROP), mode="bilinear", antialias=True)
            )
            names.append(name)
    images = torch.cat(pictures) if pictures else torch.zeros(0, 3, CROP, CROP)
    return images, torch.tensor(names, dtype=torch.int64)


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
    import cv2

    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"cannot write a picture to {path}; name a .jpg or .png file")
    tiles: list[Tensor] = []
    while len(tiles) < columns * rows:
        scene = render_scene(seed, views=3, size=size)
        tiles.append(scene.images[1])
        row, column = divmod(len(tiles), columns)
        if row % 3 == 0 and column == columns - 3:
            tiles += [
                _coloured_depth(scene.depth[1]),
                _coloured_normals(scene.normals[1]),
                _coloured(scene.labels[1]),
            ]
        seed += 1
    grid = torch.stack(tiles[: columns * rows]).unflatten(0, (rows, columns))  # (rows, columns, 3, H, W)
    grid = torch.nn.functional.pad(grid, (2, 2, 2, 2), value=1.0)
    sheet = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 80] if path.suffix.lower() in (".jpg", ".jpeg") else []
    _, content = cv2.imencode(
        path.suffix.lower(), (sheet.flip(-1) * 255 + 0.5).to(torch.uint8).numpy(), quality
    )
    write_bytes(path, content.tobytes())
    return path


def _coloured_depth(depth: Tensor) -> Tensor:
    """Near is warm, far is cold: (3, H, W)."""
    near = 1 / depth
    t = ((near - near.min()) / (near.max() - near.min() + 1e-6)).sqrt()
    return torch.stack([t, 0.25 + 0.6 * (1 - (2 * t - 1).abs()), 1 - t]).clamp(0, 1)


def _coloured_normals(normals: Tensor) -> Tensor:
    return ((normals * normals.new_tensor([1.0, -1.0, -1.0]) + 1) / 2).permute(2, 0, 1).clamp(0, 1)


def _coloured(labels: Tensor) -> Tensor:
    """A fixed colour for every class."""
    number = torch.arange(len(CLASSES), dtype=torch.float32)
    palette = torch.stack(
        [(number * step + shift) % 1.0 for step, shift in ((0.618, 0.2), (0.381, 0.6), (0.786, 0.4))]
    )
    return (0.2 + 0.75 * palette)[:, labels.long()]
