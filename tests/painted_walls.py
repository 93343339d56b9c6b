"""Scenes a network can learn in seconds: a painted wall seen from places whose colours give them away."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from manyview.data.manifest import Frame, Manifest

HEIGHT, WIDTH, FOCAL, AWAY = 24, 32, 32.0, 2.0


def write_walls(
    root: Path, *, scenes: Iterable[str], frames: int = 4, seed: int = 0, turned: bool = False
) -> list[Frame]:
    """A wall two metres away, red growing to the right and green downwards; cameras shift along it.

    What is in a picture says where on the wall it is, but only the other picture says where that is from there.
    `turned`: portrait frames.
    """
    rng, rows = np.random.default_rng(seed), []
    height, width = (WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH)
    v, u = np.mgrid[:height, :width] + 0.5
    for scene in scenes:
        for number in range(frames):
            pose = np.eye(4)
            pose[:2, 3] = rng.uniform(-1.2, 1.2), rng.uniform(-0.6, 0.6)
            x, y = pose[0, 3] + (u - width / 2) / FOCAL * AWAY, pose[1, 3] + (v - height / 2) / FOCAL * AWAY
            picture = np.stack([128 + 50 * x, 128 + 70 * y, np.full_like(x, 100)], -1)
            picture += rng.normal(0, 2, picture.shape)
            name = f"{scene}-{number}"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"{name}.png")
            depth = np.full((height, width), 1000 * AWAY, np.uint16)
            Image.fromarray(depth).save(root / f"{name}-depth.png")
            rows.append(
                Frame(
                    "walls",
                    scene,
                    str(number),
                    scene.rstrip("0123456789"),
                    f"{name}.png",
                    width,
                    height,
                    FOCAL,
                    FOCAL,
                    width / 2,
                    height / 2,
                    tuple(pose.ravel()),
                    f"{name}-depth.png",
                    0.001,
                )
            )
    return rows


def save_walls(root: Path, **counts: int) -> Path:
    """A manifest with so many scenes of each split: save_walls(root, train=30, test=10)."""
    rows: list[Frame] = []
    for seed, (split, count) in enumerate(counts.items()):
        rows += write_walls(root, scenes=[f"{split}{i}" for i in range(count)], seed=seed)
    return Manifest(rows, root).save(root / "m.parquet")
