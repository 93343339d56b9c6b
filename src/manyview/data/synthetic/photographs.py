"""The user's own pictures on the surfaces of procedural worlds: any folder of photos makes them wilder."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.data.synthetic.materials import Material
from manyview.data.synthetic.textures import wave
from manyview.data.synthetic.world import PHOTOGRAPH, World
from manyview.errors import UserError
from manyview.images.fit import cover
from manyview.images.reading import ImageProblem, folder_images, read_fitted

SIDE = 64  # pixels of a picture's square
MOST = 256  # pictures of a folder, evenly chosen
COARSER = 4  # from one level to the next
SHARE = 0.6  # of the parts and faces of a world that get one


@dataclass(frozen=True)
class Photographs:
    """Squares from the middle of K pictures, linear RGB, at three resolutions."""

    levels: tuple[Tensor, ...]  # (1, 3, K, side, side): 64, 16 and 4 pixels a side
    digest: str

    def colour(self, s: Tensor, t: Tensor, scale: Tensor, phase: Tensor, blur: Tensor) -> Tensor:
        """Linear RGB (3, N) at N places, in metres along and across a surface; a picture is `scale` metres wide,
        mirrored where it repeats, `phase` says which, and `blur` how many metres a pixel covers.
        """
        count = self.levels[0].shape[2]
        which = ((phase * 7.13) % 1 * count).floor().clamp(max=count - 1)
        grid = torch.stack([wave(s / (2 * scale)), wave(t / (2 * scale)), 2 * (which + 0.5) / count - 1], -1)
        # In levels: 0 where a pixel covers a texel or less.
        level = ((blur / scale * SIDE).clamp(min=1).log2() / math.log2(COARSER)).clamp(max=len(self.levels) - 1)
        total = torch.zeros(3, len(s), device=s.device)
        for number, pictures in enumerate(self.levels):
            places, texels = grid[None, :, None, None], pictures.to(s.device)
            seen = F.grid_sample(texels, places, padding_mode="border", align_corners=False)[0, :, :, 0, 0]
            total += (1 - (level - number).abs()).clamp(min=0) * seen
        return total


@lru_cache(maxsize=4)
def read_photographs(folder: str) -> Photographs:
    """Of a folder of pictures. Raises UserError when there is none that can be read."""
    paths = folder_images(Path(folder)) if Path(folder).is_dir() else []
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), MOST)).round().astype(int)]
    squares = []
    for path in chosen:
        try:
            squares.append(read_fitted(path, lambda size: cover(size, (SIDE, SIDE)))[0])
        except ImageProblem:
            continue
    if not squares:
        raise UserError(f"{folder}: no pictures for textures there; name a folder with photos, or leave textures away")
    pixels = torch.from_numpy(np.stack(squares)).permute(3, 0, 1, 2).float().div(255).square()
    levels = [pixels[None]]
    while levels[-1].shape[-1] > COARSER:
        levels.append(F.avg_pool3d(levels[-1], (1, COARSER, COARSER)))
    return Photographs(tuple(levels), hashlib.sha256(np.stack(squares).tobytes()).hexdigest())


def hang(world: World, photographs: Photographs, rng: Random) -> None:
    """Pictures in place of most textures of a world."""

    def covered(material: Material) -> Material:
        if material.glow or rng.random() >= SHARE:
            return material
        scale = 0.25 * 10 ** rng.uniform(0, 1)
        return replace(material, texture=PHOTOGRAPH, scale=scale, phase=rng.random())

    world.photographs = photographs
    world.shell = [covered(material) for material in world.shell]
    world.parts = [
        standing._replace(part=replace(standing.part, material=covered(standing.part.material)))
        for standing in world.parts
    ]
