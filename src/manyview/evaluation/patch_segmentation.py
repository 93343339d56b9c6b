"""Segmentation by patches of frozen features: k nearest patches, or logistic regression (CAPI's protocols).

Every patch is a sample with the labels of its own pixels. Hyper-parameters are picked by mIoU on a tenth of the
training pictures, then everything is learned again from all of them. What CAPI does is size=224 framing=squash; here
that tenth are scenes of their own, lest the next frame of a video makes one neighbour look best.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Summary
from manyview.evaluation.dense_fit import AT_ONCE, Examples
from manyview.evaluation.dense_framing import Framing
from manyview.evaluation.dense_labels import SegmentationProbe, confusion, segmentation_scores
from manyview.evaluation.dense_probe import Facts
from manyview.evaluation.pairs import share_out
from manyview.evaluation.patch_fit import Distance, logistic, modal, neighbours, painted, patch_labels, voted
from manyview.progress import track

Answer = Callable[[Tensor], Tensor]
"""Standardised tokens (Q, D) -> labels of the patches' pixels, (Q, p * p)."""
NEIGHBOURS = (1, 3, 10, 30)
DISTANCES: tuple[Distance, ...] = ("cosine", "L2")
STRENGTHS = tuple(float(value) for value in np.logspace(-6, 5, 8))


