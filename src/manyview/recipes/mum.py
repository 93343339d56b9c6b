"""MuM: an encoder learns geometry by completing many masked views of a scene (Nordström et al., 2025).

Section 3.2: every view hides 75 % of its patches, and the loss is equation 1 on the hidden ones, each normalised by
its own mean and spread. With one view this is MAE; with two, one of them unmasked, it is CroCo's task. Every ablation
of Tables 10 and 11 is an option here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyview.batches.road import wish_of
from manyview.batches.sequences import SequenceOptions, Sequences, SequenceWish
from manyview.config import RunConfig
from manyview.errors import UserError
from manyview.losses.masked import hidden_pixels, masked_mse, patch_statistics, patchify, unpatchify
from manyview.models.model import Completion
from manyview.models.mum.network import Mum, random_mask
from manyview.recipes.base import RECIPES, Preset, Recipe, only_manifests
from manyview.types import Batches, StepResult, Views

TENTHS = ("3dstreetview", "wildrgbd", "dl3dv", "re10k", "imagenet", "megascenes", "scannetpp", "megadepth")
TABLE_1 = {**dict.fromkeys(TENTHS, 0.10), **dict.fromkeys(("co3d", "blendedmvs", "arkitscenes", "hypersim"), 0.05)}
"""The paper's mixture, by the names that `manyview data scan` gives. Its ImageNet share is what `single` draws."""

PANEL_VIEWS = 6


@dataclass(frozen=True, kw_only=True)
class MumConfig(SequenceOptions):
    """What changes the numbers of a MuM run, beside how it is optimised. The defaults are the paper's."""

    model: str = "mum-vitl16-full"
    """Zoo name of the student that is built; `--init` replaces its random weights."""
    student: dict[str, Any] = field(default_factory=dict)
    """Options of the student that differ from the zoo name's: {patch_size: 8, dim: 384, depth: 12, eps: 1e-5}."""
    size: Literal["debug"] | None = None
    """Shrinks the student: `debug` or none."""
    image_size: int = 256
    """Side of the square training images in pixels, a multiple of the patch."""
    min_views: int = 2
    """Fewest views of a scene."""
    max_views: int = 24
    """Most views of a scene; every batch draws a number between the two. 1 and 1 is MAE."""
    mask_ratio: float = 0.75
    """Share of the patches that a view hides."""
    reference: bool = False
    """The first view of a scene hides nothing (Table 11; CroCo's task)."""
    normalise: bool = True
    """Whether the target of a patch is normalised by its own mean and spread (Table 11)."""
    across: Literal["decoder", "encoder", "nowhere"] = "decoder"
    """Where tokens attend to other views: decoder, encoder (Table 11), or nowhere, which is MAE on the same images."""
    positions: Literal["rotary", "absolute"] = "rotary"
    """Rotary positions, or learned tables in encoder and decoder (Table 11)."""
    rotate_cls: bool = False
    """Leave class tokens unrotated in global blocks instead of zeroing their queries and keys, as was published."""
    crop: Literal["random", "resize", "cover"] = "resize"
    """Random resized crops (released), images squashed to the square (paper), or their centre."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, a third more time."""


def _run(frames: int = 0, *, steps: int = 500_000, **changes: Any) -> RunConfig:
    """The published optimiser (section 3.4): 1.5e-4 for 256 frames; `frames`: of a published step, on all its ranks."""
    published: dict[str, Any] = {
        "steps": steps,
        "images": frames * steps if frames else None,
        "warmup": 0.05,
        "weight_decay": 0.05,
        "decay_vectors": False,
        "betas": (0.9, 0.95),
        "clip": 0.0,
        "lr": 1.5e-4,
        "lr_per": 256 if frames else None,
        "checkpoint_every": 5000,
        "log_every": 50,
    }
    return RunConfig(**{**published, **changes})


def _patches(config: MumConfig) -> int:
    """Patches on a side of the training images. Raises UserError for a student or a size that does not fit."""
    from manyview.models.family import lookup

    family, student = lookup(config.model)
    if not issubclass(family.network, Mum):
        raise UserError(f"method.model is {config.model}, no masked autoencoder; choose a mum-…-full")
    patch = family.configured(family.debug(student) if config.size else student, config.student).patch_size
    if config.image_size % patch or config.image_size < patch:
        near = max(1, round(config.image_size / patch)) * patch
        raise UserError(f"method.image_size is {config.image_size}, no multiple of the patch ({patch}); take {near}")
    return config.image_size // patch


