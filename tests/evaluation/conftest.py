"""A tiny posed RGB-D world whose images say the depth, and models that read it, to know what scores must come out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.data.manifest import Frame, Manifest
from manyview.geometry import pointmaps, poses
from manyview.geometry.cameras import intrinsics_matrix

HEIGHT, WIDTH = 28, 42
INTRINSICS = intrinsics_matrix(40.0, 40.0, 21.0, 14.0)


def cam2world(number: int) -> torch.Tensor:
    return poses.look_at(torch.tensor([0.3 * number, -3.0, 0.2 * number]), torch.tensor([0.1 * number, 0.0, 0.0]))


def grey_of(number: int) -> np.ndarray:
    """(H, W) uint8; metres = 1 + grey / 100."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.sin(u / 7 + number) + np.cos(v / 5 - number / 2) + (u > 20 + number) * 1.0
    return (60 + 40 * waves + 30).clip(0, 255).astype(np.uint8)


def write_world(root: Path, *, numbers: range, scene: str = "room", holes: bool = True) -> Manifest:
    """A frame per number; depth has a hole; the image is whole."""
    (root / scene).mkdir(parents=True)
    frames = []
    for number in numbers:
        grey = grey_of(number)
        depth = 1000 + 10 * grey.astype(np.uint16)
        if holes:
            depth[2:6, 3:9] = 0
        name = f"{scene}/{number:03d}"
        Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(root / f"{name}.png")
        Image.fromarray(depth).save(root / f"{name}_depth.png")
        fx, fy, cx, cy = 40.0, 40.0, 21.0, 14.0
        pose = tuple(cam2world(number).double().flatten().tolist())
        frames.append(
            Frame(
                "world",
                scene,
                f"{number:03d}",
                "test",
                f"{name}.png",
                WIDTH,
                HEIGHT,
                fx,
                fy,
                cx,
                cy,
                pose,
                f"{name}_depth.png",
                0.001,
            )
        )
    return Manifest(frames, root)


class Reader:
    """Reads the depth that the images say: perfect up to `scale`, spoiled by `noise` (relative) or all `broken`."""

    config = SimpleNamespace(image_size=WIDTH, patch_size=14)

    def __init__(self, *, scale: float = 1.0, noise: float = 0.0, broken: bool = False) -> None:
        self.scale, self.noise, self.broken = scale, noise, broken
        self.fingerprint = f"reader {scale} {noise} {broken}"
        self.asked: list[int] = []

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        views = images.shape[1]
        self.asked.append(views)
        depth = 1 + images.mean(2) * 2.55  # (1, V, H, W)
        noise = torch.randn(depth.shape, generator=torch.Generator().manual_seed(0))
        local = self.scale * pointmaps.unproject(depth * (1 + self.noise * noise), INTRINSICS)
        if self.broken:
            local[:] = torch.nan
        return {"pointmap_local": local, "pointmap": local, "confidence_local": torch.ones_like(depth)}


@pytest.fixture
def world(tmp_path) -> Manifest:
    return write_world(tmp_path / "world", numbers=range(5))


@pytest.fixture
def reader() -> type[Reader]:
    return Reader
