"""What the matching protocols share: pairs and their truth, encoded frames, scores of predicted warps.

A method's answer about a pair is a warp at the cells of the feature grid. It is judged at every pixel of the evaluation
resolution where the true warp is known (`epe` and the shares), and at the cells (`epe_cells`).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader, Pair, measured_rows, stack
from manyview.errors import UserError
from manyview.evaluation import matching_report
from manyview.evaluation.base import Answer, Item, Method, Model, Number, Protocol, Row, Summary, Work, in_order
from manyview.evaluation.matching_changes import Changed
from manyview.evaluation.matching_report import posed_depth
from manyview.evaluation.pair_lists import digest_of, listed_pairs
from manyview.evaluation.pairs import choose_pairs, key_of, pair_item, share_out, split_scenes
from manyview.evaluation.probe import Examples, PairSet, Shape
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.tokens import (
    UNCHANGED,
    Tokenise,
    Tokens,
    encode_frames,
    from_encoder,
    from_pixels,
    image_size,
    layers_of,
    read_images,
)
from manyview.geometry.matching import Decoding, cell_centres, nearest_cells, upsample_warp, warp
from manyview.images.exposure import Exposures
from manyview.metrics.matching import end_point_errors, matching_scores
from manyview.models.family import encoder_of
from manyview.models.model import device_of
from manyview.pipelines.picture_table import places

PUBLISHED_SIDE = 448
"""Pixels along the pictures in the published evaluation."""
SHOWN = 6
"""Pairs in the report."""
Truth = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The true warp and where it is known, at pixels (H, W, ...) and at cells (h, w, ...)."""


