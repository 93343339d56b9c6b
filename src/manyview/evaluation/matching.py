"""What the matching protocols share: pairs and their truth, encoded frames, scores of predicted warps, tables.

A method's prediction is a warp at the cells of the feature grid, one file for all test pairs. It is judged at every
pixel of the evaluation resolution where the true warp is known (`epe` and the shares), and at the cells (`epe_cells`).
"""

from __future__ import annotations

import abc
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.config import to_dict
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import matching_report, store
from manyview.evaluation.base import Model, Protocol, Summary
from manyview.evaluation.pairs import Choice, DepthReader, Pair, choose_pairs, split_scenes, stack
from manyview.evaluation.probe import Examples, PairSet, Shape
from manyview.evaluation.tokens import (
    Tokenise,
    Tokens,
    device_of,
    encode_frames,
    encoder_of,
    from_encoder,
    from_pixels,
    layers_of,
    together,
    untrained,
)
from manyview.geometry.matching import (
    Decoding,
    PosedDepth,
    cell_centres,
    nearest_cells,
    upsample_warp,
    warp,
)
from manyview.metrics.matching import end_point_errors, matching_scores
from manyview.progress import track

Row = dict[str, Any]  # one line of results.jsonl: method, pair, its numbers


@dataclass(frozen=True, kw_only=True)
class Matching(Protocol):
    """Options of every matching protocol."""

    train: Manifest | None = None
    """Frames for training and validation; by default the scenes of the data are split."""
    baselines: bool = True
    """Also raw pixels and the same encoder with random weights (zero flow is always there)."""
    size: int | tuple[int, int] | None = None
    """Evaluation resolution, (H, W) or a square; by default what the model was made for."""
    pairs: int = 500
    """Test pairs."""
    overlap: tuple[float, float] = (0.3, 0.9)
    """Share of A's measured places that B sees: smallest and largest."""
    motion: float = 0.1
    """Smallest median motion, in units of the image's longer side."""
    layers: str | int | tuple[int, ...] = "last"
    """Whose tokens: last, all, or 0-based block indices (Figure 4)."""
    decoding: Decoding = "neighbours"
    """How votes become a position (manyview.geometry.matching.decode)."""
    published: bool = False
    """Every choice of the published evaluation of this kind, where ours differs."""
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of the scenes for train, val and test, when the manifest has no splits of its own."""
    seed: int = 0
    """Seed of splits, pairs, random weights and probes."""

    def settings(self) -> dict[str, Any]:
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"}
        plain: dict[str, Any] = to_dict(chosen)
        return {**plain, "train": None if self.train is None else self.train.digest()}

    @property
    def training_pairs(self) -> dict[str, int]:
        """How many pairs of the splits train and val are wanted; none for protocols without training."""
        return {}

    @abc.abstractmethod
    def predict(self, tokens: dict[str, dict[str, Tokens]], frames: Frames, out: Path) -> None:
        """Write predictions/NAME.npz, `uv` (N, P, 2) of all test pairs, for each of the named tokens."""

    @abc.abstractmethod
    def methods(self, model: Any, encoder: Any) -> list[Tokenise]:
        """The ways to make tokens."""

    def export(self, model: Model, data: Manifest, out: Path) -> None:
        done = out / "training" / "done"
        if done.is_file():
            return
        encoder = encoder_of(model)
        frames = self._frames(encoder, data, out)
        folder = out / "training" / "tokens"
        tokens = frames.encode(together(self.methods(model, encoder)), folder)
        write_items(out, frames)
        self.predict(tokens, frames, out)
        store.write_text(done, "")
        shutil.rmtree(folder, ignore_errors=True)  # large, and quickly made again

    def _frames(self, encoder: Any, data: Manifest, out: Path) -> Frames:
        size = image_size(encoder, self.size)
        patch = int(encoder.config.patch_size)
        shape = Shape((size[0] // patch, size[1] // patch), size, self.decode)
        test = DepthReader(data, size)
        train = test if self.train is None else DepthReader(self.train, size)
        readers = {split: test if split == "test" else train for split in (*self.training_pairs, "test")}
        pairs = self._pairs(readers)
        frames = Frames(readers, pairs, shape, self.published, device_of(encoder), int(encoder.config.dim))
        frames.export_measured(out / "measured")
        return frames

    @property
    def decode(self) -> Decoding:
        return "neighbours_wrapped" if self.published else self.decoding

    def _pairs(self, readers: dict[str, DepthReader]) -> dict[str, list[Pair]]:
        scenes, chosen = self._split(readers["test"].data), {}
        for number, (split, count) in enumerate({**self.training_pairs, "test": self.pairs}.items()):
            choice = Choice(overlap=self.overlap, motion=self.motion, seed=self.seed + 1000 * number)
            chosen[split] = choose_pairs(readers[split], count, choice, scenes=scenes[split])
        return chosen

    def _split(self, data: Manifest) -> dict[str, list[str]]:
        if not self.training_pairs:
            return {"test": list(data.scenes())}
        if self.train is None:
            return split_scenes(data, seed=self.seed, shares=self.shares)
        return {**train_and_val(self.train, self.shares, self.seed), "test": list(data.scenes())}

    def score(self, out: Path) -> Summary:
        described, items = store.read_settings(out), store.read_json(out / "items.json")
        rows = list(_score(out, items, self.published))
        store.write_lines(out / "results.jsonl", rows)
        summary = matching_report.summarise(self.name, described, items, rows, _sweeps(out))
        store.write_json(out / "summary.json", summary)
        store.write_text(out / "summary.md", self.markdown(summary))
        matching_report.write_page(out, summary)
        return summary

    def markdown(self, summary: Summary) -> str:
        return matching_report.markdown(summary)


def train_and_val(train: Manifest, shares: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Scenes of a training manifest apart for validation. Raises UserError with fewer than two."""
    names = list(train.scenes())
    if len(names) < 2:
        raise UserError(
            f"--train has {len(names)} scene; training and validation need one each: add scenes to it"
        )
    np.random.default_rng([seed, 3]).shuffle(names)
    val = max(1, round(len(names) * shares[1] / (shares[0] + shares[1])))
    return {"train": names[val:], "val": names[:val]}


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


