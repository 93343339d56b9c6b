"""Segmentation by words alone (SAB3R, Table 4): the class whose name is most like a pixel's feature.

Names are put into prompts (CLIP: OpenAI's eighty for ImageNet), every pixel of the head's map takes the nearest text,
and that map is resized to the stored picture, where all pixels count. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.data.loading import read_classes
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Row, Summary, Work, skipped
from manyview.evaluation.dense_labels import OverClasses, class_sums, confusion
from manyview.evaluation.dense_maps import SPLITS
from manyview.evaluation.feature_maps import FeatureMaps, space_with_words
from manyview.evaluation.published import wanted
from manyview.evaluation.source_maps import at_source, read_for
from manyview.images.fit import same_picture
from manyview.images.reading import ImageProblem
from manyview.models.model import device_of
from manyview.pipelines.picture_table import places
from manyview.progress import track
from manyview.zoo.texts import embed_texts

BACKGROUND = "background"
ELSE = (
    *("wall", "floor", "ceiling", "window", "door", "curtain", "sky", "cloud", "ground", "grass", "field", "tree"),
    *("forest", "road", "building", "fence", "water", "sea", "river", "mountain", "rock", "sand", "snow", "shelf"),
)
"""What may be seen where Pascal VOC says background: words of ours; the paper's list is not published."""


@PROTOCOLS.add("zeroshot-segmentation")
@dataclass(frozen=True, kw_only=True)
class ZeroshotSegmentation(OverClasses):
    """The protocol's options."""

    name: ClassVar[str] = "zeroshot-segmentation"
    line: ClassVar[str] = "mIoU of pixels named by words alone, nothing trained (SAB3R, Table 4)"
    next_step: ClassVar[str] = "locate IMAGES 'a chair' -o found"
    unit: ClassVar[str] = "images"
    title: ClassVar[str] = "zero-shot segmentation"
    labels: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "shuffled": "control: its answers with shuffled names",
        "constant": "the commonest class everywhere",
    }

    space: str = ""
    """Feature space that names are looked up in; empty: the model's first one that has words."""
    templates: Literal["auto", "imagenet", "plain"] = "auto"
    """Prompts around names: OpenAI's eighty, none, or the eighty for CLIP's space only."""
    background: tuple[str, ...] = ELSE
    """Further words that count as the class called background, where the data has one."""
    images: int = 0
    """At most so many pictures, evenly spread; 0 for all of the validation split, or all where none is named."""
    seed: int = 0
    """Seed of the shuffled names."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        classes = data.info.get("classes")
        if not classes:
            raise UserError(f"the manifest names no classes; scan data with labels: {wanted('voc', 'ade20k')}")
        space_with_words(model, self.space)
        rows = [row for row in range(len(data)) if data[row].labels is not None]
        rows = [row for row in rows if data[row].split in SPLITS["test"]] or rows
        if not rows:
            raise UserError(f"no frame of the manifest has labels; scan data that has them: {wanted('voc', 'ade20k')}")
        items, counts = list[Item](), np.zeros(len(classes), np.int64)
        for place in track(places(len(rows), self.images or len(rows)), label="labels", unit="image"):
            row, key = rows[place], f"{len(items):06d}"
            frame, why = data[row], None
            try:
                labels = read_classes(data, str(frame.labels))
            except ImageProblem as problem:
                why = problem.reason
            else:
                beyond = labels[labels >= len(classes)]
                if beyond.size:
                    raise UserError(
                        f"{frame.labels} holds label {beyond.max()}, the manifest names {len(classes)} classes (0 to "
                        f"{len(classes) - 1}); scan with the right --classes, or mend the file"
                    )
                if not same_picture(labels.shape, (frame.height, frame.width)):
                    why = f"its labels are {labels.shape[1]}x{labels.shape[0]}, of another aspect"
                elif not (labels >= 0).any():
                    why = "no pixel has a class"
                else:
                    counts += np.bincount(labels[labels >= 0], minlength=len(classes))
                    work.keep_measured(key, map=labels.astype(np.int16))
            items.append(Item(key, frame.scene, {"image": frame.image}, {"row": row}, skipped=why))
        if all(item.skipped for item in items):
            raise UserError(f"no picture can be judged: {items[0].names['image']}: {items[0].skipped}")
        work.note(classes=list(classes), commonest=int(counts.argmax()))
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        space = space_with_words(model, self.space)
        classes = [str(name) for name in data.info["classes"]]
        more = list(self.background) if BACKGROUND in classes else []
        meaning = np.array([*range(len(classes)), *[classes.index(BACKGROUND) if more else 0] * len(more)], np.int16)
        eighty = self.templates == "imagenet" or (self.templates == "auto" and space == "clip")
        texts = embed_texts(space, [*classes, *more], "imagenet" if eighty else ("{}",))
        work.note(space=space, prompts=80 if eighty else 1, texts=len(texts))
        return {"model": partial(_answers, FeatureMaps(model, space), data, texts, meaning)}

    def truth(self, item: Item, work: Work) -> tuple[np.ndarray, int, int]:
        return work.measured(item.key)["map"], len(work.about["classes"]), work.about["commonest"]

    def judge(self, item: Item, answer: Answer, truth: Any) -> list[Row]:
        labels, classes, commonest = truth
        said = answer["map"]
        if said.shape != labels.shape:  # labels of half the size, say
            down, columns = (np.arange(n) * have // n for n, have in zip(labels.shape, said.shape, strict=True))
            said = said[down[:, None], columns]
        order = np.random.default_rng(self.seed).permutation(classes)
        other = np.empty(classes, int)
        other[order] = np.roll(order, 1)  # no class keeps its own name
        maps = {"model": said, "shuffled": other[said], "constant": np.full(labels.shape, commonest)}
        rows = []
        for method, predicted in maps.items():
            sums = class_sums(confusion(predicted, labels, classes))
            right, there = sums[0].sum(), sums[2].sum()
            rows.append({"method": method, "accuracy": float(right / there), "_sums": sums})
        return rows

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return {**work.about, self.unit: len(work.items), "skipped": skipped(work)}

    def sections(self, summary: Summary) -> list[str]:
        return [
            f"{summary[self.unit]} pictures, {len(summary['classes'])} classes, {summary['texts']} texts in the space "
            f"{summary['space']} with {summary['prompts']} prompts each; all labelled pixels of the stored pictures.",
            *super().sections(summary),
            *(f"Not judged: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]


def _answers(
    maps: FeatureMaps, data: Manifest, texts: Tensor, meaning: np.ndarray, items: Sequence[Item]
) -> Iterator[tuple[Item, Answer]]:
    for item in items:
        if item.skipped:
            continue
        image, fit = read_for(maps.model, data.path(data[item.about["row"]].image))
        features = maps(image[None].to(device_of(maps.model)))[0].float()
        if features.shape[-1] != texts.shape[-1]:
            raise UserError(
                f"features have {features.shape[-1]} channels, texts {texts.shape[-1]}: of different spaces"
            )
        near = F.normalize(features, dim=-1) @ texts.to(features).T
        best = torch.from_numpy(meaning)[near.argmax(-1).cpu()]
        yield item, {"map": at_source(best.double(), fit, mode="nearest")[0].astype(np.int16)}
