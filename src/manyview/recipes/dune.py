"""DUNE: one encoder learns the features of several unlike teachers at once (Sariyildiz et al., CVPR 2025).

Every image goes to the student and to the teachers. A teacher's features are standardised per channel (UNIC), a
projector says them from the student's last tokens, and of each image the hardest teacher always counts while the
others are dropped half the time. Equations 1 to 3 are in section A.2 of the supplementary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyview.batches.augment import Augmentation
from manyview.batches.pictures import DOMAIN, PictureBatches, PictureWish
from manyview.batches.road import Road, wish_of
from manyview.config import RunConfig, Share, read_assignments, to_dict
from manyview.errors import UserError
from manyview.losses.distillation import LossForm, Sharing, coefficients, distillation_loss, teacher_loss
from manyview.models.dune.network import Dune
from manyview.models.dune.projectors import ProjectorKind
from manyview.recipes.base import RECIPES, Preset, Recipe
from manyview.teachers.cached import CachedTeacher, Keep
from manyview.teachers.features import loaded
from manyview.types import Batches, Features, StepResult, Views

PUBLISHED = ("dinov2=dinov2-vitl14-reg4", "mast3r=mast3r-vitl16", "multihmr=multihmr-vitl14-672")


@dataclass(frozen=True, kw_only=True)
class DuneRecipeConfig:
    """What changes the numbers of a DUNE run, beside how it is optimised."""

    model: str = "dune-vitb14-336"
    """Zoo name whose encoder layout the student has; its projectors follow the teachers."""
    size: Literal["debug"] | None = None
    """Shrinks the student: `debug` or none."""
    encoder: tuple[str, ...] = ()
    """Encoder fields to override, as key=value: dim=192, depth=6, heads=3, registers=0."""
    teachers: tuple[str, ...] = PUBLISHED
    """name=source for each: a zoo name, a model directory, or timm:NAME."""
    cls: tuple[str, ...] | None = None
    """Teachers whose class token is distilled, too; null: all that have one."""
    projector: ProjectorKind = "transformer"
    """One block and a linear map (TP), a ladder of MLPs over all blocks (LP), or its last rung (SP)."""
    image_size: int = 336
    """Side of the square crops; the position table is resampled when a second stage changes it."""
    domains: tuple[str, ...] = ()
    """For each --data manifest, the teacher whose domain it is; empty: in the teachers' order, one each."""
    sharing: Sharing = "full"
    """Which images a teacher sees: all (full), its own domain's (none), its own and the generic domain's (generic)."""
    generic: str = ""
    """With generic sharing: the teacher whose domain every teacher sees."""
    drop: Share = 0.5
    """With full sharing: probability that a teacher which is not an image's hardest is dropped for it."""
    loss: LossForm = "released"
    """The released reduction, or equations 1 to 3 as printed."""
    least_momentum: float = 0.001
    """Momentum of the running statistics at the end; it falls from 1 by a cosine."""
    crops: int = 0
    """Fixed crops per image, so that teachers' answers can be kept; 0 draws new ones for ever."""
    keep: Keep = "int8"
    """How --cache keeps teachers' answers: float16, int8 per channel, or pca (a quarter of the channels, int8)."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often it is drawn within its domain; empty: every picture as often."""
    compile: bool = False
    """Compile the teachers' networks: minutes to start, faster steps on a GPU."""
    shuffle: bool = False
    """Control: every image is told the answers to another image of the batch."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Crops and colours; student and teachers see the same picture."""


def _preset(run: RunConfig, **method: object) -> Preset:
    return Preset(method=DuneRecipeConfig(**method), run=run)  # type: ignore[arg-type]