def encoder_methods(protocol: Matching, model: Any, encoder: Any, norms: Sequence[bool]) -> list[Tokenise]:
    """The model, and with baselines the same with random weights and raw pixels."""
    layers = layers_of(encoder, protocol.layers)
    found = [from_encoder(encoder, "model", norms=norms, layers=layers)]
    if protocol.baselines:
        fresh = encoder_of(untrained(model, protocol.seed))
        found.append(from_encoder(fresh, "untrained", norms=norms[:1]))
        found.append(from_pixels(int(encoder.config.patch_size)))
    return found


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


def save_prediction(out: Path, name: str, uv: Tensor) -> None:
    store.save_arrays(out / "predictions" / f"{name}.npz", uv=uv.float().numpy())


def _sweeps(out: Path) -> dict[str, Any]:
    files = sorted((out / "training").glob("*.json"))
    return {file.stem: store.read_json(file) for file in files}


def _score(out: Path, items: dict[str, Any], published: bool) -> Iterator[Row]:
    """A row per method and pair."""
    size, grid = tuple(items["size"]), tuple(items["grid"])
    predictions = {
        file.stem: store.load_arrays(file)["uv"] for file in sorted((out / "predictions").glob("*.npz"))
    }
    start = cell_centres(grid, size).flatten(0, 1).numpy()
    predictions = {"zero_flow": np.broadcast_to(start, (len(items["images"]), *start.shape)), **predictions}
    for number, pair in enumerate(track(items["pairs"]["test"], label="scores", unit="pair")):
        a, b = (_measured(out, pair[side]) for side in "ab")
        (true, valid), (cells, known) = (
            warp(a, b, uv=uv, published=published) for uv in (None, cell_centres(grid, size))
        )
        names = dict(zip(("frame_a", "frame_b"), items["images"][number], strict=True))
        common = {**names, **{key: pair[key] for key in ("scene", "overlap", "motion")}}
        for method, uv in predictions.items():
            coarse = torch.tensor(uv[number])[None]
            fine = upsample_warp(coarse, grid, size, published=published and method != "zero_flow")[0]
            errors = end_point_errors(fine, true, valid)
            cell_errors = end_point_errors(coarse[0].unflatten(0, grid), cells, known)
            numbers = {**matching_scores(errors), "epe_cells": matching_scores(cell_errors)["epe"]}
            yield {"method": method, **common, **numbers, "pixels": errors.size}


def _measured(out: Path, index: int) -> PosedDepth:
    arrays = store.load_arrays(out / "measured" / f"{index:06d}.npz")
    return PosedDepth(**{name: torch.from_numpy(value) for name, value in arrays.items()})
