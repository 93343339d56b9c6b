"""Whether a masked model uses its other views: the same hidden patches of the same view, seen beside different views.

Beside overlapping views of its own scene, beside views of another scene, and beside views of its own scene that show
none of it. The masks are the same each time, so that only the content of the other views differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.config import to_dict
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import store
from manyview.evaluation.base import PROTOCOLS, Model, Protocol, Summary
from manyview.evaluation.matching_frames import image_size
from manyview.evaluation.pairs import DepthReader, measured_pairs
from manyview.evaluation.report import markdown_table
from manyview.evaluation.tokens import device_of
from manyview.images.reading import ImageProblem
from manyview.losses.masked import hidden_pixels, masked_mse
from manyview.models.mum import random_mask
from manyview.progress import track

CONDITIONS = {
    "own": "its own scene's overlapping views",
    "other_scene": "another scene's views",
    "apart": "views of its own scene that show none of it",
}


@dataclass(frozen=True)
class Item:
    """A target frame and the frames beside it under each condition, as indices into the manifest."""

    scene: str
    target: int
    beside: dict[str, list[int]]


@PROTOCOLS.add("masked-views")
@dataclass(frozen=True, kw_only=True)
class MaskedViews(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "masked-views"
    line: ClassVar[str] = "masked reconstruction beside the scene's own views, against other views (MuM)"

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
    overlap: float = 0.4
    """Smallest overlap of the target with its scene's own views."""
    apart: float = 0.01
    """Largest overlap with views that count as showing none of it."""
    size: int | tuple[int, int] | None = None
    """Resolution, (H, W) or a square; by default what the model was made for."""
    seed: int = 0
    """Seed of items and masks."""

    def __post_init__(self) -> None:
        if self.views < 2:
            raise UserError(f"--views {self.views}: the target needs at least one view beside it")

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = to_dict({field.name: getattr(self, field.name) for field in fields(self)})
        return settings

    def export(self, model: Model, data: Manifest, out: Path) -> None:
        file = out / "predictions" / "losses.npz"
        if file.is_file():
            return
        if not hasattr(model, "normalised"):
            raise UserError(f"a {type(model).__name__} does not fill in hidden patches; give a MuM model")
        size = image_size(model, self.size)
        items = choose_items(self, data, size)
        losses = np.full((len(items), len(CONDITIONS), self.draws), np.nan, np.float32)
        for row, item in enumerate(track(items, label="masked views", unit="item")):
            losses[row] = self._losses(model, data, item, size, row)
        store.write_json(out / "items.json", {"size": size, "items": [asdict(item) for item in items]})
        store.save_arrays(file, losses=losses)

    @torch.inference_mode()
    def _losses(self, model: Any, data: Manifest, item: Item, size: tuple[int, int], row: int) -> np.ndarray:
        """(conditions, draws): mean over the target's hidden patches; NaN where a condition has no views."""
        patch, answers = model.config.patch_size, np.full((len(CONDITIONS), self.draws), np.nan)
        cells = (size[0] // patch) * (size[1] // patch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + row)
        masks = random_mask((self.draws, self.views, cells), self.mask_ratio, generator)
        if self.reference:
            masks[:, 1:] = False
        masks = masks.to(device_of(model))
        for number, condition in enumerate(CONDITIONS):
            beside = item.beside.get(condition)
            if beside:
                images = _images(data, [item.target, *beside], size).to(masks.device)
                images = images.expand(self.draws, -1, -1, -1, -1)
                prediction = model(images, mask=masks).reconstruction[:, :1]
                truth = hidden_pixels(
                    model.normalised(images[:, :1]), masks[:, :1], patch, normalise=self.normalise
                )
                total, count = masked_mse(prediction, truth)
                answers[number] = (total / count).cpu().numpy()
        return answers

    def score(self, out: Path) -> Summary:
        described, known = store.read_settings(out), store.read_json(out / "items.json")
        losses = store.load_arrays(out / "predictions" / "losses.npz")["losses"].mean(
            2
        )  # (items, conditions)
        rows = [
            {"scene": item["scene"], "target": item["target"], **dict(zip(CONDITIONS, values, strict=True))}
            for item, values in zip(known["items"], losses.tolist(), strict=True)
        ]
        store.write_lines(out / "results.jsonl", rows)
        scenes = np.array([row["scene"] for row in rows])
        summary = {
            "protocol": self.name,
            **described["names"],
            "settings": described["settings"],
            "size": known["size"],
            "items": len(rows),
            "loss_own": float(losses[:, 0].mean()),
            "differences": {
                name: difference(losses[:, 0], losses[:, number], scenes, described["settings"]["seed"])
                for number, name in enumerate(CONDITIONS)
                if number
            },
        }
        store.write_json(out / "summary.json", summary)
        store.write_text(out / "summary.md", self.markdown(summary))
        return summary

    def markdown(self, summary: Summary) -> str:
        settings = summary["settings"]
        rows = [
            [CONDITIONS[name], f"{d['loss']:.4f}", f"{d['loss_own']:.4f}", f"{d['percent']:+.2f} %",
             f"{d['low']:+.2f} to {d['high']:+.2f}", f"{d['spread']:.2f}", f"{d['items']}"]
            for name, d in summary["differences"].items()
            if d["items"]
        ]  # fmt: skip
        heads = ["beside", "loss", "beside its own", "difference", "95 % over scenes", "spread over items, %",
                 "items"]  # fmt: skip
        none = [
            f"No item had {CONDITIONS[name]}." for name, d in summary["differences"].items() if not d["items"]
        ]
        return "\n\n".join([
            f"# {summary.get('model', 'the model')} on {summary.get('data', 'the data')}: masked-views",
            f"{summary['items']} target views, {settings['views']} views together, {settings['draws']} masks each, "
            f"{100 * settings['mask_ratio']:.0f} % hidden. Loss over the target's hidden patches; positive: worse "
            "than beside overlapping views of its own scene.",
            markdown_table(heads, rows), *none,
        ]) + "\n"  # fmt: skip


def _images(data: Manifest, frames: Sequence[int], size: tuple[int, int]) -> Tensor:
    """(1, V, 3, H, W); the frames may be of several scenes."""
    return torch.cat([load_views(data, [frame], size).images for frame in frames], 1)


def choose_items(protocol: MaskedViews, data: Manifest, size: tuple[int, int]) -> list[Item]:
    """Targets spread over the scenes. Raises UserError when none has enough overlapping views."""
    groups, beside = data.scenes(), protocol.views - 1
    names = list(groups)
    rng = np.random.default_rng([protocol.seed, 4])
    rng.shuffle(names)
    most = -(-protocol.items // max(1, len(names)))
    reader = DepthReader(data, size)
    found: list[Item] = []
    for number, scene in enumerate(track(names, label="items", unit="scene")):
        if len(found) >= protocol.items:
            break
        pairs = measured_pairs(reader, scene, groups[scene], 400, rng)
        others = names[(number + 1) % len(names)]
        items = []
        for target in sorted({pair.a for pair in pairs}):
            near = [p.b for p in pairs if p.a == target and p.overlap >= protocol.overlap]
            far = [p.b for p in pairs if p.a == target and p.overlap <= protocol.apart]
            if len(near) < beside or not _readable(data, target):
                continue
            strangers = groups[others] if others != scene else []
            choices = {"own": near, "other_scene": strangers, "apart": far}
            picked = {
                name: [int(i) for i in rng.permutation(frames)[:beside]]
                for name, frames in choices.items()
                if len(frames) >= beside
            }
            items.append(Item(scene, target, picked))
        order = sorted(rng.permutation(len(items)).tolist(), key=lambda i: "apart" not in items[i].beside)
        found += [items[i] for i in order[:most]]
    if not found:
        raise UserError(
            f"no frame has {beside} views beside it with an overlap of {protocol.overlap:g}; lower overlap or views"
        )
    return found[: protocol.items]


def _readable(data: Manifest, frame: int) -> bool:
    from manyview.images.reading import probe_image

    try:
        probe_image(data.path(data[frame].image))
    except ImageProblem:
        return False
    return True


def difference(
    own: np.ndarray, other: np.ndarray, scenes: np.ndarray, seed: int, draws: int = 2000
) -> dict[str, float]:
    """How much higher `other` is than `own` (N,), in percent of the mean of `own`, over items that have both.

    low, high: 95 % interval from redrawing scenes. spread: standard deviation over items.
    """
    both = np.isfinite(own) & np.isfinite(other)
    if not both.any():
        return {"items": 0, "percent": float("nan")}
    own, other, scenes = own[both], other[both], scenes[both]
    sums = np.array([[own[scenes == s].sum(), other[scenes == s].sum()] for s in np.unique(scenes)])
    drawn = sums[np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))].sum(1)
    low, high = np.percentile(100 * (drawn[:, 1] / drawn[:, 0] - 1), [2.5, 97.5])
    return {
        "items": int(both.sum()),
        "loss": float(other.mean()),
        "loss_own": float(own.mean()),
        "percent": float(100 * (other.mean() / own.mean() - 1)),
        "low": float(low),
        "high": float(high),
        "spread": float(100 * ((other - own) / own.mean()).std()),
    }
