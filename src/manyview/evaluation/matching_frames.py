"""The frames of a matching protocol: pairs of every split, their tokens, their truth, and what scoring needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.errors import UserError
from manyview.evaluation import store
from manyview.evaluation.pairs import DepthReader, Pair, stack
from manyview.evaluation.probe import Examples, PairSet, Shape
from manyview.evaluation.tokens import Tokenise, Tokens, encode_frames, read_images
from manyview.geometry.matching import cell_centres, nearest_cells, warp
from manyview.progress import track

SHOWN = 6  # pairs in the report


def image_size(encoder: Any, wanted: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) for this encoder. Raises UserError for sides that are no multiples of its patch."""
    patch = int(encoder.config.patch_size)
    if wanted is None:
        own = encoder.config.image_size
        sides = (own, own) if isinstance(own, int) else tuple(own)
        return int(sides[0]) // patch * patch, int(sides[1]) // patch * patch
    size = (wanted, wanted) if isinstance(wanted, int) else (wanted[0], wanted[1])
    if any(side < 2 * patch or side % patch for side in size):
        raise UserError(f"size {size[0]}x{size[1]}: both sides must be multiples of the patch, {patch}")
    return size


@dataclass(frozen=True)
class Frames:
    """The pairs of every split with the manifests they index, and their truth."""

    readers: dict[str, DepthReader]
    pairs: dict[str, list[Pair]]
    shape: Shape
    published: bool
    device: torch.device
    width: int
    """Channels of the encoder; a probe on wider tokens (pixels) projects to as many."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why."""
    known: dict[str, PairSet] = field(default_factory=dict)

    def indices(self, split: str) -> list[int]:
        return sorted({index for pair in self.pairs[split] for index in (pair.a, pair.b)})

    def encode(self, tokenise: Tokenise, folder: Path) -> dict[str, dict[str, Tokens]]:
        """Tokens by name and split; pairs with an unreadable frame are dropped."""
        found: dict[str, dict[str, Tokens]] = {}
        for split, reader in self.readers.items():
            source = reader.data
            answers, unreadable = encode_frames(
                tokenise,
                source,
                self.indices(split),
                self.shape.size,
                folder=folder / split,
                device=self.device,
            )
            for name, tokens in answers.items():
                found.setdefault(name, {})[split] = tokens
            self.pairs[split] = [p for p in self.pairs[split] if not {p.a, p.b} & set(unreadable)]
            self.skipped.update({source[frame].image: why for frame, why in unreadable.items()})
            if not self.pairs[split]:
                raise UserError(f"no {split} pair is readable; first {next(iter(self.skipped.items()))}")
        return found

    def examples(self, tokens: dict[str, Tokens], split: str) -> Examples:
        return Examples(tokens[split], self.truth(split))

    def truth(self, split: str) -> PairSet:
        """Where the cells of A lie in B, for all pairs of a split."""
        if split in self.known:
            return self.known[split]
        reader, (grid, size, _), pairs = self.readers[split], self.shape, self.pairs[split]
        centres, parts = cell_centres(grid, size), []
        for start in range(0, len(pairs), 64):
            part = pairs[start : start + 64]
            a, b = (stack([reader[getattr(pair, side)] for pair in part]) for side in "ab")
            parts.append(warp(a, b, uv=centres, published=self.published))
        uv, valid = (torch.cat(column).flatten(1, 2) for column in zip(*parts, strict=True))
        target = torch.where(valid, nearest_cells(uv, grid, size), -1)
        self.known[split] = PairSet([p.a for p in pairs], [p.b for p in pairs], target, uv, valid)
        return self.known[split]

    def export_measured(self, folder: Path) -> None:
        """Depth and camera of every test frame, so that scoring needs no data."""
        for index in track(self.indices("test"), label="measurements", unit="frame"):
            file = folder / f"{index:06d}.npz"
            if not file.is_file():
                arrays = self.readers["test"][index]._asdict()
                store.save_arrays(file, **{name: value.numpy() for name, value in arrays.items()})

    def export_pictures(self, out: Path) -> None:
        """The images of a few pairs spread over the scenes, for the report."""
        count = len(self.pairs["test"])
        chosen = np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)).tolist()
        shown = [
            index
            for number in chosen
            for index in (self.pairs["test"][number].a, self.pairs["test"][number].b)
        ]
        images, _ = read_images(self.readers["test"].data, shown, self.shape.size)
        pictures = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, (-1, 2)).numpy()
        store.save_arrays(out / "measured" / "pictures.npz", pairs=np.array(chosen), images=pictures)


def write_items(out: Path, frames: Frames) -> None:
    """items.json: size, grid, the pairs of every split, the test images' names, what could not be read."""
    test = frames.readers["test"].data
    items = {
        "size": frames.shape.size,
        "grid": frames.shape.grid,
        "pairs": {split: [asdict(pair) for pair in found] for split, found in frames.pairs.items()},
        "images": [[test[pair.a].image, test[pair.b].image] for pair in frames.pairs["test"]],
        "skipped": frames.skipped,
    }
    store.write_json(out / "items.json", items)
