"""Typical attention maps of a photo, block by block: figure 2 of DUNE's supplementary.

From the paper: the attention probabilities of every patch over the patch grid, in the last encoder block and in each
teacher's transformer projector; every map is flattened, all are clustered by k-medoids with k = 9, and the medoids
shown (section C, on 448 x 448 photos). It names scikit-learn-extra and no settings of it. Ours: the mean over the
heads; shares of class token and registers left away, the rest not rescaled; Euclidean distance; PAM, which needs no
seed; medoids of the largest group first; colours from zero to each map's 99.5th percentile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from manyview.engine.device import autocast
from manyview.errors import UserError
from manyview.files import parse_json, write_json
from manyview.images.inputs import Picture, Pictures
from manyview.images.reading import read_image
from manyview.images.writing import write_picture
from manyview.models.attention_maps import recorded
from manyview.models.dune.network import Dune
from manyview.models.dune.projectors import TransformerProjector
from manyview.models.vit import Encoder
from manyview.pages.pictures import colour_map
from manyview.pipelines.encoding import Encoding, photos, some_of
from manyview.pipelines.medoids import euclidean, k_medoids
from manyview.pipelines.opening import evaluating
from manyview.pipelines.picture_table import Cell, Mark, Row, below_each_other, places, table
from manyview.progress import track
from manyview.workfolder import WorkFolder

PAPER_K = 9
LAST_BLOCK = "last block"
MOST_PATCHES = 6_000
MOST_ON_SHEET = 6
NOTE = "manyview"
"""Key of the text in a PNG that says of which photo it is and what it shows."""
MARK = (60, 220, 255)


@dataclass(frozen=True)
class BlockMedoids:
    """The typical attention maps of one block over one photo, the most common first."""

    patches: np.ndarray  # (k, 2) row and column of the patches that look like this
    shares: np.ndarray  # (k,) of the photo's patches in each group
    maps: np.ndarray  # (k, h, w) attention probabilities
    reach: float
    """Mean distance, in patches, between a patch and what it attends to; over all patches, not only medoids."""

    def about(self) -> dict[str, Any]:
        return {"patches": self.patches.tolist(), "shares": self.shares.tolist(), "reach": self.reach}


@dataclass(frozen=True)
class AttentionMaps:
    """One photo and, for the last block and each projector, its typical attention maps."""

    name: str
    photo: np.ndarray  # (H, W, 3) uint8, as the network saw it
    blocks: dict[str, BlockMedoids]

    def picture(self) -> np.ndarray:
        """A row per block, a column per medoid, whose patch is marked: (H, W, 3) uint8."""
        most = max(len(block.maps) for block in self.blocks.values())
        rows = []
        for label, block in self.blocks.items():
            sides = np.array([*block.maps.shape[1:]] * 2)
            boxes = np.concatenate([block.patches, block.patches + 1], 1) / sides
            numbered = list(enumerate(boxes.tolist(), 1))
            cells = [Cell(self.photo, smooth=True, marks=[Mark(tuple(box), MARK, str(n)) for n, box in numbered])]
            for values, share, (_, box) in zip(block.maps, block.shares, numbered, strict=True):
                heat = colour_map(values, 0.0, max(float(np.percentile(values, 99.5)), 1e-12), palette="INFERNO")
                cells.append(Cell(heat, f"{share:.0%} of patches", marks=[Mark(tuple(box), MARK)]))
            rows.append(Row(f"{self.name}: {label}, reach {block.reach:.1f} patches", cells))
        return table(["photo", *(f"medoid {number}" for number in range(1, most + 1))], rows, side=150)


class Look:
    """A model whose attention is looked at: checked before the first photo."""

    def __init__(self, source: Encoding, k: int) -> None:
        owner = source.network.trunk
        if not isinstance(owner, Encoder):
            raise UserError(f"the encoder of {source.name!r} is no plain ViT, so its attention cannot be shown")
        if k < 1:
            raise UserError(f"{k} attention maps per block; ask for at least 1 (the paper shows {PAPER_K})")
        self.source, self.k, self.encoder = source, k, owner
        network = source.network
        projectors = dict(network.projectors.items()) if isinstance(network, Dune) else {}
        self.projectors: dict[str, TransformerProjector] = {
            name: module for name, module in projectors.items() if isinstance(module, TransformerProjector)
        }

    @property
    def blocks(self) -> list[str]:
        return [LAST_BLOCK, *(f"{name} projector" for name in self.projectors)]

    def settings(self) -> dict[str, Any]:
        """Everything that decides a picture, beside the photo."""
        settings = self.source.settings()
        return {**{key: settings[key] for key in ("weights", "size", "patch", "precision")}, "k": self.k}

    def __call__(self, photo: np.ndarray) -> dict[str, BlockMedoids]:
        """A photo (H, W, 3) uint8 -> per block its medoids."""
        grid = (photo.shape[0] // self.source.patch, photo.shape[1] // self.source.patch)
        if grid[0] * grid[1] > MOST_PATCHES:
            raise UserError(
                f"k-medoids of {grid[0] * grid[1]} attention maps is too much; choose a size with at most "
                f"{MOST_PATCHES} patches of {self.source.patch} pixels"
            )
        maps = self.maps(photo, grid)
        if wrong := [name for name, values in maps.items() if not np.isfinite(values).all()]:
            raise UserError(f"{self.source.name}: the attention of its {wrong[0]} is not finite; check its weights")
        return {name: medoids(values.reshape(-1, *grid), self.k) for name, values in maps.items()}

    @torch.inference_mode()
    def maps(self, photo: np.ndarray, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        """What every patch attends to, per block: (h*w, h*w), of the heads' mean over all tokens."""
        source, network = self.source, self.source.network
        pixels = torch.from_numpy(photo).to(source.device).permute(2, 0, 1)[None].to(source.dtype) / 255
        patches = torch.arange(grid[0] * grid[1], device=source.device)
        prefix = self.encoder.prefix
        block: Any = self.encoder.blocks[-1]
        with evaluating(network), autocast(source.device, source.options.precision):
            with recorded([block.attn], prefix + patches, mean=True) as last:
                raw = self.encoder.encode(pixels, norm=False)
            maps = {LAST_BLOCK: last[0][0, :, prefix:]}
            for name, projector in self.projectors.items():
                with recorded([projector.block.attn], 1 + patches, mean=True) as weights:
                    network.project(raw, name)
                maps[f"{name} projector"] = weights[0][0, :, 1:]
        return {name: values.float().cpu().numpy() for name, values in maps.items()}


