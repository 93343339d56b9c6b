"""Probes of dense tasks on a frozen encoder, segmentation and depth: what all of them share.

The encoder's tokens are kept once, for every way of making them; what learns from them is up to the protocol.
Everything is plain PyTorch.
"""

from __future__ import annotations

import abc
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
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
from manyview.evaluation.dense_fit import Examples
from manyview.evaluation.dense_framing import Framing, How
from manyview.evaluation.dense_maps import Kind, Part, read_maps, split, write_maps
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

Maps = Sequence[np.ndarray]
"""(h, w) of every picture."""
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
    heads: ClassVar[dict[str, str]]
    """Column of a row -> its head in the table."""
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

    def settings(self) -> dict[str, Any]:
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"}
        plain: dict[str, Any] = to_dict(chosen)
        return {**plain, "train": None if self.train is None else self.train.digest()}

    @abc.abstractmethod
    def predict(
        self, method: str, train: Examples, test: Examples, known: dict[str, Any]
    ) -> tuple[dict[str, Any], Iterable[np.ndarray]]:
        """Learn; what is worth keeping about that, and the answers (h, w) for the test pictures, in order."""

    @abc.abstractmethod
    def know(self, part: Part, maps: Sequence[np.ndarray]) -> dict[str, Any]:
        """What the training maps decide: the number of classes, the best constant answer."""

    @abc.abstractmethod
    def clean(self, values: np.ndarray) -> np.ndarray:
        """A stored map with what is not to be looked at marked: -1 in labels, 0 in depth."""

    @abc.abstractmethod
    def judge(self, predicted: Maps, true: Maps, known: dict[str, Any]) -> dict[str, Any]:
        """Numbers over all pictures, and `items`, a list with those of each."""

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

    def look(self, encoder: Any) -> Framing:
        """How pictures become crops that the encoder sees. Raises UserError for a size it cannot."""
        return Framing(image_size(encoder, self.size), self.framing)

    def export(self, model: Model, data: Manifest, out: Path) -> None:
        done = out / "training" / "done"
        if done.is_file():
            return
        encoder = encoder_of(model)
        framing, device = self.look(encoder), device_of(encoder)
        most = (self.train_images, self.test_images)
        parts = split(data, self.train, self.kind, framing, share=self.share, most=most, seed=self.seed)
        folders = {"train": out / "training" / "maps", "test": out / "measured"}
        maps = {name: part.maps(folders[name] / f"{name}.npy", self.clean) for name, part in parts.items()}
        known = self.know(parts["train"], maps["train"])
        tokens, unreadable = _encode(together(self.methods(model)), parts, out, device)
        for method, of_part in tokens.items():
            examples = {
                name: Examples(of_part[name], part, maps[name], _usable(part, unreadable[name]),
                               int(encoder.config.patch_size), device)
                for name, part in parts.items()
            }  # fmt: skip
            self._predict(method, examples, known, out)
        if self.baselines:
            constant = (np.full(size, known["constant"]) for size in parts["test"].sizes)
            self._save(out, "constant", constant, parts["test"])
        store.write_json(out / "items.json", _items(parts, unreadable, known))
        store.write_text(done, "")
        shutil.rmtree(out / "training" / "tokens", ignore_errors=True)  # large, and quickly made again
        shutil.rmtree(out / "training" / "maps", ignore_errors=True)

    def _predict(self, method: str, examples: dict[str, Examples], known: dict[str, Any], out: Path) -> None:
        """Learn and write the answers, unless they are there."""
        if (out / "predictions" / f"{method}.npy").is_file():
            return
        learned, answers = self.predict(method, examples["train"], examples["test"], known)
        store.write_json(out / "training" / f"{method}.json", learned)
        self._save(out, method, answers, examples["test"].part)

    def _save(self, out: Path, method: str, maps: Iterable[np.ndarray], part: Part) -> None:
        """predictions/METHOD.npy: classes, or depth."""
        dtype = np.int16 if self.kind == "labels" else np.float32
        write_maps(out / "predictions" / f"{method}.npy", maps, part.sizes, dtype)

    def score(self, out: Path) -> Summary:
        described, items = store.read_settings(out), store.read_json(out / "items.json")
        rows, lines = [], []
        sizes = [(height, width) for height, width in items["sizes"]]

        def judged(path: Path) -> Maps:
            maps = read_maps(path, sizes)
            return [maps[row] for row in items["rows"]]

        true = judged(out / "measured" / "test.npy")
        names = [path.stem for path in (out / "predictions").glob("*.npy")]
        for method in sorted(names, key=lambda name: list(LABELS).index(name)):
            numbers = self.judge(judged(out / "predictions" / f"{method}.npy"), true, items["known"])
            each = numbers.pop("items")
            learned = out / "training" / f"{method}.json"
            fit = {"learned": store.read_json(learned)} if learned.is_file() else {}
            rows.append({"method": method, "label": LABELS[method], **numbers, **fit})
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

    def markdown(self, summary: Summary) -> str:
        rows = [[row["label"], *(f"{row[column]:.3f}" for column in self.heads)] for row in summary["rows"]]
        height, width = summary["size"]
        images, scenes = summary["images"], summary["scenes"]
        return "\n\n".join([
            f"# {summary.get('model', 'the model')} on {summary.get('data', 'the data')}: {self.name}",
            f"{self.about[0]} on frozen features, {height}x{width} pixels ({self.framing}): {images['train']} images "
            f"of {scenes['train']} scenes to train on, {images['test']} of {scenes['test']} others to test; "
            f"{self.about[1]}.",
            markdown_table(["", *self.heads.values()], rows),
            *(f"Left out: {image}: {why}." for image, why in list(summary["skipped"].items())[:20]),
        ]) + "\n"  # fmt: skip


