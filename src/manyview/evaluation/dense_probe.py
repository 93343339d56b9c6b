"""Probes of dense tasks on a frozen encoder, segmentation and depth: what all of them share.

The encoder's tokens are kept once, for every way of making them; what learns from them is up to the protocol.
Everything is plain PyTorch.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import Answer, Item, Method, Model, Protocol, Row, Summary, Work, in_order, skipped
from manyview.evaluation.dense_fit import Examples
from manyview.evaluation.dense_framing import Framing, How
from manyview.evaluation.dense_maps import Kind, Part, split
from manyview.evaluation.tokens import LABELS, Tokenise, encode_frames, from_pixels, image_size
from manyview.models.family import encoder_of, require
from manyview.models.model import ProjectsFeatures, device_of

Facts = dict[str, Any]
"""What the training maps decide, as JSON: `constant`, the best answer that is the same for every pixel; `classes`."""


@dataclass(frozen=True, kw_only=True)
class DenseProbe(Protocol):
    """Options of the dense probes."""

    unit: ClassVar[str] = "images"
    labels: ClassVar[Mapping[str, str]] = LABELS
    kind: ClassVar[Kind]
    about: ClassVar[tuple[str, str]]
    """What learns from the features, and where its hyper-parameters are from, as phrases."""

    train: Manifest | None = None
    """Frames to learn from; by default those of the data's own training split, or a share of its scenes."""
    baselines: bool = True
    """Also the same encoder with random weights, raw pixels, and one answer for every pixel."""
    size: int | tuple[int, int] | None = None
    """Resolution of images and maps, (H, W) or a square; by default what the model was made for."""
    framing: How = "whole"
    """How pictures get that size: whole (its middle, scaled to cover it), squash (its aspect is not kept), or slide
    (shorter side brought to the size, windows of that size over the longer one)."""
    norm: bool = True
    """Tokens after the encoder's final LayerNorm; false: as they leave the last block."""
    project: str = ""
    """Also judge the tokens a DUNE model projects into this teacher's space, as part of the frozen encoder."""
    share: float = 0.7
    """Share of the scenes to train on when neither training frames nor a split are given."""
    train_images: int = 0
    """At most so many training frames, evenly spread; 0 for all."""
    test_images: int = 0
    """At most so many test frames, likewise."""
    seed: int = 0
    """Seed of the split, of the random weights, and of what learns."""

    @abc.abstractmethod
    def facts(self, part: Part, maps: Sequence[np.ndarray]) -> Facts:
        """What the training maps decide. Raises UserError when they show nothing to learn."""

    def clean(self, values: np.ndarray) -> np.ndarray:
        """A stored map with what is not to be looked at marked: -1 in labels, which are read so, and 0 in depth."""
        return values

    @abc.abstractmethod
    def predict(
        self, method: str, train: Examples, test: Examples, facts: Facts
    ) -> tuple[dict[str, Any], Iterable[np.ndarray]]:
        """Learn; what is worth keeping about that, and the answers (h, w) for the test pictures, in order."""

    def seen_anew(self, train: Examples, encode: Callable[[Tensor], Tensor]) -> Examples:
        """What is learned from: the kept tokens, unless a protocol changes pictures at every step and encodes them."""
        return train

    def tokens(self, encoder: Any, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> what the head sees of an encoder, (N, P, D)."""
        return encoder.encode(images, norm=self.norm).patches

    def tokenisers(self, model: Model) -> list[Tokenise]:
        """The model, and beside it what `project` and `baselines` ask for."""
        encoder = encoder_of(model)
        methods: list[Tokenise] = [lambda images: {"model": self.tokens(encoder, images)}]
        if self.project:
            student = require(model, ProjectsFeatures)

            def projected(images: Tensor) -> dict[str, Tensor]:
                blocks = student.encode(images, norm=False, layers=student.projected_layers)
                return {"projected": student.project(blocks, self.project).patches}

            methods.append(projected)
        if self.baselines:
            fresh = encoder_of(model.untrained(self.seed))
            methods.append(lambda images: {"untrained": self.tokens(fresh, images)})
            methods.append(from_pixels(int(encoder.config.patch_size)))
        return methods

    def look(self, encoder: Any) -> Framing:
        """How pictures become crops that the encoder sees. Raises UserError for a size it cannot."""
        return Framing(image_size(encoder, self.size), self.framing)

    def _parts(self, model: Model, data: Manifest) -> dict[str, Part]:
        most = (self.train_images, self.test_images)
        framing = self.look(encoder_of(model))
        return split(data, self.train, self.kind, framing, share=self.share, most=most, seed=self.seed)

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        parts = self._parts(model, data)
        test = parts["test"]
        scenes = {name: len({part.data[i].scene for i in part.frames}) for name, part in parts.items()}
        work.note(size=test.framing.size, scenes=scenes)
        items: list[Item] = []
        for index, values in zip(test.frames, test.cleaned("test", self.clean), strict=True):
            frame, key = test.data[index], f"{len(items):06d}"
            work.keep_measured(key, map=values)
            items.append(Item(key, frame.scene, {"image": frame.image}))
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        encoder, parts = encoder_of(model), self._parts(model, data)
        patch, device = int(encoder.config.patch_size), device_of(encoder)
        maps = parts["train"].maps(work.scratch / "train.npy", self.clean)
        facts = self.facts(parts["train"], maps)
        examples: dict[str, dict[str, Examples]] = {}
        unreadable: dict[str, dict[int, str]] = {}  # rows of a part, and why
        for name, part in parts.items():
            tokens, problems = encode_frames(
                self.tokenisers(model),
                part.read,
                range(len(part.crops)),
                folder=work.scratch / name,
                device=device,
                workers=work.workers,
                prepare=part.framing.pad,
            )
            bad = unreadable[name] = {part.crops[index].row: why for index, why in problems.items()}
            usable = np.array([index for index, crop in enumerate(part.crops) if crop.row not in bad], np.int64)
            if not len(usable):
                raise UserError(f"no image of {part.data.root} can be read, first {part.data[part.frames[0]].image}")
            for method, rows in tokens.items():
                examples.setdefault(method, {})[name] = Examples(rows, part, maps, usable, patch, device)
        train = parts["train"]
        work.note(
            facts=facts,
            train=len(train.frames) - len(unreadable["train"]),
            skipped={train.data[train.frames[row]].image: why for row, why in unreadable["train"].items()},
        )
        skipped_keys = {work.items[row].key: why for row, why in unreadable["test"].items()}

        def answers(method: str) -> Iterator[Answer]:
            if method == "constant":
                said = np.asarray(facts["constant"])
                predictions: Iterable[np.ndarray] = (np.full((*s, *said.shape), said) for s in parts["test"].sizes)
            else:
                parts_of = examples[method]
                learning = self.seen_anew(parts_of["train"], partial(named, self.tokenisers(model), method))
                about, predictions = self.predict(method, learning, parts_of["test"], facts)
                work.keep_learned(method, about)
            for item, values in zip(work.items, predictions, strict=True):
                if item.key not in skipped_keys:
                    yield {"map": values.astype(np.int16 if self.kind == "labels" else np.float32)}

        names = [*examples, *(["constant"] if self.baselines else [])]
        return {name: in_order(work, partial(answers, name), skipped_keys) for name in names}

    def truth(self, item: Item, work: Work) -> tuple[np.ndarray, Facts]:
        return work.measured(item.key)["map"], work.about["facts"]

    def table(self, rows: Mapping[str, list[Row]], work: Work) -> list[Row]:
        table = super().table(rows, work)
        learned = {name: work.learned(name) for name in rows}
        return [row | ({"learned": of} if (of := learned[row["method"]]) else {}) for row in table]

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        about, test = work.about, skipped(work)
        return {
            "size": about["size"],
            "images": {"train": about["train"], "test": len(work.items) - len(test)},
            "scenes": about["scenes"],
            "skipped": about["skipped"] | test,
        }

    def sections(self, summary: Summary) -> list[str]:
        height, width = summary["size"]
        images, scenes = summary["images"], summary["scenes"]
        return [
            f"{self.about[0]} on frozen features, {height}x{width} pixels ({self.framing}): {images['train']} images "
            f"of {scenes['train']} scenes to train on, {images['test']} of {scenes['test']} others to test; "
            f"{self.about[1]}.",
            *super().sections(summary),
            *(f"Left out: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]


def named(tokenisers: Sequence[Tokenise], name: str, images: Tensor) -> Tensor:
    """The tokens of that name; each way of making tokens is asked until one knows it."""
    return next(tokens[name] for tokens in (tokenise(images) for tokenise in tokenisers) if name in tokens)
