"""SAB3R (Chen et al., 2025): a reconstructor also learns what its pixels mean, in the space of CLIP, DINOv2 or words.

Section 3: MASt3R's losses go on, and every feature head regresses its teacher's features (equations 5 to 7), at random
valid pixels. Ours: heads on a student of many views, that learn from labels through a text encoder without a network
of images, on a reconstructor that stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyview.batches.pairs import PairBatches
from manyview.batches.worlds import Streaming, WorldBatches
from manyview.config import RunConfig
from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.streams import parse_stream
from manyview.errors import UserError
from manyview.losses.confident import sum_of_views
from manyview.losses.features import Distance, feature_distance, word_loss
from manyview.losses.relating import confident_maps, measured_points
from manyview.models.dense_heads import sample_maps
from manyview.models.family import require
from manyview.models.model import Reconstructs, ReconstructsPairs
from manyview.recipes.base import RECIPES, Preset
from manyview.recipes.pairs import SIZES_512, PairsConfig, PairsRecipe, start_from
from manyview.teachers.spaces import LABELS, LabelTeacher, NetworkTeacher, SpaceTeacher
from manyview.types import Batches, StepResult, Views

HEADS = "feature_heads."


@dataclass(frozen=True, kw_only=True)
class Sab3RConfig(PairsConfig):
    """What changes the numbers of a run, beside how it is optimised."""

    model: str = "sab3r-c"
    """Zoo name of a reconstructor with feature heads; `--init` replaces all its weights."""
    freeze: Literal["nothing", "encoder", "reconstructor"] = "nothing"  # type: ignore[assignment]
    """nothing: as in the paper; reconstructor: all but the feature heads, so that geometry stays what it was."""
    geometry: bool = True
    """Whether the reconstructor's own losses go on; without anything to train by them they are left out."""
    teachers: dict[str, str] = field(default_factory=lambda: {"clip": "maskclip-vitb16"})
    """Space of a head -> its teacher: a zoo name, a model directory, timm:NAME, or labels."""
    upsamplers: dict[str, str] = field(default_factory=dict)
    """Space -> what makes its teacher's features finer, such as featup-jbu-maskclip; without: bilinear."""
    feature_weights: dict[str, float] = field(default_factory=lambda: {"clip": 20.0})
    """Space -> weight of its loss (equations 6 and 7)."""
    distance: Distance = "square"
    """Of features: the mean of squares, as released, or the norm, as equation 5 is printed."""
    pixels: int = 512
    """Random pixels of each view that the feature losses look at."""
    words: float = 0.0
    """Teachers that are labels: weight of telling a pixel's class name from all others (by cosines; ours)."""
    word_temperature: float = 0.05
    """Of that loss."""
    names: tuple[str, ...] = CLASSES
    """Names of the labels, in their order."""
    alone: bool = False
    """Students of many views look at each photo by itself: the features of single images, a baseline."""
    stream: Streaming = field(default_factory=lambda: Streaming(sizes=("168x224", "168x224", "224x168", "196x196")))
    """How procedural scenes become batches, of students of many views."""