def _projected(model: Any, teacher: str, images: Tensor) -> Tensor:
    if not callable(getattr(model, "project", None)):
        raise UserError(f"project={teacher}: a {type(model).__name__} has no projectors; give a DUNE model")
    blocks = model.encode(images, norm=False, layers=model.projected_layers)
    return model.project(blocks, teacher).patches


def _encode(
    tokenise: Tokenise, parts: dict[str, Part], out: Path, device: torch.device
) -> tuple[dict[str, dict[str, Tokens]], dict[str, dict[int, str]]]:
    """Tokens by method and part, and the pictures of each part that could not be read, by row."""
    tokens: dict[str, dict[str, Tokens]] = {}
    unreadable: dict[str, dict[int, str]] = {}
    for name, part in parts.items():
        folder = out / "training" / "tokens" / name
        found, problems = encode_frames(
            tokenise, part.data, range(len(part.crops)), part.framing.padded, folder=folder, device=device,
            read=part.read,
        )  # fmt: skip
        unreadable[name] = {part.crops[index].row: why for index, why in problems.items()}
        for method, values in found.items():
            tokens.setdefault(method, {})[name] = values
    return tokens, unreadable


def _usable(part: Part, unreadable: dict[int, str]) -> np.ndarray:
    good = np.array([index for index, crop in enumerate(part.crops) if crop.row not in unreadable], np.int64)
    if not len(good):
        raise UserError(f"no image of {part.data.root} can be read, first {part.data[part.frames[0]].image}")
    return good


def _items(
    parts: dict[str, Part], unreadable: dict[str, dict[int, str]], known: dict[str, Any]
) -> dict[str, Any]:
    test = parts["test"]
    rows = [row for row in range(len(test.frames)) if row not in unreadable["test"]]
    return {
        "size": test.framing.size,
        "sizes": test.sizes,
        "known": known,
        "rows": rows,
        "train": len(parts["train"].frames) - len(unreadable["train"]),
        "scenes": {name: len({part.data[i].scene for i in part.frames}) for name, part in parts.items()},
        "images": [test.data[test.frames[row]].image for row in rows],
        "skipped": {
            part.data[part.frames[row]].image: why
            for name, part in parts.items()
            for row, why in unreadable[name].items()
        },
    }
