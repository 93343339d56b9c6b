"""Three small teachers of unlike kinds for the DUNE study, each trained from scratch on a domain of its own.

Rooms teach what things are, laid tables how far they are, drawn people which part of a body a pixel shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manyview.data.manifest import Manifest
from manyview.evaluation.base import Protocol
from manyview.evaluation.linear import LinearDepth, LinearSegmentation
from manyview.studies.base import trained

VIEWS = 4  # per procedural scene


@dataclass(frozen=True)
class Task:
    """What one teacher learns, on which pictures, and how tokens are judged by it."""

    name: str
    line: str
    target: Literal["labels", "depth"]
    column: str
    """Number of the probe's rows that counts."""
    higher: bool
    """Whether more of it is better."""
    draw: Callable[..., Path]
    """(folder, count=, size=, seed=) -> manifest of that many pictures."""

    def gain(self, value: float, other: float) -> float:
        """How much better `value` is than `other`, in the column's unit."""
        return value - other if self.higher else other - value

    def probe(self, size: int, fit: Any, **options: Any) -> Protocol:
        """The linear probe of this task at `size` pixels."""
        if self.target == "depth":
            return LinearDepth(size=size, fit=fit, cls=False, **options)
        return LinearSegmentation(size=size, fit=fit, **options)


def _scenes(kind: str) -> Callable[..., Path]:
    def draw(out: Path, *, count: int, size: tuple[int, int], seed: int) -> Path:
        from manyview.data.synthetic import write_scenes

        return write_scenes(out, scenes=max(2, count // VIEWS), views=VIEWS, size=size, seed=seed, kind=kind)

    return draw


def _figures(out: Path, **options: Any) -> Path:
    from manyview.data.synthetic.figures import write_figures

    return write_figures(out, **options)


TASKS = (
    Task("segment", "classes of furniture in rooms", "labels", "miou", True, _scenes("room")),
    Task("depth", "distances on laid tables", "depth", "rmse", False, _scenes("tabletop")),
    Task("figures", "body parts of drawn people", "labels", "miou", True, _figures),
)


def draw_domains(out: Path, *, images: int, unseen: int, side: int) -> dict[str, tuple[Path, Path]]:
    """Training and unseen pictures of every task, drawn unless they are there: task -> two manifests."""
    manifests = {}
    for number, task in enumerate(TASKS):
        folder, square = out / "data" / task.name, (side, side)
        manifests[task.name] = (
            task.draw(folder / "train", count=images, size=square, seed=100 + number),
            task.draw(folder / "unseen", count=unseen, size=square, seed=900 + number),
        )
    return manifests


def train_teacher(task: Task, data: Path, out: Path, settings: Sequence[str]) -> Path:
    """The model directory of a task's teacher; trains it, or resumes its training, when it is missing.

    settings: further assignments over the recipe's preset.
    """
    if task.target == "labels":
        own = [f"method.classes={len(Manifest.load(data).info['classes'])}"]
    else:  # a closer crop must not say another depth
        own = ["method.augmentation.scale=[0.9, 1.0]", "method.augmentation.ratio=[1.0, 1.0]"]
    settings = [f"method.target={task.target}", *own, *settings]
    return trained("dense", out / "teachers" / task.name, data=[data], settings=settings)