@RECIPES.add("sab3r")
class Sab3R(PairsRecipe):
    """Holds the reconstructor and its teachers, and turns views into the losses of geometry and of meaning."""

    Config = Sab3RConfig
    config: Sab3RConfig
    student: Any
    next_steps = ("manyview reconstruct IMAGES --model {model} -o scene",)

    def __init__(self, config: Sab3RConfig) -> None:
        from manyview.models.family import lookup

        self.pairs = issubclass(lookup(config.model)[0].network, ReconstructsPairs)
        if self.pairs:
            super().__init__(config)
        else:
            self._many(config)
        channels = dict(self.student.config.feature_heads)
        if set(config.teachers) != set(channels) or set(config.feature_weights) != set(channels):
            raise UserError(
                f"{config.model} has feature heads for {', '.join(channels) or 'nothing'}, method.teachers for "
                f"{', '.join(config.teachers)} and method.feature_weights for {', '.join(config.feature_weights)}; "
                "name the same spaces in all"
            )
        if config.freeze == "reconstructor":
            for name, weight in self.student.named_parameters():
                weight.requires_grad_(name.startswith(HEADS) or any(f".{space}." in name for space in channels))
        self._teachers: dict[str, SpaceTeacher] = {}

    def _many(self, config: Sab3RConfig) -> None:
        from manyview import zoo

        if config.alone and config.geometry:
            raise UserError("method.alone leaves the photos without each other; set method.geometry=false with it")
        torch.nn.Module.__init__(self)
        self.config = config
        self.student = require(zoo.build(config.model, size=config.size), Reconstructs, config.model)
        if config.start is not None:
            start_from(self.student, config.start)
        self.student.train()

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`c`, `cd`: the paper's, on MASt3R with MaskCLIP's features, and DINOv2's; `tiny`: heads in the space of words
        on a frozen manyview-small, from rooms that are rendered meanwhile (--data rooms:1); `debug`: seconds.
        """
        shared: dict[str, Any] = {"weight_decay": 0.05, "betas": (0.9, 0.95), "clip": 1.0}
        # 171,000 pairs an epoch, five epochs, 64 pairs a step on eight GPUs; the rate is constant after 4,000 steps.
        paper = RunConfig(
            steps=13_360, batch=1, accumulate=64, lr=1e-4, min_lr=1e-4, warmup=4000, checkpoint_every=500, **shared
        )
        tiny = RunConfig(
            steps=600, batch=2, lr=2e-3, min_lr=2e-5, warmup=0.05, decay_vectors=False, checkpoint_every=100, **shared
        )
        debug = RunConfig(steps=10, batch=2, lr=1e-3, checkpoint_every=5, log_every=1)
        on_mast3r: dict[str, Any] = {
            **{"start": "mast3r-vitl16", "sizes": SIZES_512, "matching": 0.75, "alpha": 0.2},
            "upsamplers": {"clip": "featup-jbu-maskclip"},
        }
        both: dict[str, Any] = {
            "model": "sab3r-cd",
            "teachers": {"clip": "maskclip-vitb16", "dino": "dinov2-vits14"},
            "feature_weights": {"clip": 20.0, "dino": 4.0},
        }
        words: dict[str, Any] = {
            "model": "manyview-small-words",
            "freeze": "reconstructor",
            "geometry": False,
            "teachers": {"minilm": LABELS},
            "feature_weights": {"minilm": 1.0},
            "distance": "norm",
            "words": 1.0,
        }
        small = Streaming(sizes=("28x42",), rendered=2, count=(2,))

        def preset(run: RunConfig, **method: Any) -> Preset:
            return Preset(method=Sab3RConfig(**method), run=run)

        upsamplers = {**on_mast3r["upsamplers"], "dino": "featup-jbu-dinov2"}
        return {
            "tiny": preset(tiny, start="manyview-small", **words),
            "c": preset(paper, **on_mast3r),
            "cd": preset(paper, **{**on_mast3r, **both, "upsamplers": upsamplers}),
            "debug": preset(debug, **{**words, "size": "debug", "stream": small, "pixels": 64, "geometry": True}),
        }

    @staticmethod
    def batches(config: Sab3RConfig, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:  # type: ignore[override]
        """Pairs of measured frames, or rendered scenes where the data name them."""
        batches: WorldBatches | PairBatches
        if any(parse_stream(item) for item in data):
            if cache is not None:
                raise UserError(f"--data {data[0]} renders scenes and --cache {cache} holds others; leave one away")
            batches = WorldBatches(data, config.stream, scenes=run.batch, seed=run.seed)
        else:
            made = PairsRecipe.batches(config, run, cache=cache, data=data)
            assert isinstance(made, PairBatches)
            batches = made
        batches.keep_unchanged = any(source != LABELS for source in config.teachers.values())
        return batches

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass, the geometry's loss and each head's feature regression (equation 7)."""
        config = self.config
        if self.pairs:
            views, said = self.predict(views)
            result = self.geometry(views, said, generator) if config.geometry else None
        else:
            asked = views.images.flatten(0, 1)[:, None] if config.alone else views.images
            said = self.student(asked, points=config.geometry)
            result = self._points(said, views) if config.geometry else None
        loss, logs = (views.images.new_zeros(()), {}) if result is None else (result.loss, dict(result.logs))
        points = torch.rand(views.batch * views.views, config.pixels, 2, generator=generator).to(views.images.device)
        for space, weight in config.feature_weights.items():
            maps = said["features"][space].flatten(0, 1).permute(0, 3, 1, 2)  # (N, D, h, w)
            for name, (factor, term) in self.meaning(
                space, sample_maps(maps, points).transpose(1, 2), views, points
            ).items():
                loss = loss + factor * weight * term
                logs[name] = term.detach()
        return StepResult(loss, logs, pictures=None if result is None else result.pictures)

    def meaning(self, space: str, said: Tensor, views: Views, points: Tensor) -> Mapping[str, tuple[float, Tensor]]:
        """Terms of what a head says (N, K, D) at points (N, K, 2): name -> share of the head's weight, and value."""
        config, teacher = self.config, self.teacher(space)
        terms = {space: (1.0, _mean(*feature_distance(said, teacher.at(views, points), config.distance), views))}
        if config.words and isinstance(teacher, LabelTeacher):
            words, labels = teacher.words.to(said.device), teacher.labels(views, points)
            told = word_loss(said, words, labels, config.word_temperature)
            share = config.words / config.feature_weights[space]
            terms[f"{space}_words"] = (share, _mean(*told, views))
        return terms

    def teacher(self, space: str) -> SpaceTeacher:
        """The teacher of a space, loaded when it is first asked."""
        if space not in self._teachers:
            source, config = self.config.teachers[space], self.config
            self._teachers[space] = (
                LabelTeacher(config.names, space)
                if source == LABELS
                else NetworkTeacher(
                    source, student_patch=self.student.config.patch_size, upsampler=config.upsamplers.get(space)
                )
            )
        return self._teachers[space]

    def _points(self, said: dict[str, Any], views: Views) -> StepResult:
        """DUSt3R's loss on both maps of a student of many views."""
        terms, _, _ = confident_maps(said, measured_points(views), alpha=self.config.alpha)
        total = (terms["global"] + terms["local"]).mean()
        return StepResult(total, {name: term.detach().mean() for name, term in terms.items()})


def _mean(sums: Tensor, counts: Tensor, views: Views) -> Tensor:
    """Means over the pixels of each view's position, the positions averaged."""
    shape = (views.batch, views.views)
    return sum_of_views(sums.view(shape), counts.view(shape)) / views.views
