"""The frames of a matching protocol: pairs of every split, their tokens, where the cells of one lie in the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from manyview.data.pairs import DepthReader, Pair, stack
from manyview.errors import UserError
from manyview.evaluation.pairs import key_of
from manyview.evaluation.probe import Examples, PairSet, Shape
from manyview.evaluation.tokens import Tokenise, Tokens, encode_frames, read_images
from manyview.evaluation.work import Work
from manyview.geometry.matching import PosedDepth, cell_centres, nearest_cells, warp
from manyview.pipelines.picture_table import places

SHOWN = 6  # pairs in the report


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
    unreadable: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why."""
    _truths: dict[str, PairSet] = field(default_factory=dict)

    def encode(self, methods: Sequence[Tokenise], work: Work) -> dict[str, dict[str, Tokens]]:
        """Tokens by name and split; pairs with an unreadable frame are dropped. UserError when a split has none."""
        tokens: dict[str, dict[str, Tokens]] = {}
        for split, reader in self.readers.items():
            indices = sorted({index for pair in self.pairs[split] for index in (pair.a, pair.b)})
            read = partial(read_images, reader.data, self.shape.size)
            answers, problems = encode_frames(
                methods, read, indices, folder=work.scratch / split, device=self.device, workers=work.workers
            )
            for name, values in answers.items():
                tokens.setdefault(name, {})[split] = values
            self.pairs[split] = [p for p in self.pairs[split] if not {p.a, p.b} & set(problems)]
            self.unreadable.update({reader.data[frame].image: why for frame, why in problems.items()})
            if not self.pairs[split]:
                raise UserError(f"no {split} pair is readable; first {next(iter(self.unreadable.items()))}")
        return tokens

    def examples(self, tokens: dict[str, Tokens], split: str) -> Examples:
        return Examples(tokens[split], self.truth(split))

    def truth(self, split: str) -> PairSet:
        """Where the cells of A lie in B, for all pairs of a split."""
        if split not in self._truths:
            reader, (grid, size, _), pairs = self.readers[split], self.shape, self.pairs[split]
            centres, parts = cell_centres(grid, size), []
            for start in range(0, len(pairs), 64):
                part = pairs[start : start + 64]
                a, b = (stack([reader[getattr(pair, side)] for pair in part]) for side in "ab")
                parts.append(warp(a, b, uv=centres, published=self.published))
            uv, valid = (torch.cat(column).flatten(1, 2) for column in zip(*parts, strict=True))
            target = torch.where(valid, nearest_cells(uv, grid, size), -1)
            self._truths[split] = PairSet([p.a for p in pairs], [p.b for p in pairs], target, uv, valid)
        return self._truths[split]

    def keep_pictures(self, work: Work) -> None:
        """The images of a few pairs spread over the scenes, for the report."""
        chosen = [self.pairs["test"][place] for place in places(len(self.pairs["test"]), SHOWN)]
        images, _ = read_images(self.readers["test"].data, self.shape.size, [i for p in chosen for i in (p.a, p.b)])
        keys = np.array([key_of(pair) for pair in chosen])
        work.keep_measured("pictures", keys=keys, images=images.unflatten(0, (-1, 2)).numpy())


def posed_depth(work: Work, index: int) -> PosedDepth:
    """Depth and camera of a test frame, from files."""
    return PosedDepth(**{name: torch.from_numpy(value) for name, value in work.measured(f"{index:06d}").items()})
