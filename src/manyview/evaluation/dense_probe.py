"""Linear probes of dense tasks on a frozen encoder: segmentation and depth (DINOv2's protocols, as DUNE uses them).

The encoder's tokens are kept once; one linear map per task learns from them. Hyper-parameters are fixed beforehand,
so there is no validation split. Everything is plain PyTorch.
"""

from __future__ import annotations

import abc
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.config import to_dict
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation import store
from manyview.evaluation.base import Model, Protocol, Summary
from manyview.evaluation.dense_fit import Examples, Schedule, answers, train_head
from manyview.evaluation.dense_maps import Kind, Part, split
from manyview.evaluation.matching import image_size
from manyview.evaluation.report import markdown_table
from manyview.evaluation.tokens import (
    Tokenise,
    Tokens,
    device_of,
    encode_frames,
    encoder_of,
    from_pixels,
    together,
    untrained,
)
from manyview.models.dense_heads import DepthHead, SegmentationHead

LABELS = {
    "model": "model",
    "projected": "model, through its projector",
    "untrained": "the same encoder, random weights",
    "pixels": "raw pixels",
    "constant": "one answer for every pixel",
}


@dataclass(frozen=True, kw_only=True)
class DenseProbe(Protocol):
    """Options of the dense probes."""

    kind: ClassVar[Kind]

    train: Manifest | None = None
    """Frames to train the head on; by default a share of the data's scenes."""
    baselines: bool = True
    """Also the same encoder with random weights, raw pixels, and one answer for every pixel."""
    size: int | tuple[int, int] | None = None
    """Resolution of images and maps, (H, W) or a square; by default what the model was made for."""
    norm: bool = True
    """Tokens after the encoder's final LayerNorm; false: as they leave the last block."""
    project: str = ""
    """Also judge the tokens a DUNE model projects into this teacher's space, as part of the frozen encoder."""
    fit: Schedule = field(default_factory=Schedule)
    """How the head is trained (fit.steps, fit.batch, fit.lr, ...)."""
    share: float = 0.7
    """Share of the scenes to train on when there are no training frames of their own."""
    train_images: int = 0
    """At most so many training frames, evenly spread; 0 for all."""
    test_images: int = 0
    """At most so many test frames, likewise."""
    seed: int = 0
    """Seed of the split, the random weights and the head."""

    def settings(self) -> dict[str, Any]:
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"}
        plain: dict[str, Any] = to_dict(chosen)
        return {**plain, "train": None if self.train is None else self.train.digest()}

    @abc.abstractmethod
    def head(self, dim: int, known: dict[str, Any]) -> SegmentationHead | DepthHead:
        """A fresh head for tokens of `dim` channels, given what `know` said."""

    @abc.abstractmethod
    def know(self, part: Part, maps: np.ndarray) -> dict[str, Any]:
        """What the training maps decide: the number of classes, the best constant answer."""

    @abc.abstractmethod
    def clean(self, values: np.ndarray) -> np.ndarray:
        """A map with what is not to be looked at marked: -1 in labels, 0 in depth."""

    @abc.abstractmethod
    def judge(self, predicted: np.ndarray, true: np.ndarray, known: dict[str, Any]) -> dict[str, Any]:
        """Numbers over all pictures (N, H, W), and `items`, a list with those of each."""

    def tokens(self, encoder: Any, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> what the head sees of an encoder, (N, P, D)."""
        return encoder.encode(images, norm=self.norm).patches

    def methods(self, model: Any) -> list[Tokenise]:
        encoder = encoder_of(model)
        found: list[Tokenise] = [lambda images: {"model": self.tokens(encoder, images)}]
        if self.project:
            found.append(lambda images: {"projected": _projected(model, self.project, images)})
        if self.baselines:
            fresh = encoder_of(untrained(model, self.seed))
            found.append(lambda images: {"untrained": self.tokens(fresh, images)})
            found.append(from_pixels(int(encoder.config.patch_size)))
        return found

    def export(self, model: Model, data: Manifest, out: Path) -> None:
        done = out / "training" / "done"
        if done.is_file():
            return
        encoder = encoder_of(model)
        size, patch = image_size(encoder, self.size), int(encoder.config.patch_size)
        most = (self.train_images, self.test_images)
        parts = split(data, self.train, self.kind, share=self.share, most=most, seed=self.seed)
        folders = {"train": out / "training" / "maps", "test": out / "measured"}
        maps = {
            name: part.write(self.kind, size, folders[name] / f"{name}.npy", self.clean)
            for name, part in parts.items()
        }
        known = self.know(parts["train"], maps["train"])
        tokens, skipped = _encode(together(self.methods(model)), parts, size, out, device_of(encoder))
        rows = {name: _rows(part, skipped[name]) for name, part in parts.items()}
        for method, of_part in tokens.items():
            examples = {
                name: Examples(of_part[name], part.frames, rows[name], maps[name],
                               (size[0] // patch, size[1] // patch))
                for name, part in parts.items()
            }  # fmt: skip
            self._predict(method, examples, known, out, device_of(encoder))
        if self.baselines:
            constant = np.full(maps["test"].shape[1:], known["constant"])
            _save(
                out, "constant", (constant[None] for _ in parts["test"].frames), maps["test"].shape, self.kind
            )
        store.write_json(out / "items.json", _items(parts, rows["test"], skipped, size, known))
        store.write_text(done, "")
        shutil.rmtree(out / "training" / "tokens", ignore_errors=True)  # large, and quickly made again
        shutil.rmtree(out / "training" / "maps", ignore_errors=True)

    def _predict(
        self, method: str, examples: dict[str, Examples], known: dict[str, Any], out: Path,
        device: torch.device,
    ) -> None:  # fmt: skip
        """Train a head and write its answers, unless they are there."""
        if (out / "predictions" / f"{method}.npy").is_file():
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = self.head(examples["train"].tokens.dim, known).to(device)
        loss = train_head(head, examples["train"], self.fit, label=method, seed=self.seed)
        store.write_json(out / "training" / f"{method}.json", {"loss": loss})
        _save(out, method, answers(head, examples["test"]), examples["test"].maps.shape, self.kind)

    def score(self, out: Path) -> Summary:
        described, items = store.read_settings(out), store.read_json(out / "items.json")
        rows, lines = [], []
        true = np.load(out / "measured" / "test.npy", mmap_mode="r", allow_pickle=False)[items["rows"]]
        names = [path.stem for path in (out / "predictions").glob("*.npy")]
        for method in sorted(names, key=lambda name: list(LABELS).index(name)):
            file = out / "predictions" / f"{method}.npy"
            predicted = np.load(file, mmap_mode="r", allow_pickle=False)[items["rows"]]
            numbers = self.judge(predicted, true, items["known"])
            each = numbers.pop("items")
            rows.append({"method": method, "label": LABELS[method], **numbers})
            lines += [
                {"method": method, "image": image, **item}
                for image, item in zip(items["images"], each, strict=True)
            ]
        summary = {
            "protocol": self.name,
            **described["names"],
            "settings": described["settings"],
            "size": items["size"],
            "images": {"train": items["train"], "test": len(items["rows"])},
            "scenes": items["scenes"],
            "skipped": items["skipped"],
            "rows": rows,
        }
        store.write_lines(out / "results.jsonl", lines)
        store.write_json(out / "summary.json", summary)
        store.write_text(out / "summary.md", self.markdown(summary))
        return summary

    heads: ClassVar[dict[str, str]]
    """Column of a row -> its head in the table."""

    def markdown(self, summary: Summary) -> str:
        rows = [[row["label"], *(f"{row[column]:.3f}" for column in self.heads)] for row in summary["rows"]]
        height, width = summary["size"]
        images, scenes = summary["images"], summary["scenes"]
        return "\n\n".join([
            f"# {summary.get('model', 'the model')} on {summary.get('data', 'the data')}: {self.name}",
            f"A linear head on frozen features, {height}x{width} pixels: {images['train']} images of "
            f"{scenes['train']} scenes to train on, {images['test']} of {scenes['test']} others to test; "
            "hyper-parameters fixed beforehand.",
            markdown_table(["", *self.heads.values()], rows),
            *(f"Left out: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]) + "\n"  # fmt: skip


def _projected(model: Any, teacher: str, images: Tensor) -> Tensor:
    if not callable(getattr(model, "project", None)):
        raise UserError(f"project={teacher}: a {type(model).__name__} has no projectors; give a DUNE model")
    blocks = model.encode(images, norm=False, layers=model.projected_layers)
    return model.project(blocks, teacher).patches


def _encode(
    tokenise: Tokenise, parts: dict[str, Part], size: tuple[int, int], out: Path, device: torch.device
) -> tuple[dict[str, dict[str, Tokens]], dict[str, dict[int, str]]]:
    """Tokens by method and part, and the frames of each part that could not be read."""
    tokens: dict[str, dict[str, Tokens]] = {}
    skipped = {}
    for name, part in parts.items():
        folder = out / "training" / "tokens" / name
        found, skipped[name] = encode_frames(
            tokenise, part.data, part.frames, size, folder=folder, device=device
        )
        for method, values in found.items():
            tokens.setdefault(method, {})[name] = values
    return tokens, skipped


def _rows(part: Part, unreadable: Iterable[int]) -> np.ndarray:
    bad = set(unreadable)
    rows = np.array([row for row, frame in enumerate(part.frames) if frame not in bad], np.int64)
    if not len(rows):
        raise UserError(f"no image of {part.data.root} can be read, first {part.data[part.frames[0]].image}")
    return rows


def _save(out: Path, method: str, maps: Iterable[np.ndarray], shape: tuple[int, ...], kind: Kind) -> None:
    """predictions/METHOD.npy, (N, H, W): classes, or depth; whole or not there."""
    path = out / "predictions" / f"{method}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    dtype = np.int16 if kind == "labels" else np.float32
    values = np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape)
    row = 0
    for chunk in maps:
        values[row : row + len(chunk)] = chunk
        row += len(chunk)
    values.flush()
    os.replace(draft, path)


def _items(
    parts: dict[str, Part], rows: np.ndarray, skipped: dict[str, dict[int, str]], size: tuple[int, int],
    known: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    test = parts["test"]
    return {
        "size": size,
        "known": known,
        "rows": rows.tolist(),
        "train": len(parts["train"].frames) - len(skipped["train"]),
        "scenes": {name: len({part.data[i].scene for i in part.frames}) for name, part in parts.items()},
        "images": [test.data[test.frames[row]].image for row in rows],
        "skipped": {
            parts[name].data[i].image: why for name, bad in skipped.items() for i, why in bad.items()
        },
    }
