"""A scene of the analytic room from picture files: landscape, one the model crops, EXIF portrait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analytic_room import AllKnowing, Shot, circle, render
from by_model import reconstruct
from manyview.geometry import cameras, poses
from manyview.scene.scene import Scene

UNIT = 2.0  # room metres per scene unit
SIZES = [(240, 320), (233, 350), (320, 240)]


def save_with_exif_rotation(picture: np.ndarray, path: Path) -> None:
    """Store an upright picture lying on its side, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90).save(path, quality=98, exif=exif)


@pytest.fixture(scope="session")
def shots() -> list[Shot]:
    return [
        Shot(pose, cameras.intrinsics_matrix(300, 300, w / 2, h / 2).double(), (h, w))
        for pose, (h, w) in zip(circle(3), SIZES, strict=True)
    ]


@pytest.fixture(scope="session")
def photos(shots: list[Shot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(shots[0].picture()).save(folder / "1 first.png")
    Image.fromarray(shots[1].picture()).save(folder / "2.jpg", quality=98)
    save_with_exif_rotation(shots[2].picture(), folder / "3.jpg")
    return folder


@pytest.fixture(scope="session")
def scene(shots: list[Shot], photos: Path) -> Scene:
    return reconstruct(photos, model=AllKnowing(shots, unit=UNIT), device="cpu")


@pytest.fixture(scope="session")
def known_points(shots: list[Shot]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per view some true points in the scene's frame (N, 3) and the original pixels that see them (N, 2)."""
    first_from_world = poses.invert(shots[0].cam2world)
    known = []
    for shot in shots:
        depth, _ = render(shot.cam2world, shot.intrinsics, *shot.size)
        rows, columns = torch.meshgrid(
            torch.arange(3, shot.size[0], 31), torch.arange(3, shot.size[1], 37), indexing="ij"
        )
        rows, columns = rows.flatten(), columns.flatten()
        local = cameras.rays(shot.intrinsics, *shot.size)[rows, columns] * depth[rows, columns, None]
        points = poses.apply(first_from_world @ shot.cam2world, local) / UNIT
        known.append((points.numpy(), np.stack([columns + 0.5, rows + 0.5], -1)))
    return known
