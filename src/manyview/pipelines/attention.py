"""Typical attention maps of a photo, block by block: figure 2 of DUNE's supplementary.

From the paper: the attention probabilities of every patch over the patch grid, in the last encoder block and in each
teacher's transformer projector; every map is flattened, all are clustered by k-medoids with k = 9, and the medoids
shown (section C, on 448 x 448 photos). It names scikit-learn-extra and no settings of it. Ours: the mean over the
heads; shares of class token and registers left away, the rest not rescaled; Euclidean distance; PAM, which needs no
seed; medoids of the largest group first; colours from zero to each map's 99.5th percentile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from manyview.engine.device import autocast
from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.images.inputs import Picture, Pictures, read_ahead
from manyview.images.reading import read_image
from manyview.images.writing import write_picture
from manyview.models.attention_maps import recorded
from manyview.models.dune.network import Dune
from manyview.models.dune.projectors import TransformerProjector
from manyview.models.vit import Encoder
from manyview.pipelines.encoding import Encoding
from manyview.pipelines.medoids import euclidean, k_medoids
from manyview.pipelines.opening import evaluating
from manyview.pipelines.picture_table import Cell, Mark, Row, below_each_other, places, table
from manyview.progress import track

PAPER_K = 9
LAST_BLOCK = "last block"
MOST_PATCHES = 6_000
MOST_ON_SHEET = 6
NOTE = "manyview"
"""Key of the text in a PNG that says how it was made and what it shows."""
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
            grid = block.maps.shape[1:]
            marks = [
                Mark(_box(patch, grid), MARK, str(number)) for number, patch in enumerate(block.patches.tolist(), 1)
            ]
            cells = [Cell(self.photo, smooth=True, marks=marks)]
            for number, share in enumerate(block.shares):
                mark = Mark(marks[number].box, MARK)
                cells.append(Cell(_heat(block.maps[number]), f"{share:.0%} of patches", marks=[mark]))
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

    def made(self) -> str:
        """A digest of everything that decides a picture, beside the photo."""
        settings = self.source.settings()
        used = {key: settings[key] for key in ("weights", "size", "patch", "precision")}
        return hashlib.sha256(json.dumps({**used, "k": self.k}, sort_keys=True).encode()).hexdigest()[:32]

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


def _box(patch: list[int], grid: tuple[int, ...]) -> tuple[float, float, float, float]:
    (row, column), (height, width) = patch, grid
    return row / height, column / width, (row + 1) / height, (column + 1) / width


def _heat(values: np.ndarray) -> np.ndarray:
    """A map (h, w) as colours (h, w, 3) uint8."""
    import cv2

    share = (values / max(float(np.percentile(values, 99.5)), 1e-12)).clip(0, 1)
    return cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1].copy()


def write_attention(folder: Path, given: Pictures, look: Look) -> dict[str, Any]:
    """FOLDER/attention/NAME.png for every photo, a sheet of some of them, medoids.json; what it wrote.

    A picture that is there and was made the same way is kept.
    """
    made, abouts, skipped = look.made(), {}, []
    inside = folder / "attention"

    def missing() -> Iterator[Picture]:
        for item in track(given.items, total=given.count, label="attention", unit="image"):
            done = _done(inside / f"{item.name}.png", {"made": made, "stamp": item.stamp})
            abouts[item.name] = done
            if done is None:
                yield item

    for photo in read_ahead(missing(), look.source.fit, ahead=2):
        if isinstance(photo, UserError):
            skipped.append(str(photo))
            continue
        maps = AttentionMaps(photo.name, photo.image, look(photo.image))
        about = {label: block.about() for label, block in maps.blocks.items()}
        note = json.dumps({"made": made, "stamp": photo.picture.stamp, "blocks": about})
        write_picture(inside / f"{photo.name}.png", maps.picture(), notes={NOTE: note})
        abouts[photo.name] = about
    whole = {name: about for name, about in abouts.items() if about is not None}
    if not whole:
        raise UserError(f"no picture could be read: {skipped[0] if skipped else 'there is none'}")
    write_bytes(inside / "medoids.json", (json.dumps(whole, indent=1) + "\n").encode())
    chosen = [list(whole)[place] for place in places(len(whole), MOST_ON_SHEET)]
    sheet = below_each_other([read_image(inside / f"{name}.png") for name in chosen])
    write_picture(folder / "attention.png", sheet, notes={NOTE: json.dumps({"made": made})})
    reach = {b: float(np.mean([about[b]["reach"] for about in whole.values()])) for b in look.blocks}
    return {
        "k": look.k,
        "blocks": look.blocks,
        "reach": reach,
        "images": len(whole),
        "skipped": skipped,
        "sheet": "attention.png",
        "pictures": "attention/",
    }


def _done(path: Path, made: Mapping[str, str]) -> dict[str, Any] | None:
    """What a picture that was made like this shows, else None."""
    try:
        with Image.open(path) as picture:
            note = json.loads(picture.info.get(NOTE, "{}"))
    except (OSError, ValueError):
        return None
    same = all(note.get(key) == value for key, value in made.items())
    return note.get("blocks") if same else None
