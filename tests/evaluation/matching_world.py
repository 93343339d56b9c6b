"""Posed RGB-D scenes whose pixels say where in the world they are, and encoders that can or cannot read that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from analytic_room import ROOM, render
from manyview.data.manifest import Frame, Manifest
from manyview.geometry import cameras, pointmaps, poses
from manyview.models.model import EncodesImages
from manyview.types import Features

HEIGHT, WIDTH, PATCH, FOCAL = 48, 64, 8, 50.0
INTRINSICS = cameras.intrinsics_matrix(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2).double()


def camera(scene: int, number: int, turn: float = 0.16) -> torch.Tensor:
    """(4, 4) cam2world: scenes look from other sides, frames of a scene from places `turn` (radians) apart."""
    angle = torch.tensor(0.9 * scene + turn * number, dtype=torch.float64)
    eye = torch.stack([1.9 * angle.cos(), 1.9 * angle.sin(), torch.tensor(1.3 + 0.1 * number)])
    target = torch.tensor([0.0, 0.0, 0.7 + 0.05 * number], dtype=torch.float64)
    return poses.look_at(eye.double(), target)


def shoot(cam2world: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8, colour = place in the room, and depth (H, W) uint16 millimetres."""
    depth, _ = render(cam2world, INTRINSICS, HEIGHT, WIDTH)
    places = pointmaps.transform(cam2world, pointmaps.unproject(depth, INTRINSICS))
    share = ((places - ROOM[0]) / (ROOM[1] - ROOM[0])).clamp(0, 1)
    return (share * 255).round().to(torch.uint8).numpy(), (1000 * depth).round().numpy().astype(np.uint16)


def write_scenes(root: Path, *, scenes: range, frames: int = 4, turn: float = 0.16) -> Manifest:
    rows = []
    for scene in scenes:
        (root / f"s{scene}").mkdir(parents=True, exist_ok=True)
        for number in range(frames):
            cam2world = camera(scene, number, turn)
            picture, depth = shoot(cam2world)
            name = f"s{scene}/{number}"
            Image.fromarray(picture).save(root / f"{name}.png")
            Image.fromarray(depth).save(root / f"{name}_depth.png")
            pose = tuple(cam2world.flatten().tolist())
            lens = (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
            rows.append(
                Frame(
                    "room",
                    f"s{scene}",
                    str(number),
                    "train",
                    f"{name}.png",
                    WIDTH,
                    HEIGHT,
                    *lens,
                    pose,
                    f"{name}_depth.png",
                    0.001,
                )
            )
    return Manifest(rows, root)


class PlaceEncoder(EncodesImages):
    """Tokens that are alike where the colour is, and nowhere else: as good as features can be.

    `layers` counts blocks; the first ones see noise. `blind` sees nothing but noise.
    """

    def __init__(self, *, dim: int = 96, blind: bool = False, depth: int = 2) -> None:
        self.config = SimpleNamespace(patch_size=PATCH, image_size=(HEIGHT, WIDTH), dim=dim)
        self.blocks, self.blind = list(range(depth)), blind
        self.fingerprint = f"places {dim} {blind}"
        generator = torch.Generator().manual_seed(3)
        self.directions = 14 * torch.randn(3, dim, generator=generator)
        self.phases = 6.28 * torch.rand(dim, generator=generator)
        self.encoded = 0

    def untrained(self, seed: int) -> PlaceEncoder:
        return PlaceEncoder(dim=self.config.dim, blind=True)

    def encode(self, images: torch.Tensor, norm: bool = True, layers=None):
        self.encoded += len(images)
        centre = images[:, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(2).transpose(1, 2)
        seeing = (centre @ self.directions + self.phases).cos()
        seed = int(1e6 * float(images.double().mean()))
        noise = torch.randn(seeing.shape, generator=torch.Generator().manual_seed(seed))
        grid = (HEIGHT // PATCH, WIDTH // PATCH)
        last = len(self.blocks) - 1
        tokens = [noise if self.blind or layer < last else seeing for layer in (layers or [last])]
        found = [Features(values * (1 if norm else 2), None, None, grid) for values in tokens]
        return found if layers is not None else found[0]