@dataclass(frozen=True)
class Patches:
    """Patches of known labels (N, p * p), -1 where unknown, and tokens (N, D) that `standard` is made for."""

    tokens: Tensor
    labels: Tensor
    mean: Tensor
    spread: Tensor

    def standard(self, tokens: Tensor) -> Tensor:
        """Tokens (Q, D) with the channels shifted and scaled so that those of these patches are standard."""
        return (tokens.float() - self.mean) / self.spread

    @cached_property
    def features(self) -> Tensor:
        """These patches' standardised tokens (N, D), in half precision since they may be millions."""
        parts = [self.standard(part).half() for part in self.tokens.split(65536)]
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class PatchProbe(SegmentationProbe):
    """Choices are judged on the validation pictures; `learn` gives answers for one of them."""

    held_out: float = 0.1
    """Share of the training pictures, as whole scenes, that hyper-parameters are picked on."""

    @abc.abstractmethod
    def choices(self, patches: Patches, asked: Tensor, classes: int) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Hyper-parameters, each with its answers (Q, p * p) for standardised tokens (Q, D)."""

    @abc.abstractmethod
    def learn(self, patches: Patches, picked: dict[str, Any], classes: int) -> Answer:
        """What answers with the hyper-parameters that were picked."""

    def look(self, encoder: Any) -> Framing:
        if self.framing == "slide":
            raise UserError(f"{self.name} has no answers to average over windows; set framing=whole or squash")
        return super().look(encoder)

    def predict(
        self, method: str, train: Examples, test: Examples, facts: Facts
    ) -> tuple[dict[str, Any], Iterable[np.ndarray]]:
        classes = facts["classes"]
        rest_of, held_of = self._held_out(train)
        rest, held = _gather(train, rest_of, classes), _gather(train, held_of, classes, all_of=True)
        tried = []
        for choice, guess in self.choices(rest, rest.standard(held.tokens), classes):
            counts = confusion(guess.cpu().numpy(), held.labels.cpu().numpy(), classes)
            tried.append({**choice, "miou": float(np.nan_to_num(segmentation_scores(counts)["miou"]))})
        picked = max(tried, key=lambda choice: choice["miou"])
        every = _gather(train, train.usable.tolist(), classes)
        answer = self.learn(every, picked, classes)

        def answers() -> Iterator[np.ndarray]:
            for _, crops in test.part.batches(AT_ONCE):
                tokens = every.standard(test.tokens[crops].to(test.device).flatten(0, 1))
                yield from painted(answer(tokens), test.grid, test.patch).cpu().numpy()

        return {"picked": picked, "tried": tried}, answers()

    def _held_out(self, train: Examples) -> tuple[list[int], list[int]]:
        """Crops to learn from and crops to pick on: other scenes, or other pictures of a single scene."""
        part = train.part
        names = {index: part.data[part.frames[part.crops[index].row]].scene for index in train.usable.tolist()}
        if len(set(names.values())) < 2:
            names = {index: str(index) for index in names}
        sizes = Counter(names.values())
        if len(sizes) < 2:
            raise UserError("hyper-parameters are picked on training pictures held out; give at least 2 pictures")
        order = np.random.default_rng([self.seed, 5]).permutation(sorted(sizes))[::-1].tolist()
        shares = {"held": self.held_out, "rest": 1 - self.held_out}
        held = set(share_out({name: sizes[name] for name in order}, shares, seed=None)["held"])
        return [i for i, name in names.items() if name not in held], [i for i, name in names.items() if name in held]

    def sections(self, summary: Summary) -> list[str]:
        picked = ["Picked, with the mIoU on the pictures held out for that:", ""]
        for row in summary["rows"]:
            chosen = row.get("learned", {}).get("picked", {}).items()
            words = (f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in chosen)
            picked += [f"- {row['label']}: {', '.join(words)}"] if chosen else []
        return [*super().sections(summary), "\n".join(picked)]


@PROTOCOLS.add("knn-segmentation")
@dataclass(frozen=True, kw_only=True)
class NeighbourSegmentation(PatchProbe):
    """The k most similar training patches vote on every pixel; nothing is trained."""

    name: ClassVar[str] = "knn-segmentation"
    line: ClassVar[str] = "mIoU of the labels of the nearest training patches, nothing trained (CAPI)"
    about: ClassVar[tuple[str, str]] = ("Nearest training patches", "k and distance picked on a tenth of the former")

    def choices(self, patches: Patches, asked: Tensor, classes: int) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for distance in DISTANCES:
            rows = neighbours(asked, patches.features, count=max(NEIGHBOURS), distance=distance)
            for k in NEIGHBOURS:
                yield {"k": k, "distance": distance}, _votes(patches.labels, rows[:, :k], classes)

    def learn(self, patches: Patches, picked: dict[str, Any], classes: int) -> Answer:
        near = partial(neighbours, features=patches.features, count=picked["k"], distance=picked["distance"])
        return lambda asked: _votes(patches.labels, near(asked), classes)


@PROTOCOLS.add("logistic-segmentation")
@dataclass(frozen=True, kw_only=True)
class LogisticSegmentation(PatchProbe):
    """Logistic regression on the commonest label of every patch; its answer is painted over the whole patch."""

    name: ClassVar[str] = "logistic-segmentation"
    line: ClassVar[str] = "mIoU of logistic regression on single patches (CAPI)"
    about: ClassVar[tuple[str, str]] = ("Logistic regression", "C picked on a tenth of the former")

    steps: int = 1000
    """L-BFGS iterations at most, for each strength."""

    def choices(self, patches: Patches, asked: Tensor, classes: int) -> Iterator[tuple[dict[str, Any], Tensor]]:
        answer = None
        for strength in track(STRENGTHS, label="logistic regression", unit="strength"):
            answer = self.learn(patches, {"C": strength}, classes, after=answer)
            yield {"C": strength}, answer(asked)

    def learn(
        self, patches: Patches, picked: dict[str, Any], classes: int, *, after: Classifier | None = None
    ) -> Classifier:
        """`after`: the answer of another strength, from which this one is found sooner."""
        weights = torch.zeros(classes, patches.tokens.shape[1], device=patches.tokens.device)
        start = (weights, weights[:, 0].clone()) if after is None else (after.weights, after.offsets)
        labels = modal(patches.labels, classes)
        solution = logistic(patches.features, labels, start, strength=picked["C"], steps=self.steps)
        return Classifier(*solution, patches.labels.shape[1])


@dataclass(frozen=True)
class Classifier:
    """The likeliest class of every patch (Q,), for each of its pixels: (Q, p * p)."""

    weights: Tensor  # (C, D)
    offsets: Tensor  # (C,)
    pixels: int

    def __call__(self, asked: Tensor) -> Tensor:
        return (asked @ self.weights.T + self.offsets).argmax(-1, keepdim=True).expand(-1, self.pixels)


def _gather(examples: Examples, crops: Sequence[int], classes: int, *, all_of: bool = False) -> Patches:
    """The patches of crops; those whose pixels are mostly unknown only if `all_of`."""
    tokens, labels = [], []
    for start in range(0, len(crops), AT_ONCE):
        chunk, maps = examples.take(crops[start : start + AT_ONCE], examples.device)
        pixels = patch_labels(torch.where(maps < classes, maps, -1), examples.patch)
        kept = slice(None) if all_of else modal(pixels, classes) >= 0
        tokens.append(chunk.flatten(0, 1)[kept].half())
        labels.append(pixels[kept].to(torch.int16))
    values = torch.cat(tokens)
    if len(values) < 2:
        raise UserError("the labels of the training pictures know no patch; give more, or others")
    mean = values.mean(0, dtype=torch.float32)
    square = sum(((part.float() - mean) ** 2).sum(0) for part in values.split(65536))
    spread = (torch.as_tensor(square) / len(values)).sqrt()
    return Patches(values, torch.cat(labels), mean, torch.where(spread > 1e-6, spread, 1.0))


def _votes(labels: Tensor, rows: Tensor, classes: int) -> Tensor:
    return torch.cat([voted(labels[part], classes) for part in rows.split(256)])