def medoids(maps: np.ndarray, k: int) -> BlockMedoids:
    """Attention maps of all patches of a grid, (h*w, h, w) -> at most k typical ones."""
    count = len(maps)
    weights = maps.reshape(count, -1)
    grouped = k_medoids(euclidean(weights), min(k, count))
    rows, columns = np.divmod(np.arange(count), maps.shape[2])
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    reach = (weights * apart).sum(1) / np.maximum(weights.sum(1), 1e-12)
    return BlockMedoids(
        np.stack([rows[grouped.indices], columns[grouped.indices]], 1),
        np.bincount(grouped.labels, minlength=len(grouped.indices)) / count,
        maps[grouped.indices],
        float(reach.mean()),
    )


def write_attention(folder: Path, given: Pictures, look: Look) -> dict[str, Any]:
    """FOLDER/attention/NAME.png for every photo, a sheet of some of them, medoids.json; what it wrote.

    A picture of the same photo, made with the same settings, is kept.
    """
    work = WorkFolder(folder / "attention", "set of attention maps", "settings.json", ("*.png", "medoids.json"))
    if work.read() is None and (work.path / "medoids.json").is_file():
        work.clear()  # an earlier version's, which kept its settings elsewhere
    work.take(look.settings())
    abouts: dict[str, dict[str, Any] | None] = {}

    def missing() -> Iterator[Picture]:
        for item in track(given.items, total=given.count, label="attention", unit="image"):
            abouts[item.name] = _done(work.path / f"{item.name}.png", item.stamp)
            if abouts[item.name] is None:
                yield item

    skipped: list[str] = []
    for photo in photos(missing(), look.source.fit, skipped, ahead=2):
        maps = AttentionMaps(photo.name, photo.image, look(photo.image))
        about = {label: block.about() for label, block in maps.blocks.items()}
        note = json.dumps({"stamp": photo.picture.stamp, "blocks": about})
        write_picture(work.path / f"{photo.name}.png", maps.picture(), notes={NOTE: note})
        abouts[photo.name] = about
    whole = {name: about for name, about in abouts.items() if about is not None}
    some_of(whole, skipped)
    write_json(work.path / "medoids.json", whole)
    chosen = [list(whole)[place] for place in places(len(whole), MOST_ON_SHEET)]
    write_picture(
        folder / "attention.png", below_each_other([read_image(work.path / f"{name}.png") for name in chosen])
    )
    return {
        "k": look.k,
        "blocks": look.blocks,
        "reach": {b: float(np.mean([about[b]["reach"] for about in whole.values()])) for b in look.blocks},
        "images": len(whole),
        "skipped": skipped,
        "sheet": "attention.png",
        "pictures": "attention/",
    }


def _done(path: Path, stamp: str) -> dict[str, Any] | None:
    """What the picture of a photo shows, None when it is of another one."""
    try:
        with Image.open(path) as picture:
            note = parse_json(picture.info.get(NOTE, "{}"))
    except (OSError, ValueError):
        return None
    return note.get("blocks") if note.get("stamp") == stamp else None