@dataclass(frozen=True)
class Frames:
    """The pairs of every split with the manifests they index, and their truth."""

    readers: dict[str, Changed]
    pairs: dict[str, list[Pair]]
    shape: Shape
    published: bool
    device: torch.device
    width: int
    """Channels of the encoder; a probe on wider tokens (pixels) projects to as many."""
    exposures: Exposures = UNCHANGED
    seed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why."""
    _truths: dict[str, PairSet] = field(default_factory=dict)

    def encode(self, methods: Sequence[Tokenise], work: Work) -> dict[str, dict[str, Tokens]]:
        """Tokens by name and split; pairs with an unreadable frame are dropped. UserError when a split has none."""
        tokens: dict[str, dict[str, Tokens]] = {}
        for split, reader in self.readers.items():
            indices = sorted({index for pair in self.pairs[split] for index in (pair.a, pair.b)})
            read = partial(reader.read, self.shape.size, exposures=self.exposures, seed=self.seed)
            answers, problems = encode_frames(
                methods, read, indices, folder=work.scratch / split, device=self.device, workers=work.workers
            )
            for name, values in answers.items():
                tokens.setdefault(name, {})[split] = values
            self.pairs[split] = [p for p in self.pairs[split] if not {p.a, p.b} & set(problems)]
            data = reader.reader.data
            self.unreadable.update({data[reader.frame(number)].image: why for number, why in problems.items()})
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
                a, b = (stack([reader.measured(getattr(pair, side)) for pair in part]) for side in "ab")
                parts.append(warp(a, b, uv=centres, published=self.published))
            uv, valid = (torch.cat(column).flatten(1, 2) for column in zip(*parts, strict=True))
            target = torch.where(valid, nearest_cells(uv, grid, size), -1)
            self._truths[split] = PairSet([p.a for p in pairs], [p.b for p in pairs], target, uv, valid)
        return self._truths[split]

    def keep_pictures(self, work: Work) -> None:
        """The images of a few pairs spread over the scenes, for the report."""
        chosen = [self.pairs["test"][place] for place in places(len(self.pairs["test"]), SHOWN)]
        frames, data = [i for p in chosen for i in (p.a, p.b)], self.readers["test"].reader.data
        images, _ = read_images(data, self.shape.size, frames, exposures=self.exposures, seed=self.seed)
        keys = np.array([key_of(pair) for pair in chosen])
        work.keep_measured("pictures", keys=keys, images=images.unflatten(0, (-1, 2)).numpy())


@dataclass(frozen=True, kw_only=True)
class Matching(Protocol):
    """Options of every matching protocol."""

    numbers: ClassVar[tuple[Number, ...]] = matching_report.NUMBERS
    unit: ClassVar[str] = "pairs"

    train: Manifest | None = None
    """Frames for training and validation; by default the scenes of the data are split."""
    baselines: bool = True
    """Also raw pixels and the same encoder with random weights (zero flow is always there), and, where a probe learns,
    mean colours with positions."""
    size: int | tuple[int, int] | None = None
    """Evaluation resolution, (H, W) or a square; by default what the model was made for, or 448 as published."""
    pair_list: str = ""
    """A published list of test pairs, all of which are judged: ScanNet-1500 (test.npz or SuperGlue's text),
    MegaDepth-1500 (pairs_calibrated.txt of glue-factory), or a text of two images a line."""
    pairs: int = 500
    """Test pairs that are drawn where there is no list."""
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
    gain: float = 0.0
    """Exposure and white balance of every frame: its channels brighter or darker by up to this share."""
    gamma: float = 0.0
    """And an exponent of its values, exp(-gamma) to exp(gamma)."""
    seed: int = 0
    """Seed of splits, pairs, random weights and probes."""

    norms: ClassVar[tuple[bool, ...]] = (True,)

    @property
    def wanted(self) -> dict[str, tuple[int, int]]:
        """Pairs of every split, and how many of a scene may be taken before another scene's."""
        return {"test": (self.pairs, 1)}

    @abc.abstractmethod
    def predict(self, name: str, tokens: dict[str, Tokens], frames: Frames, work: Work) -> Iterable[Tensor]:
        """`uv` (n, P, 2) of the test pairs, in order and n at a time, from tokens by split."""

    def tokenisers(self, model: Model, encoder: Any, norms: Sequence[bool]) -> list[Tokenise]:
        """The model, and with baselines the same with random weights and raw pixels."""
        layers = layers_of(encoder, self.layers)
        methods = [from_encoder(encoder, "model", norms=norms, layers=layers)]
        if self.baselines:
            fresh = encoder_of(model.untrained(self.seed))
            methods.append(from_encoder(fresh, "untrained", norms=norms[:1]))
            methods.append(from_pixels(int(encoder.config.patch_size)))
        return methods

    @property
    def decode(self) -> Decoding:
        return "neighbours_wrapped" if self.published else self.decoding

    # Asking.

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pair_list": digest_of(self.pair_list)}

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        encoder = encoder_of(model)
        layers_of(encoder, self.layers)
        Exposures(self.gain, self.gamma)
        shape, readers = self._shape(encoder), self._readers(encoder, data)
        scenes, pairs = self._split(data), dict[str, list[Pair]]()
        for number, (split, (count, crowd)) in enumerate(self.wanted.items()):
            if split == "test" and self.pair_list:
                pairs[split] = measured_rows(readers[split], listed_pairs(self.pair_list, data))
                continue
            seed = self.seed + 1000 * number
            choice = Choice(overlap=self.overlap, motion=self.motion, seed=seed, per_scene=crowd)
            pairs[split] = choose_pairs(readers[split], count, choice, scenes=scenes[split])
        for index in sorted({index for pair in pairs["test"] for index in (pair.a, pair.b)}):
            arrays = readers["test"][index]._asdict()
            work.keep_measured(f"{index:06d}", **{name: value.numpy() for name, value in arrays.items()})
        learned = {split: [asdict(p) for p in of] for split, of in pairs.items() if split != "test"}
        work.note(size=shape.size, grid=shape.grid, pairs=learned)
        return [pair_item(pair, data, overlap=pair.overlap, motion=pair.motion) for pair in pairs["test"]]

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        encoder = encoder_of(model)
        pairs = {split: [Pair(**row) for row in rows] for split, rows in work.about["pairs"].items()}
        pairs["test"] = [Pair(**item.about) for item in work.items]
        frames = Frames(
            self._seen_anew(self._readers(encoder, data), pairs),
            pairs,
            self._shape(encoder),
            self.published,
            device_of(encoder),
            int(encoder.config.dim),
            Exposures(self.gain, self.gamma),
            self.seed,
        )
        tokens = frames.encode(self.tokenisers(model, encoder, self.norms), work)
        counts = {split: len(of) for split, of in frames.pairs.items()}
        work.note(skipped=frames.unreadable, counts=counts)
        frames.keep_pictures(work)
        unreadable = {
            item.key: why
            for item in work.items
            for image, why in frames.unreadable.items()
            if image in item.names.values()
        }
        start = cell_centres(frames.shape.grid, frames.shape.size).flatten(0, 1).numpy()
        zero_flow = [{"uv": start, "exact": np.array(True)}] * counts["test"]

        def warps(name: str) -> Iterator[Answer]:
            for uv in self.predict(name, tokens[name], frames, work):
                yield from ({"uv": pair.float().numpy()} for pair in uv)

        methods = {"zero_flow": in_order(work, lambda: zero_flow, unreadable)}
        return methods | {name: in_order(work, partial(warps, name), unreadable) for name in tokens}

    def _seen_anew(self, readers: Mapping[str, DepthReader], pairs: dict[str, list[Pair]]) -> dict[str, Changed]:
        """The readers; a protocol may add changed pairs."""
        return {split: Changed(reader) for split, reader in readers.items()}

    def _size(self, encoder: Any) -> tuple[int, int]:
        patch = int(encoder.config.patch_size)
        published = PUBLISHED_SIDE // patch * patch if self.published else None
        return image_size(encoder, published if self.size is None else self.size)

    def _shape(self, encoder: Any) -> Shape:
        (height, width), patch = self._size(encoder), int(encoder.config.patch_size)
        return Shape((height // patch, width // patch), (height, width), self.decode)

    def _readers(self, encoder: Any, data: Manifest) -> dict[str, DepthReader]:
        test = DepthReader(data, self._size(encoder))
        train = test if self.train is None else DepthReader(self.train, test.size)
        return {split: test if split == "test" else train for split in self.wanted}

    def _split(self, data: Manifest) -> dict[str, list[str]]:
        if len(self.wanted) == 1:
            return {"test": list(data.scenes())}
        if self.train is None:
            return split_scenes(data, seed=self.seed, shares=self.shares)
        scenes = list(self.train.scenes())
        if len(scenes) < 2:
            raise UserError(f"--train has {len(scenes)} scene; training and validation need one each: add scenes to it")
        share = self.shares[1] / (self.shares[0] + self.shares[1])
        return {**share_out(scenes, {"val": share, "train": 1 - share}, self.seed), "test": list(data.scenes())}

    # Judging.

    def truth(self, item: Item, work: Work) -> Truth:
        about = work.about
        a, b = (posed_depth(work, item.about[side]) for side in "ab")
        centres = cell_centres(tuple(about["grid"]), tuple(about["size"]))
        return warp(a, b, published=self.published), warp(a, b, uv=centres, published=self.published)

    def judge(self, item: Item, answer: Answer, truth: Truth) -> Row:
        (true, valid), (cells, seen) = truth
        uv, published = torch.from_numpy(answer["uv"]), self.published and "exact" not in answer
        (rows, columns), (height, width) = seen.shape, valid.shape
        fine = upsample_warp(uv[None], (rows, columns), (height, width), published=published)[0]
        errors = end_point_errors(fine, true, valid)
        at_cells = end_point_errors(uv.unflatten(0, (rows, columns)), cells, seen)
        numbers = {**matching_scores(errors), "epe_cells": matching_scores(at_cells)["epe"]}
        numbers["epe_percent"] = numbers["epe"] / max(height, width)
        failed = {} if errors.size else {"failed": "no measured place is seen in both"}
        return {**numbers, "pixels": errors.size, **failed}

    def table(self, rows: Mapping[str, list[Row]], work: Work) -> list[Row]:
        ordered = sorted(rows, key=lambda name: (not name.startswith("model"), name))
        return matching_report.table(super().table({name: rows[name] for name in ordered}, work), rows, work)

    def label(self, method: str) -> str:
        return matching_report.label(method)

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return matching_report.summarise(rows, self.table(rows, work), work)

    def sections(self, summary: Summary) -> list[str]:
        parts = matching_report.blocks(summary, self.cells)
        return [part if isinstance(part, str) else markdown_table(*part) for part in parts]

    def pictures(self, work: Work, summary: Summary) -> None:
        matching_report.write_page(self, work, summary)
