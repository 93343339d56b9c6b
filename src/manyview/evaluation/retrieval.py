"""Pictures found by what people say of them, and the other way round (the text of SAB3R's Table 5), nothing trained.

A picture is the mean of its features, each of length one, in a space that has words; a caption is its text there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from manyview.data.manifest import Manifest
from manyview.data.sources.objects import CAPTIONS
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Number, Protocol, Row, Summary, Work
from manyview.evaluation.feature_maps import FeatureMaps, space_with_words
from manyview.evaluation.published import wanted
from manyview.evaluation.source_maps import read_for
from manyview.models.model import device_of
from manyview.pipelines.picture_table import places
from manyview.progress import track
from manyview.zoo.texts import embed_texts

AT = (1, 5, 10)


@PROTOCOLS.add("text-retrieval")
@dataclass(frozen=True, kw_only=True)
class TextRetrieval(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "text-retrieval"
    line: ClassVar[str] = "recall of pictures by captions and captions by pictures, nothing trained (SAB3R, Table 5)"
    unit: ClassVar[str] = "images"
    title: ClassVar[str] = "retrieval by text"
    labels: ClassVar[Mapping[str, str]] = {"model": "model", "shuffled": "control: captions of another picture"}
    numbers: ClassVar[tuple[Number, ...]] = (
        *(Number(f"text_to_image_{k}", f"text → image R@{k}", "higher", digits=1, percent=True) for k in AT),
        *(Number(f"image_to_text_{k}", f"image → text R@{k}", "higher", digits=1, percent=True) for k in AT),
    )

    space: str = ""
    """Feature space that captions are looked up in; empty: the model's first one that has words."""
    images: int = 0
    """At most so many pictures, evenly spread; 0 for all. Recall depends on how many there are."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        captions: dict[str, list[str]] = data.info.get(CAPTIONS) or {}
        space_with_words(model, self.space)
        rows = [row for row in range(len(data)) if captions.get(data[row].image)]
        if len(rows) < 2:
            raise UserError(f"the manifest has captions of fewer than 2 pictures; scan COCO: {wanted('coco-captions')}")
        chosen = [rows[place] for place in places(len(rows), self.images or len(rows))]
        return [
            Item(f"{n:06d}", data[row].scene, {"image": name}, {"row": row, "captions": captions[name]})
            for n, row in enumerate(chosen)
            for name in [data[row].image]
        ]

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        space = space_with_words(model, self.space)
        work.note(space=space)
        return {"model": partial(_answers, FeatureMaps(model, space), data, space, work.items)}

    def judge(self, item: Item, answer: Answer, truth: Any) -> list[Row]:
        return [
            {
                "method": method,
                **{f"text_to_image_{k}": float((answer[f"{method}_captions"] < k).mean()) for k in AT},
                **{f"image_to_text_{k}": float(answer[f"{method}_image"] < k) for k in AT},
            }
            for method in self.labels
        ]

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        captions = sum(len(item.about["captions"]) for item in work.items)
        return {"images": len(work.items), "captions": captions, "space": work.about["space"]}

    def sections(self, summary: Summary) -> list[str]:
        chance = 100 / max(1, summary["images"])
        return [
            f"{summary['images']} pictures and {summary['captions']} captions, space {summary['space']}; by chance "
            f"R@1 is {chance:.2f} %.",
            *super().sections(summary),
        ]


def _answers(
    maps: FeatureMaps, data: Manifest, space: str, every: Sequence[Item], missing: Sequence[Item]
) -> Iterator[tuple[Item, Answer]]:
    """Ranks, from 0: of the picture for each of its captions, and of its best caption for the picture."""
    pictures = []
    for item in track(every, label="pictures", unit="picture"):
        image, _ = read_for(maps.model, data.path(data[item.about["row"]].image))
        features = F.normalize(maps(image[None].to(device_of(maps.model)))[0].flatten(0, 1).float(), dim=-1)
        pictures.append(F.normalize(features.mean(0), dim=0).cpu())
    owner = np.repeat(np.arange(len(every)), [len(item.about["captions"]) for item in every])
    texts = embed_texts(space, [text for item in every for text in item.about["captions"]])
    near = torch.stack(pictures) @ texts.T  # (pictures, captions)
    wanted = {item.key for item in missing}
    for place, item in enumerate(every):
        if item.key not in wanted:
            continue
        answer: Answer = {}
        for method, source in (("model", place), ("shuffled", (place + 1) % len(every))):
            own = np.flatnonzero(owner == source)
            columns = near[:, own]
            answer[f"{method}_captions"] = (columns > columns[place]).sum(0).numpy()
            answer[f"{method}_image"] = np.array(int((near[place] > near[place, own].max()).sum()))
        yield item, answer