@RECIPES.add("mum")
class MumRecipe(Recipe):
    """Holds the masked autoencoder and turns views into a loss on what they hide."""

    Config = MumConfig
    next_steps = (
        "manyview eval matching-probe --model {model} --data {data}",
        "manyview features IMAGES --model {model} -o features --pca",
    )

    def __init__(self, config: MumConfig) -> None:
        super().__init__()
        from manyview import zoo

        self.config = config
        side = _patches(config)
        settings: dict[str, Any] = {"across": config.across, "rotate_cls": config.rotate_cls}
        if config.positions == "absolute":
            settings |= {"rope": "none", "positions": side}
        student = zoo.build(config.model, size=config.size, **{**config.student, **settings})
        assert isinstance(student, Mum)
        self.student: Mum = student
        self.patch = config.image_size // side
        self.student.checkpointing = config.checkpointing
        self.student.train()

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`tiny`: one CPU core; `paper` and `released`: 64 GPUs of 96 frames, 32 of 128; `vits`, `debug`."""
        trained: dict[str, Any] = {"eps": 1e-5}  # the released training's; its inference code has 1e-6
        released = MumConfig(image_size=224, frames=128, max_views=12, crop="random", student=trained)
        ablation: dict[str, Any] = {"steps": 100_000, "warmup": 0.0625}
        # Of one-seed trials in minutes on a CPU, with a learning rate twice as high: colours and overlapping views
        # taught more than the paper's normalised target, crops and mirrors; `manyview study mum` has those.
        tiny = MumConfig(
            model="mum-tiny12-full", image_size=96, frames=24, max_views=4, crop="cover", flip=False, normalise=False
        )
        debug = MumConfig(size="debug", image_size=32, frames=8, max_views=4, crop="random")
        return {
            "tiny": Preset(method=tiny, run=_run(steps=1000, warmup=0.1, lr=1e-3, checkpoint_every=100, log_every=10)),
            "paper": Preset(method=MumConfig(weights=TABLE_1, student=trained), run=_run(96 * 64)),
            "released": Preset(method=released, run=_run(128 * 32)),
            "vitb": Preset(method=replace(released, model="mum-vitb16-full"), run=_run(128 * 8, **ablation)),
            "vits": Preset(method=replace(released, model="mum-vits16-full"), run=_run(128, **ablation)),
            "debug": Preset(method=debug, run=_run(steps=20, warmup=2, lr=1e-3, checkpoint_every=5, log_every=1)),
        }

    @staticmethod
    def images_of(config: MumConfig, run: RunConfig) -> int:
        """Frames: a batch is filled up to so many."""
        return config.frames

    @staticmethod
    def batches(config: MumConfig, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:
        """Sequences of the manifests' scenes."""
        only_manifests("mum learns from image sequences", data, cache)
        if run.batch != 1:
            raise UserError(f"run.batch is {run.batch}; mum fills a batch up to method.frames images, set that instead")
        if run.shard and config.reference and config.single:
            raise UserError(
                "with method.reference=true a batch of views runs the encoder twice and one of single images once, but "
                "run.shard=true needs the same on every rank: set method.single=0, or run.shard=false"
            )
        views, size = (config.min_views, config.max_views), (config.image_size, config.image_size)
        return Sequences(data, wish_of(SequenceWish, config, size=size, views=views, seed=run.seed))

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass and its loss (equation 1)."""
        config = self.config
        shape = (views.batch, views.views, (views.size[0] // self.patch) * (views.size[1] // self.patch))
        reference = config.reference and views.views > 1  # a single view is never its own reference
        mask = random_mask(shape, config.mask_ratio, generator, reference=reference)
        seen = self.student(views.images, mask)
        signal = hidden_pixels(self.student.normalised(views.images), seen.mask, self.patch, normalise=config.normalise)
        sums, counts = masked_mse(seen.reconstruction, signal)
        loss = sums.sum() / counts.sum()
        kind = "loss_single" if views.views == 1 else "loss_many"
        logs: dict[str, float | Tensor] = {
            kind: loss.detach(),
            "views": float(views.views),
            "frames": float(views.batch * views.views),
        }
        completion = Completion(seen.reconstruction.detach(), seen.mask)
        return StepResult(loss, logs, pictures=lambda: {"completion": self.panel(views.images, completion)})

    def panel(self, images: Tensor, completion: Completion, *, scene: int = 0) -> Tensor:
        """Rows of a scene's first views: what is seen, what is said (beside what is seen), what is there: (3, H, W).

        Predicted patches get the true mean and spread where the target was normalised by them.
        """
        images, mask = images[scene, :PANEL_VIEWS].float(), completion.mask[scene, :PANEL_VIEWS, :, None]
        grid = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        truth = patchify(self.student.normalised(images), self.patch)
        said = completion.reconstruction[scene, :PANEL_VIEWS].float()
        if self.config.normalise:
            mean, spread = patch_statistics(truth)
            said = said * spread + mean
        rows = (truth.where(~mask, 0), said.where(mask, truth), truth)
        pictures = [self.student.as_images(unpatchify(row, grid)) for row in rows]
        return torch.cat([torch.cat(list(row), dim=-1) for row in pictures], dim=-2).clamp(0, 1)