@RECIPES.add("dune")
class DuneRecipe(Recipe):
    """Holds the student, asks the teachers, and turns their answers into a loss."""

    Config = DuneRecipeConfig
    next_steps = ("manyview features IMAGES --model {model} -o features --pca",)

    def __init__(self, config: DuneRecipeConfig) -> None:
        super().__init__()
        from manyview import zoo

        self.config = config
        sources = [_named(text) for text in config.teachers]
        if not sources:
            raise UserError(
                "dune needs teachers: --set 'method.teachers=[a=NAME|DIR, b=timm:NAME]' (manyview study dune makes "
                "three small ones)"
            )
        names = [name for name, _ in sources]
        for option, asked in (("cls", config.cls or ()), ("generic", (config.generic,) if config.generic else ())):
            if unknown := [name for name in asked if name not in names]:
                raise UserError(
                    f"method.{option} names {unknown[0]!r}, which is no teacher; they are {', '.join(names)}"
                )
        overrides = read_assignments(config.encoder, "method.encoder")
        patch = overrides.get("patch_size", 14)
        # A plain dictionary: teachers are neither trained nor saved with the run.
        self.teachers = {name: loaded(source, name=name, student_patch=patch) for name, source in sources}
        if config.compile:
            for teacher in self.teachers.values():
                teacher.network.compile()
        self.student: Dune = zoo.build(  # type: ignore[assignment]
            config.model,
            size=config.size,
            teachers=tuple(self.teachers),
            teacher_dims=tuple(teacher.dim for teacher in self.teachers.values()),
            cls_teachers=self._cls_teachers(),
            projector=config.projector,
            image_size=config.image_size,
            **overrides,
        )
        self.student.encoder.norm.requires_grad_(False)  # the projectors read the tokens before it
        self.student.train()

    def _cls_teachers(self) -> tuple[str, ...]:
        """Whose class tokens are distilled. Raises UserError for one asked for that has none."""
        having = [name for name, teacher in self.teachers.items() if teacher.has_cls]
        asked = having if self.config.cls is None else self.config.cls
        if without := [name for name in asked if name not in having]:
            raise UserError(f"method.cls names {without[0]!r}, but that teacher has no class token; leave it out")
        return tuple(name for name in self.teachers if name in asked)

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`tiny`: a CPU and teachers of your own; `paper`, `paper-448`: the two published stages; `released` and
        `released-448`: the same with four registers; `small`: ViT-S with them."""
        # DINO's schedule: 20 % warm-up, cosine to 1e-6, every tensor clipped.
        shared: dict[str, Any] = {
            "weight_decay": 0.03,
            "betas": (0.9, 0.99),
            "eps": 1e-15,
            "decay_vectors": False,
            "clip": 1.0,
            "clip_each": True,
            "warmup": 0.2,
            "min_lr": 1e-6,
        }
        # Multi-HMR's class token was never trained, MASt3R has none; the generic pictures are DINOv2's.
        chosen = {"cls": ("dinov2",), "generic": "dinov2"}
        published = {**shared, "batch": 128, "lr_per": 256, "checkpoint_every": 2500, "seed": 22}
        passes = 1_281_167  # images that the paper calls an epoch
        first = RunConfig(images=100 * passes, lr=3e-4, **published)
        second = RunConfig(images=50 * passes, lr=5e-5, **published)
        tiny = RunConfig(steps=600, batch=15, lr=3e-3, checkpoint_every=200, **shared)
        debug = RunConfig(steps=10, batch=4, lr=1e-3, checkpoint_every=5, log_every=1)
        small = ("dim=128", "depth=6", "heads=2", "registers=0", "patch_size=8", "positions=12", "layer_scale=null")
        return {
            "tiny": _preset(tiny, encoder=small, image_size=96, teachers=()),
            "paper": _preset(first, encoder=("registers=0",), **chosen),
            "paper-448": _preset(second, model="dune-vitb14-448", image_size=448, encoder=("registers=0",), **chosen),
            "released": _preset(first, **chosen),
            "released-448": _preset(second, model="dune-vitb14-448", image_size=448, **chosen),
            "small": _preset(first, model="dune-vits14-336", **chosen),
            "debug": _preset(debug, size="debug", image_size=56, teachers=()),
        }

    @staticmethod
    def batches(config: DuneRecipeConfig, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:
        """Pictures of every teacher's domain in equal parts; with `cache`, the folder of the teachers' answers."""
        names = [_named(text)[0] for text in config.teachers]
        owners = config.domains or tuple(names[: len(data)])
        if not data or len(owners) != len(data) or (not config.domains and len(data) not in (1, len(names))):
            raise UserError(
                f"dune learns on images: give --data one manifest, one per teacher ({', '.join(names)}), or say "
                "with --set method.domains=[...] whose domain each of them is"
            )
        if unknown := sorted({*owners} - {*names}):
            raise UserError(f"method.domains names {unknown[0]!r}, which is no teacher; they are {', '.join(names)}")
        present = [name for name in names if name in owners]
        if config.sharing != "full" and present != names:
            absent = next(name for name in names if name not in owners)
            raise UserError(f"sharing {config.sharing!r} needs images of every teacher's domain; {absent} has none")
        if config.sharing == "generic" and config.generic not in names:
            raise UserError(f"sharing 'generic': say with method.generic whose domain that is: {', '.join(names)}")
        size = (config.image_size, config.image_size)
        wish = wish_of(PictureWish, config, size=size, batch=run.batch, seed=run.seed)
        pictures = PictureBatches(data, wish, domains=[present.index(owner) for owner in owners])
        return pictures if cache is None else WithAnswers(pictures, _kept(config, pictures, cache))

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass of student and teachers, and the loss of equation 1."""
        student, config = self.student, self.config
        momentum = config.least_momentum + (1 - config.least_momentum) * (1 + math.cos(math.pi * progress)) / 2
        blocks = student.encoder.encode(views.images.flatten(0, 1), norm=False, layers=student.projected_layers)
        losses = []
        for name in self.teachers:
            target = student.standardise(self.answer(name, views), name, momentum)
            if config.shuffle:
                cls = None if target.cls is None else target.cls.roll(1, 0)
                target = replace(target, patches=target.patches.roll(1, 0), cls=cls)
            losses.append(teacher_loss(student.project(blocks, name), target, config.loss))
        stacked = torch.stack(losses)  # (K, N)
        domain = views.signals[DOMAIN].value if DOMAIN in views.signals else None
        kept = coefficients(
            stacked,
            sharing=config.sharing,
            owner=domain,
            generic=list(self.teachers).index(config.generic) if config.sharing == "generic" else 0,
            drop=config.drop,
            generator=generator,
        )
        logs: dict[str, float | Tensor] = {
            f"loss_{name}": loss.detach().mean() for name, loss in zip(self.teachers, losses, strict=True)
        }
        return StepResult(distillation_loss(stacked, kept), logs)

    def answer(self, name: str, views: Views) -> Features:
        """A teacher's raw features of these views, given with them or asked for now."""
        given = {key.removeprefix(f"{name}/"): s for key, s in views.signals.items() if key.startswith(f"{name}/")}
        signals = given or self.teachers[name](views)
        distilled = "cls" in signals and name in self.student.config.cls_teachers
        cls = signals["cls"].value.flatten(0, 1) if distilled else None
        patch = self.student.config.patch_size
        grid = (views.size[0] // patch, views.size[1] // patch)
        return Features(signals["patches"].value.flatten(0, 1), cls, None, grid)


class WithAnswers(Batches):
    """Pictures whose views carry every teacher's answers as signals, "NAME/patches" and "NAME/cls".

    Answers are read, asked for and kept in the process that trains, on the run's device.
    """

    def __init__(self, pictures: Road, teachers: Mapping[str, CachedTeacher]) -> None:
        self.pictures, self.teachers = pictures, teachers

    def describe(self) -> dict[str, Any]:
        kept = {name: teacher.keep for name, teacher in self.teachers.items()}
        return {**self.pictures.describe(), "kept": kept}

    def load(self, index: int) -> Any:
        return self.pictures.load(index)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process only loads, so it gets no networks."""
        return type(self), (self.pictures, {})

    def asked(self, views: Views) -> Views:
        """What the teachers are shown, under the names of their answers."""
        return views

    def finish(self, loaded: Any, device: torch.device) -> Views:
        views = self.pictures.finish(loaded, device)
        shown = self.asked(views)
        for name, teacher in self.teachers.items():
            views.signals |= {f"{name}/{key}": signal for key, signal in teacher(shown).items()}
        return views


def _kept(config: DuneRecipeConfig, pictures: PictureBatches, cache: Path) -> dict[str, CachedTeacher]:
    """Each teacher with a folder of its answers, where missing ones are kept."""
    if config.crops < 1:
        raise UserError("answers can only be kept for fixed crops; set method.crops=K with --cache")
    patch = read_assignments(config.encoder, "method.encoder").get("patch_size", 14)
    files = [source.manifest.files_digest() for source in pictures.sources]
    shown = {**pictures.describe(), "augmentation": to_dict(config.augmentation), "files": files}
    del shown["batch"]
    return {
        name: CachedTeacher(
            loaded(source, name=name, student_patch=patch), cache / name, pictures=shown, keep=config.keep
        )
        for name, source in map(_named, config.teachers)
    }


def _named(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals or not name or not source or "." in name:
        raise UserError(f"a teacher is written name=source (no dot in the name), got {text!r}")
    return name, source
