"""Supervised dense prediction: an encoder from scratch, with a linear head, on labels or depth per pixel.

What makes small teachers of different kinds for distillation (manyview study dune); the head is let go at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from manyview.batches.augment import Augmentation
from manyview.batches.pictures import PictureBatches, PictureWish, Target
from manyview.batches.road import wish_of
from manyview.config import RunConfig, read_assignments
from manyview.errors import UserError
from manyview.losses.dense import class_loss, random_pixels
from manyview.models.dense_heads import sample_maps
from manyview.models.vit import Encoder
from manyview.recipes.base import RECIPES, Preset, Recipe, only_manifests
from manyview.types import Batches, StepResult, Views

PLAIN = Augmentation(scale=(0.5, 1.0), grey=0.0, blur=0.0, solarise=0.0)


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """What changes the numbers of a run, beside how it is optimised."""

    target: Target = "labels"
    """Map of the manifests' frames to learn: labels or depth (its logarithm)."""
    classes: int = 0
    """Number of labels, when they are the target."""
    model: str = "dinov2-vits14"
    """Zoo name of an encoder, whose layout is taken."""
    encoder: tuple[str, ...] = ()
    """Encoder fields to override, as key=value: dim=128, depth=6, heads=2, patch_size=8, positions=12."""
    image_size: int = 96
    """Side of the square crops."""
    pixels: int = 512
    """Random pixels per picture that the loss looks at."""
    augmentation: Augmentation = field(default=PLAIN)
    """Crops and colours."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn, in proportion; empty: every frame as often."""


@RECIPES.add("dense")
class DenseRecipe(Recipe):
    """An encoder and one linear map of its normed patch tokens, resized bilinearly."""

    Config = DenseConfig
    next_steps = ("manyview features IMAGES --model {model} -o features --pca",)

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        from manyview import zoo

        if config.target == "labels" and config.classes < 2:
            raise UserError("method.classes says how many labels there are; set it to 2 or more")
        self.config = config
        self.student: Encoder = zoo.build(  # type: ignore[assignment]
            config.model, image_size=config.image_size, **read_assignments(config.encoder, "method.encoder")
        )
        self.student.train()
        width = config.classes if config.target == "labels" else 1
        self.head = nn.Linear(self.student.config.dim, width)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`tiny`: an encoder that a CPU trains in minutes; `debug`: for tests."""
        small = ("dim=128", "depth=6", "heads=2", "patch_size=8", "positions=12", "cls_token=false", "layer_scale=null")
        smaller = ("dim=16", "depth=2", "heads=2", "patch_size=8", "positions=4", "cls_token=false")
        tiny = RunConfig(
            steps=600,
            batch=16,
            lr=1e-3,
            weight_decay=0.05,
            betas=(0.9, 0.98),
            warmup=0.1,
            decay_vectors=False,
            checkpoint_every=100,
        )
        debug = RunConfig(steps=10, batch=4, lr=1e-3, checkpoint_every=5, log_every=1)
        return {
            "tiny": Preset(method=DenseConfig(encoder=small, classes=37), run=tiny),
            "debug": Preset(method=DenseConfig(encoder=smaller, image_size=32, classes=37), run=debug),
        }

    @staticmethod
    def batches(config: DenseConfig, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:
        """Pictures with their labels or depth."""
        only_manifests(f"dense learns on frames with {config.target}", data, cache)
        size = (config.image_size, config.image_size)
        return PictureBatches(data, wish_of(PictureWish, config, size=size, batch=run.batch, seed=run.seed))

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """Cross-entropy of the labels, or the mean difference of log depth, at random pixels."""
        features = self.student.encode(views.images.flatten(0, 1))
        maps = self.head(features.patches).transpose(1, 2).unflatten(2, features.grid)
        truth = views.signals[self.config.target].value.flatten(0, 1)
        values, points = random_pixels(truth, self.config.pixels, generator)
        answers = sample_maps(maps.float(), points)
        if self.config.target == "labels":
            return StepResult(class_loss(answers, values))
        valid = values > 0
        difference = (answers[:, 0] - torch.where(valid, values, 1.0).log()).abs()
        return StepResult((difference * valid).sum() / valid.sum().clamp(min=1))
