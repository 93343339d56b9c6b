"""Pictures whose colours tell class and depth, and an encoder that sees colours: a world of known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from manyview.data.manifest import Frame, Manifest
from manyview.models.model import EncodesImages
from manyview.models.vit import EncoderConfig
from manyview.types import Features

SIDE, PATCH = 32, 8


class Seer(nn.Module, EncodesImages):
    """Its tokens hold the mean colour of the patch, in which the pictures below write class and depth."""

    config = EncoderConfig(dim=3, patch_size=PATCH, image_size=SIDE)
    patch_size = PATCH

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind, self.encoded = blind, 0
        self.scale = nn.Parameter(torch.ones(1))

    def untrained(self, seed: int) -> Seer:
        return Seer(blind=True)

    def encode(self, images, mask=None, norm=True, layers=None) -> Features:
        self.encoded += len(images)
        patches = nn.functional.avg_pool2d(images, PATCH).flatten(2).transpose(1, 2)
        if self.blind:
            patches = torch.rand(patches.shape, generator=torch.Generator().manual_seed(len(images)))
        return Features(patches, None, None, (images.shape[-2] // PATCH, images.shape[-1] // PATCH))


def draw(folder: Path, count: int = 24, classes: int = 3, shapes: tuple[tuple[int, int], ...] = ((2, 2),)) -> Manifest:
    """Pictures of squares, each of a class and a depth that its colour tells; some pixels are unknown.

    `shapes`: squares down and across, of one picture after the other.
    """
    rng, frames = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for index in range(count):
        shape = shapes[index % len(shapes)]
        label = rng.integers(0, classes, shape)
        depth = rng.uniform(1, 9, shape)
        colours = np.stack([label * 100 + 20, depth * 25, np.full(shape, 99)], -1)
        big = np.ones((SIDE // 2, SIDE // 2), int)
        labels, far = np.kron(label, big).astype(np.uint8), np.kron(depth, big).astype(np.float32)
        labels[:3], far[:3] = 255, 0
        Image.fromarray(np.kron(colours, big[..., None]).astype(np.uint8)).save(folder / f"{index}.png")
        Image.fromarray(labels).save(folder / f"{index}-labels.png")
        np.save(folder / f"{index}-depth.npy", far)
        frames.append(
            Frame(
                dataset="toy",
                scene=f"scene {index // 2}",
                frame=f"{index}",
                split="",
                image=f"{index}.png",
                width=labels.shape[1],
                height=labels.shape[0],
                labels=f"{index}-labels.png",
                depth=f"{index}-depth.npy",
                depth_scale=1.0,
            )
        )
    return Manifest(frames, folder, {"classes": ["sea", "sand", "sky"][:classes]})


def maps_of(folder: Path) -> np.ndarray | list[np.ndarray]:
    """The maps of an evaluation's folder, in order: (N, h, w), or a list where sizes differ."""
    maps = [np.load(path)["map"] for path in sorted(folder.glob("*.npz"))]
    return np.stack(maps) if len({values.shape for values in maps}) == 1 else maps
