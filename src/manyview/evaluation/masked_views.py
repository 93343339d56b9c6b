"""Whether a masked model uses its other views: the same hidden patches of the same view, seen beside different views.

Beside overlapping views of its own scene, beside views of another scene, and beside views of its own scene that show
none of it. The masks are the same each time, so that only the content of the other views differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from manyview.config import Share
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.pairs import DepthReader, measured_pairs
from manyview.errors import UserError
from manyview.evaluation import intervals
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Model, Number, Protocol, Row, Summary, Work
from manyview.evaluation.tables import interval, markdown_table
from manyview.evaluation.tokens import image_size
from manyview.images.reading import ImageProblem, probe_image
from manyview.losses.masked import hidden_pixels, masked_mse
from manyview.models.model import CompletesViews, device_of
from manyview.models.mum.network import random_mask
from manyview.progress import track

CONDITIONS = {
    "own": "its own scene's overlapping views",
    "other_scene": "another scene's views",
    "apart": "views of its own scene that show none of it",
}


@dataclass(frozen=True)
class Target:
    """A frame to complete and the frames beside it under each condition, as indices into the manifest."""

    scene: str
    target: int
    beside: dict[str, list[int]]


@PROTOCOLS.add("masked-views")
@dataclass(frozen=True, kw_only=True)
class MaskedViews(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "masked-views"
    line: ClassVar[str] = "masked reconstruction beside the scene's own views, against other views (MuM)"
    needs = CompletesViews
    numbers: ClassVar[tuple[Number, ...]] = tuple(
        Number(key, f"loss beside {words}", digits=4) for key, words in CONDITIONS.items()
    )

    views: int = 2
    """Frames seen together, the target included."""
    items: int = 200
    """Target frames."""
    draws: int = 4
    """Masks per target."""
    mask_ratio: float = 0.75
    """Share of the patches hidden in every view."""
    reference: bool = False
    """Hide nothing of the other views (for models trained with an unmasked reference view)."""
    normalise: bool = True
    """Patches are compared after taking out their mean and spread, as in training."""
    overlap: Share = 0.4
    """Smallest overlap of the target with its scene's own views."""
    apart: Share = 0.01
    """Largest overlap with views that count as showing none of it."""
    size: int | tuple[int, int] | None = None
    """Resolution, (H, W) or a square; by default what the model was made for."""
    seed: int = 0
    """Seed of items and masks."""

    def __post_init__(self) -> None:
        if self.views < 2:
            raise UserError(f"--views {self.views}: the target needs at least one view beside it")

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        size = image_size(model, self.size)
        work.note(size=size)
        return [
            Item(f"{row:06d}", t.scene, {"target": t.target}, {"row": row, "beside": t.beside, "size": size})
            for row, t in enumerate(choose_items(self, data, size))
        ]

    @torch.inference_mode()
    def ask(self, model: Model, data: Manifest, item: Item) -> Answer:
        """`losses` (conditions, draws): means over the target's hidden patches; NaN where a condition has no views."""
        size, patch = tuple(item.about["size"]), model.config.patch_size
        answers = np.full((len(CONDITIONS), self.draws), np.nan, np.float32)
        cells = (size[0] // patch) * (size[1] // patch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + item.about["row"])
        masks = random_mask((self.draws, self.views, cells), self.mask_ratio, generator)
        if self.reference:
            masks[:, 1:] = False
        masks = masks.to(device_of(model))
        for number, condition in enumerate(CONDITIONS):
            beside = item.about["beside"].get(condition)
            if beside:
                frames = [item.names["target"], *beside]  # they may be of several scenes
                each = [load_views(data, [frame], size, depth=False).images for frame in frames]
                images = torch.cat(each, 1).to(masks.device).expand(self.draws, -1, -1, -1, -1)
                prediction = model(images, mask=masks).reconstruction[:, :1]
                truth = hidden_pixels(model.normalised(images[:, :1]), masks[:, :1], patch, normalise=self.normalise)
                total, count = masked_mse(prediction, truth)
                answers[number] = (total / count).cpu().numpy()
        return {"losses": answers}

    def judge(self, item: Item, answer: Answer, truth: None) -> Row:
        losses = answer["losses"].mean(1).tolist()
        return {key: loss if np.isfinite(loss) else None for key, loss in zip(CONDITIONS, losses, strict=True)}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        of = rows["model"]
        losses = {key: np.array([row[key] for row in of], float) for key in CONDITIONS}  # None becomes NaN
        own, scenes, seed = losses.pop("own"), [row["scene"] for row in of], work.settings["seed"]
        differences = {key: difference(own, other, scenes, seed) for key, other in losses.items()}
        return {**work.about, "items": len(of), "loss_own": float(own.mean()), "differences": differences}

    def sections(self, summary: Summary) -> list[str]:
        settings, differences = summary["settings"], summary["differences"]
        rows = [
            [
                CONDITIONS[name],
                f"{d['loss']:.4f}",
                f"{d['loss_own']:.4f}",
                f"{d['percent']:+.2f} %",
                interval(d["low"], d["high"], "+.2f"),
                f"{d['spread']:.2f}",
                f"{d['items']}",
            ]
            for name, d in differences.items()
            if d["items"]
        ]
        heads = ["beside", "loss", "beside its own", "difference", "95 % over scenes", "spread over items, %", "items"]
        return [
            f"{summary['items']} target views, {settings['views']} views together, {settings['draws']} masks each, "
            f"{100 * settings['mask_ratio']:.0f} % hidden. Loss over the target's hidden patches; positive: worse "
            "than beside overlapping views of its own scene.",
            markdown_table(heads, rows),
            *(f"No item had {CONDITIONS[name]}." for name, d in differences.items() if not d["items"]),
        ]


def choose_items(protocol: MaskedViews, data: Manifest, size: tuple[int, int]) -> list[Target]:
    """Targets spread over the scenes. Raises UserError when none has enough overlapping views."""
    groups, beside = data.scenes(), protocol.views - 1
    names = list(groups)
    rng = np.random.default_rng([protocol.seed, 4])
    rng.shuffle(names)
    most = -(-protocol.items // max(1, len(names)))
    reader, chosen = DepthReader(data, size), list[Target]()
    for scene, other in track(list(zip(names, [*names[1:], *names[:1]], strict=True)), label="items", unit="scene"):
        if len(chosen) >= protocol.items:
            break
        pairs, items = measured_pairs(reader, scene, groups[scene], 400, rng), []
        for target in sorted({pair.a for pair in pairs}):
            near = [p.b for p in pairs if p.a == target and p.overlap >= protocol.overlap]
            if len(near) < beside or not _readable(data, target):
                continue
            far = [p.b for p in pairs if p.a == target and p.overlap <= protocol.apart]
            choices = {"own": near, "other_scene": groups[other] if other != scene else [], "apart": far}
            large = {name: frames for name, frames in choices.items() if len(frames) >= beside}
            picked = {name: [int(i) for i in rng.permutation(frames)[:beside]] for name, frames in large.items()}
            items.append(Target(scene, target, picked))
        order = sorted(rng.permutation(len(items)).tolist(), key=lambda i: "apart" not in items[i].beside)
        chosen += [items[i] for i in order[:most]]
    if not chosen:
        raise UserError(
            f"no frame has {beside} views beside it with an overlap of {protocol.overlap:g}; lower overlap or views"
        )
    return chosen[: protocol.items]


def _readable(data: Manifest, frame: int) -> bool:
    try:
        return bool(probe_image(data.path(data[frame].image)))
    except ImageProblem:
        return False


def difference(own: np.ndarray, other: np.ndarray, scenes: Sequence[str], seed: int) -> dict[str, float]:
    """How much higher `other` is than `own` (N,), in percent of the mean of `own`, over items that have both.

    low, high: 95 % interval over scenes, NaN for one. spread: standard deviation over items.
    """
    both = np.isfinite(own) & np.isfinite(other)
    if not both.any():
        return {"items": 0, "percent": float("nan")}
    own, other = own[both], other[both]
    low, high = intervals.over_scenes(
        np.stack([own, other], 1),
        np.asarray(scenes)[both].tolist(),
        seed,
        number=lambda sums: 100 * (sums[..., 1] / sums[..., 0] - 1),
    )
    return {
        "items": int(both.sum()),
        "loss": float(other.mean()),
        "loss_own": float(own.mean()),
        "percent": float(100 * (other.mean() / own.mean() - 1)),
        "low": low,
        "high": high,
        "spread": float(100 * ((other - own) / own.mean()).std()),
    }
