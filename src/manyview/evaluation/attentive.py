"""Classification by an attentive probe on frozen features (CAPI's protocol; MuM, Table 9; SAB3R, Table 5, for heads).

Many probes (learning rate x weight decay) see the same augmented pictures; a tenth of the training pictures picks one,
which is then judged. A picture's class is the folder it lies in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from manyview.config import Positive
from manyview.data.manifest import Manifest
from manyview.engine.feed import Feed, workers_for
from manyview.errors import UserError
from manyview.evaluation.base import (
    PROTOCOLS,
    Answer,
    Item,
    Method,
    Model,
    Number,
    Protocol,
    Row,
    Summary,
    Work,
    skipped,
)
from manyview.evaluation.dense_maps import SPLITS
from manyview.evaluation.feature_maps import FeatureMaps
from manyview.evaluation.published import wanted
from manyview.evaluation.tokens import LABELS, image_size
from manyview.evaluation.work import Skipped
from manyview.images.fit import cover
from manyview.images.reading import ImageProblem, read_fitted, read_image
from manyview.models.dense_heads import AttentiveHead
from manyview.models.family import encoder_of
from manyview.models.model import device_of
from manyview.pipelines.picture_table import places
from manyview.progress import track
from manyview.types import Batches, Views

LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
DECAYS = (5e-4, 1e-3, 5e-2)
STEPS = 12_500
"""Optimiser steps as published, with 1,250 of warm-up."""
Maps = Callable[[Tensor], Tensor]


@PROTOCOLS.add("attentive-probe")
@dataclass(frozen=True, kw_only=True)
class AttentiveProbe(Protocol):
    """The protocol's options. `published=true` sets 12,500 steps and all 30 probes."""

    name: ClassVar[str] = "attentive-probe"
    line: ClassVar[str] = "accuracy of an attentive probe on frozen features (ImageNet; MuM, Table 9; SAB3R, Table 5)"
    unit: ClassVar[str] = "images"
    title: ClassVar[str] = "attentive probe"
    labels: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "untrained": LABELS["untrained"],
        "constant": "the commonest class",
    }
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("top1", "top-1", "higher", digits=2, percent=True),
        Number("top5", "top-5", "higher", digits=2, percent=True),
    )

    train: Manifest | None = None
    """Pictures to learn from; by default those of the data's own training split."""
    published: bool = False
    """Steps and probes of the published evaluation."""
    steps: int = 1500
    """Optimiser steps; the first tenth warms up, then a cosine to zero."""
    batch: int = 128
    """Pictures per step; learning rates are scaled by it / 256."""
    lrs: tuple[Positive, ...] = (2e-4, 1e-3, 5e-3)
    """Learning rates that are tried."""
    decays: tuple[float, ...] = (1e-3,)
    """Weight decays that are tried."""
    augment: bool = True
    """Random resized crops (8 % of the area or more) and flips."""
    held_out: float = 0.1
    """Share of the training pictures that picks the probe."""
    head: str = ""
    """Features of this head of the model instead of the encoder's (clip, dino, …), averaged over its patches."""
    norm: bool = True
    """Tokens after the encoder's final LayerNorm."""
    size: int | None = None
    """Side of the pictures; by default what the model was made for."""
    baselines: bool = True
    """Also a probe on the same model with random weights, and the commonest class."""
    train_images: int = 0
    """At most so many training pictures, evenly spread; 0 for all."""
    test_images: int = 0
    """At most so many test pictures, likewise."""
    seed: int = 0
    """Seed of crops, of the probes and of the random weights."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        FeatureMaps(model, self.head)
        side = max(image_size(encoder_of(model), self.size))
        source, train, test = self._rows(data)
        classes = sorted({class_of(source, row) for row in train})
        if len(classes) < 2:
            raise UserError(f"the training pictures show {len(classes)} class; at least 2 are needed to tell apart")
        unknown = sorted({class_of(data, row) for row in test} - set(classes))
        if unknown:
            raise UserError(
                f"{len(unknown)} classes of the test pictures are not among the {len(classes)} of the training "
                f"pictures, first {unknown[0]}; classes are the folders that pictures lie in"
            )
        work.note(side=side, classes=classes, train=len(train))
        known = {name: number for number, name in enumerate(classes)}
        return [
            Item(
                f"{place:06d}",
                data[row].scene,
                {"image": data[row].image},
                {"row": row, "class": known[class_of(data, row)]},
            )
            for place, row in enumerate(test)
        ]

    def _rows(self, data: Manifest) -> tuple[Manifest, list[int], list[int]]:
        source, rows = self.train or data, {name: list(range(len(data))) for name in SPLITS}
        if self.train is not None:
            rows["train"] = list(range(len(self.train)))
        else:
            rows = {name: [row for row in of if data[row].split in SPLITS[name]] for name, of in rows.items()}
        if not all(rows.values()):
            raise UserError(
                "the manifest has no pictures of both train and val; scan the folder that holds both "
                f"({wanted('imagenet')}), or give --train TRAIN.parquet"
            )
        most = {"train": self.train_images, "test": self.test_images}
        train, test = ([rows[n][p] for p in places(len(rows[n]), most[n] or len(rows[n]))] for n in ("train", "test"))
        return source, train, test

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        maps: dict[str, FeatureMaps | None] = {"model": FeatureMaps(model, self.head, self.norm)}
        if self.baselines:
            maps["untrained"] = FeatureMaps(model.untrained(self.seed), self.head, self.norm)
            maps["constant"] = None
        patch = int(encoder_of(model).config.patch_size)
        return {name: partial(self._answers, name, of, patch, data, work) for name, of in maps.items()}

    def _answers(
        self, name: str, maps: FeatureMaps | None, patch: int, data: Manifest, work: Work, items: Sequence[Item]
    ) -> Iterator[tuple[Item, Answer | Skipped]]:
        source, train, _ = self._rows(data)
        classes, side = work.about["classes"], int(work.about["side"])
        known = {each: number for number, each in enumerate(classes)}
        labels = np.array([known[class_of(source, row)] for row in train])
        if maps is None:
            order = np.argsort(-np.bincount(labels, minlength=len(classes)), kind="stable")[:5]
            yield from ((item, {"best": order}) for item in items)
            return
        device = device_of(maps.model)

        def tokens(images: Tensor) -> Tensor:
            return tokens_of(maps, images.to(device), patch)

        probe, learned = self._trained(tokens, source, train, labels, side, len(classes), device, work.workers)
        work.keep_learned(name, learned)
        for start in range(0, len(items), 64):
            part = items[start : start + 64]
            pixels, problems = centred(data, [item.about["row"] for item in part], side)
            with torch.inference_mode():
                best = probe(tokens(pixels)).topk(min(5, len(classes))).indices.cpu().numpy()
            for place, item in enumerate(part):
                why = problems.get(place)
                yield item, ({"best": best[place]} if why is None else Skipped(why))

    def _trained(
        self,
        tokens: Maps,
        data: Manifest,
        rows: Sequence[int],
        labels: np.ndarray,
        side: int,
        classes: int,
        device: torch.device,
        workers: int | None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The probe that is best on the pictures held out, and what all of them reached."""
        order = np.random.default_rng([self.seed, 42]).permutation(len(rows))
        held, rest = np.split(order, [max(1, round(self.held_out * len(rows)))])
        if not len(rest):
            raise UserError(f"{len(rows)} training picture leaves none to learn from; give more")
        lrs, decays, steps = (LRS, DECAYS, STEPS) if self.published else (self.lrs, self.decays, self.steps)
        settings = list(itertools.product(lrs, decays))
        batches = Crops(
            data, [rows[i] for i in rest], labels[rest], side, self.batch, augment=self.augment, seed=self.seed
        )
        probes: nn.ModuleList | None = None
        with Feed(batches, range(steps), device=device, workers=workers_for(device, workers)) as feed:
            for step in track(range(steps), label="probes", unit="step"):
                with torch.inference_mode():
                    seen = tokens(feed.next().images[:, 0])
                seen, wanted = seen.clone(), torch.from_numpy(batches.labels).to(device)
                if probes is None:
                    probes, optimiser = self._probes(seen.shape[-1], classes, settings, device)
                for group, (lr, _) in zip(optimiser.param_groups, settings, strict=True):
                    group["lr"] = lr * self.batch / 256 * rate(step, steps)
                losses = [F.cross_entropy(probe(seen), wanted, ignore_index=-1) for probe in probes]
                optimiser.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()
                optimiser.step()
        assert probes is not None
        right = np.zeros(len(settings))
        for start in range(0, len(held), 64):
            part = held[start : start + 64]
            pixels, _ = centred(data, [rows[i] for i in part], side)
            with torch.inference_mode():
                seen = tokens(pixels)
                right += [float((probe(seen).argmax(-1).cpu().numpy() == labels[part]).sum()) for probe in probes]
        table = [
            {"lr": lr, "decay": decay, "top1": hits / len(held)}
            for (lr, decay), hits in zip(settings, right, strict=True)
        ]
        best = int(right.argmax())
        return probes[best].eval(), {"picked": table[best], "tried": table}

    def _probes(
        self, dim: int, classes: int, settings: Sequence[tuple[float, float]], device: torch.device
    ) -> tuple[nn.ModuleList, torch.optim.Optimizer]:
        """All from the same start."""
        probes = []
        for _ in settings:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                probes.append(AttentiveHead(dim, classes))
        of = nn.ModuleList(probes).to(device)
        groups = [
            {"params": list(probe.parameters()), "lr": lr, "weight_decay": decay}
            for probe, (lr, decay) in zip(of, settings, strict=True)
        ]
        return of, torch.optim.AdamW(groups, betas=(0.9, 0.95))

    def judge(self, item: Item, answer: Answer, truth: Any) -> Row:
        found = answer["best"] == item.about["class"]
        return {"top1": float(found[0]), "top5": float(found.any())}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        about = work.about
        learned = {name: of for name in rows if (of := work.learned(name))}
        counts = {"train": about["train"], "test": len(work.items)}
        return {
            "side": about["side"],
            "classes": len(about["classes"]),
            "images": counts,
            "learned": learned,
            "skipped": skipped(work),
        }

    def sections(self, summary: Summary) -> list[str]:
        images, side = summary["images"], summary["side"]
        return [
            f"{summary['classes']} classes at {side}x{side} pixels: {images['train']} pictures to train on, a share of "
            f"{self.held_out:g} of which picks the probe, {images['test']} to test.",
            *super().sections(summary),
            *(f"Left out: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]


def class_of(data: Manifest, row: int) -> str:
    """The folder that a picture lies in."""
    return PurePosixPath(data[row].image).parent.name


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def tokens_of(maps: FeatureMaps, images: Tensor, patch: int) -> Tensor:
    """(N, P, D): features averaged over patches where they are finer, 16 pictures at a time."""
    parts = []
    for part in images.split(16):
        features = maps(part).permute(0, 3, 1, 2).float()
        grid = (part.shape[-2] // patch, part.shape[-1] // patch)
        if features.shape[-2] > grid[0]:
            features = F.adaptive_avg_pool2d(features, grid)
        parts.append(features.flatten(2).transpose(1, 2))
    return torch.cat(parts)


def centred(data: Manifest, rows: Sequence[int], side: int) -> tuple[Tensor, dict[int, str]]:
    """Pictures (N, 3, side, side) in [0, 1], scaled to cover the square, and by place why one could not be read."""
    pixels, problems = torch.zeros(len(rows), 3, side, side), {}
    for place, row in enumerate(rows):
        try:
            image, _ = read_fitted(data.path(data[row].image), lambda size: cover(size, (side, side)))
            pixels[place] = torch.from_numpy(image).permute(2, 0, 1) / 255
        except ImageProblem as problem:
            problems[place] = problem.reason
    return pixels, problems


class Crops(Batches):
    """Random pictures of a training set, cropped and flipped at random; a pure function of the step."""

    def __init__(
        self,
        data: Manifest,
        rows: Sequence[int],
        labels: np.ndarray,
        side: int,
        batch: int,
        *,
        augment: bool,
        seed: int,
    ) -> None:
        self.data, self.rows, self.all_labels, self.side = data, list(rows), labels, side
        self.batch, self.augment, self.seed = batch, augment, seed
        self.labels = np.zeros(0, np.int64)
        """Of the pictures that `finish` gave last; -1 for one that could not be read."""

    def load(self, index: int) -> tuple[Tensor, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        chosen = rng.integers(0, len(self.rows), self.batch)
        pixels, labels = torch.zeros(self.batch, self.side, self.side, 3, dtype=torch.uint8), self.all_labels[chosen]
        for place, number in enumerate(chosen):
            try:
                image = read_image(self.data.path(self.data[self.rows[number]].image))
            except ImageProblem:
                labels[place] = -1
                continue
            box = random_box(image.shape[:2], rng) if self.augment else None
            picture = Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)
            cropped = np.array(picture)
            pixels[place] = torch.from_numpy(
                cropped[:, ::-1].copy() if self.augment and rng.random() < 0.5 else cropped
            )
        return pixels, labels

    def finish(self, loaded: tuple[Tensor, np.ndarray], device: torch.device) -> Views:
        pixels, self.labels = loaded
        return Views(pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)[:, None].float() / 255)

    def describe(self) -> dict[str, Any]:
        return {"pictures": len(self.rows), "batch": self.batch}


def random_box(size: tuple[int, ...], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of 8 to 100 % of the area, 3:4 to 4:3, inside a picture of (H, W)."""
    height, width = size[:2]
    for _ in range(10):
        area, ratio = rng.uniform(0.08, 1) * height * width, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(height, width)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
