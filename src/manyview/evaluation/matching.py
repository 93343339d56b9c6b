"""What the matching protocols share: pairs and their truth, encoded frames, scores of predicted warps, tables.

A method's prediction is a warp at the cells of the feature grid, one file for all test pairs. It is judged at every
pixel of the evaluation resolution where the true warp is known (`epe` and the shares), and at the cells (`epe_cells`).
"""

from __future__ import annotations

import abc
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
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
from manyview.evaluation.matching_frames import Frames, image_size, write_items
from manyview.evaluation.matching_pictures import read_measured
from manyview.evaluation.pairs import Choice, DepthReader, Pair, choose_pairs, split_scenes
from manyview.evaluation.probe import Shape
from manyview.evaluation.tokens import (
    Tokenise,
    Tokens,
    device_of,
    encoder_of,
    from_encoder,
    from_pixels,
    layers_of,
    together,
    untrained,
)
from manyview.geometry.matching import Decoding, cell_centres, upsample_warp, warp
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

    @property
    def per_scene(self) -> dict[str, int]:
        """Pairs per scene of a split, where they may be crowded."""
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
        frames.export_pictures(out)
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
            choice = Choice(
                overlap=self.overlap,
                motion=self.motion,
                seed=self.seed + 1000 * number,
                per_scene=self.per_scene.get(split, 1),
            )
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


def encoder_methods(protocol: Matching, model: Any, encoder: Any, norms: Sequence[bool]) -> list[Tokenise]:
    """The model, and with baselines the same with random weights and raw pixels."""
    layers = layers_of(encoder, protocol.layers)
    found = [from_encoder(encoder, "model", norms=norms, layers=layers)]
    if protocol.baselines:
        fresh = encoder_of(untrained(model, protocol.seed))
        found.append(from_encoder(fresh, "untrained", norms=norms[:1]))
        found.append(from_pixels(int(encoder.config.patch_size)))
    return found


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
        a, b = (read_measured(out, pair[side]) for side in "ab")
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
