"""SAB3R (Chen et al., 2025): a reconstructor also learns what its pixels mean, in the space of CLIP, DINOv2 or words.

Section 3: MASt3R's losses go on, and every feature head regresses its teacher's features (equations 5 to 7), at random
valid pixels. Ours: heads on a student of many views, that learn from labels through a text encoder without a network
of images, on a reconstructor that stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyview.batches.pairs import SOURCE, PairBatches
from manyview.batches.worlds import Streaming, WorldBatches
from manyview.cache.options import Keep
from manyview.config import Positive, RunConfig
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
from manyview.recipes.dune import WithAnswers
from manyview.recipes.pairs import SIZES_512, PairsConfig, PairsRecipe, built, start_from
from manyview.teachers.cached import CachedTeacher
from manyview.teachers.features import loaded
from manyview.teachers.spaces import LABELS, LabelTeacher, NetworkTeacher, SpaceTeacher
from manyview.types import Batches, StepResult, Views
from manyview.zoo.cards import licences_of, merged

LOG = logging.getLogger(__name__)

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
    word_temperature: Positive = 0.05
    """Of that loss."""
    names: tuple[str, ...] = CLASSES
    """Names of the classes that labels teach; classes of the data with other names are left out."""
    keep: Keep = "cosine"
    """How --cache keeps the patches of teachers that are networks; they are made finer when they are read."""
    watched: str | None = None
    """Data that nothing is learned from, a manifest or rooms:SEED: geometry's losses on these, before, while and after
    training, go to the log and the report."""
    watched_batches: int = 8
    """Pairs, or rooms, of those data that are looked at."""
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
        taught = [source for source in (*config.teachers.values(), *config.upsamplers.values()) if source != LABELS]
        card = self.student.card
        known = merged(card.get("derived_from", ()), *(licences_of(source) for source in taught))
        self.student.card = {**card, "derived_from": known} if known else card
        self._teachers: dict[str, SpaceTeacher] = {}
        self._watched: Any = None

    def _many(self, config: Sab3RConfig) -> None:
        if config.alone and config.geometry:
            raise UserError("method.alone leaves the photos without each other; set method.geometry=false with it")
        torch.nn.Module.__init__(self)
        self.config = config
        self.student = require(built(config), Reconstructs, config.model)
        if config.start is not None:
            start_from(self.student, config.start)
        self.student.train()

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`c`, `cd`: the paper's, on MASt3R with MaskCLIP's features, and DINOv2's. `c-released`, `cd-released`: with
        the release's reward of confidence; the paper states none, and `c` and `cd` keep MASt3R's. `tiny`: heads in the
        space of words on a frozen manyview-small, from rooms that are rendered meanwhile (--data rooms:1) or pairs with
        labels. `small-cd`: the same with heads in the spaces of `cd`. `debug`: seconds.
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
            "sizes": ((168, 224),),
        }
        small = Streaming(sizes=("28x42",), rendered=2, count=(2,))

        def preset(run: RunConfig, **method: Any) -> Preset:
            return Preset(method=Sab3RConfig(**method), run=run)

        upsamplers = {**on_mast3r["upsamplers"], "dino": "featup-jbu-dinov2"}
        on_mast3r_both: dict[str, Any] = {**on_mast3r, **both, "upsamplers": upsamplers}
        on_small: dict[str, Any] = {
            "model": "manyview-small-words",
            "student": ('feature_heads=[["clip", 512], ["dino", 384]]',),
            "start": "manyview-small",
            "upsamplers": upsamplers,
            "distance": "square",
            "words": 0.0,
        }
        return {
            "tiny": preset(tiny, start="manyview-small", **words),
            "c": preset(paper, **on_mast3r),
            "cd": preset(paper, **on_mast3r_both),
            "c-released": preset(paper, **{**on_mast3r, "alpha": 1.0}),
            "cd-released": preset(paper, **{**on_mast3r_both, "alpha": 1.0}),
            "small-cd": preset(tiny, **{**words, **both, **on_small}),
            "debug": preset(debug, **{**words, "size": "debug", "stream": small, "pixels": 64, "geometry": True}),
        }

    @staticmethod
    def batches(config: Sab3RConfig, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:  # type: ignore[override]
        """Pairs of measured frames, or rendered scenes where the data name them; `cache`: the teachers' answers."""
        batches: WorldBatches | PairBatches
        of_labels = LABELS in config.teachers.values()
        if any(parse_stream(item) for item in data):
            if cache is not None:
                raise UserError(f"--data {data[0]} renders scenes and --cache {cache} holds others; leave one away")
            if of_labels and config.names != CLASSES:
                raise UserError(f"--data {data[0]} has names of its own for what it shows; leave method.names away")
            batches = WorldBatches(data, config.stream, scenes=run.batch, seed=run.seed)
        else:
            made = PairsRecipe.batches(config, run, cache=None, data=data)
            assert isinstance(made, PairBatches)
            batches = made
            if of_labels:
                _tell_names(batches, config.names)
                batches.names = config.names
        batches.keep_unchanged = any(source != LABELS for source in config.teachers.values())
        if cache is not None and isinstance(batches, PairBatches):
            return WithFeatures(batches, _kept(config, batches, cache))
        return batches

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass, the geometry's loss and each head's feature regression (equation 7)."""
        config, shown = self.config, views
        views, said = self.answer(views)
        result = self.shape(views, said, generator) if config.geometry else None
        loss, logs = (views.images.new_zeros(()), {}) if result is None else (result.loss, dict(result.logs))
        points = torch.rand(views.batch * views.views, config.pixels, 2, generator=generator).to(views.images.device)
        where = _once(points, shown)
        for space, weight in config.feature_weights.items():
            maps = said["features"][space].flatten(0, 1).permute(0, 3, 1, 2)  # (N, D, h, w)
            sampled = _once(sample_maps(maps, points).transpose(1, 2), shown)
            for name, (factor, term) in self.meaning(space, sampled, shown, where).items():
                loss = loss + factor * weight * term
                logs[name] = term.detach()
        return StepResult(loss, logs, pictures=None if result is None else result.pictures)

    def answer(self, views: Views) -> tuple[Views, dict[str, Any]]:
        """What the student says of views, and these, pairs both ways round where that is asked."""
        if self.pairs:
            return self.predict(views)
        asked = views.images.flatten(0, 1)[:, None] if self.config.alone else views.images
        return views, self.student(asked, points=self.config.geometry)

    def shape(self, views: Views, said: dict[str, Any], generator: torch.Generator) -> StepResult:
        """The reconstructor's own losses: MASt3R's of pairs, DUSt3R's on both maps of a student of many views."""
        if self.pairs:
            return self.geometry(views, said, generator)
        terms, _, _ = confident_maps(said, measured_points(views), alpha=self.config.alpha)
        total = (terms["global"] + terms["local"]).mean()
        return StepResult(total, {name: term.detach().mean() for name, term in terms.items()})

    @torch.no_grad()
    def watch(self) -> dict[str, float]:
        """Means of geometry's losses on the data that are watched; nothing where none are."""
        config, sums = self.config, dict[str, float]()
        if config.watched is None:
            return {}
        if self._watched is None:
            still = replace(config.stream, mirror=0.0, jitter=0.0, hue=0.0, grey=0.0, blur=0.0, noise=0.0)
            plain = replace(config, jitter=0.0, stream=still, teachers={})
            self._watched = self.batches(plain, RunConfig(steps=1, batch=1), cache=None, data=[Path(config.watched)])
        training, device = self.training, next(self.parameters()).device
        self.eval()
        for index in range(config.watched_batches):
            views, said = self.answer(self._watched(index).to(device))
            logs = self.shape(views, said, torch.Generator().manual_seed(index)).logs
            for name, value in logs.items():
                sums[name] = sums.get(name, 0.0) + float(value) / config.watched_batches
        self.train(training)
        return sums

    def meaning(self, space: str, said: Tensor, views: Views, points: Tensor) -> Mapping[str, tuple[float, Tensor]]:
        """Terms of what a head says (N, K, D) at points (N, K, 2): name -> share of the head's weight, and value."""
        config, teacher = self.config, self.teacher(space)
        shape, positions = (views.batch, views.views), 1 if self.pairs else views.views  # pairs add theirs up

        def mean(sums: Tensor, counts: Tensor) -> Tensor:
            return sum_of_views(sums.view(shape), counts.view(shape)) / positions

        terms = {space: (1.0, mean(*feature_distance(said, teacher.at(views, points), config.distance)))}
        if config.words and isinstance(teacher, LabelTeacher):
            words, labels = teacher.words.to(said.device), teacher.labels(views, points)
            told = word_loss(said, words, labels, config.word_temperature)
            share = config.words / config.feature_weights[space]
            terms[f"{space}_words"] = (share, mean(*told))
        return terms

    def teacher(self, space: str) -> SpaceTeacher:
        """The teacher of a space, loaded when it is first asked."""
        if space not in self._teachers:
            source, config = self.config.teachers[space], self.config
            self._teachers[space] = (
                LabelTeacher(config.names, space)
                if source == LABELS
                else NetworkTeacher(
                    source,
                    student_patch=self.student.config.patch_size,
                    upsampler=config.upsamplers.get(space),
                    kept=f"{space}/patches",
                )
            )
        return self._teachers[space]


def _once(values: Tensor, views: Views) -> Tensor:
    """What belongs to pixels of the views (N, K, D), of pairs perhaps both ways round, with each image there once."""
    if len(values) == views.batch * views.views:
        return values
    there, back = values.unflatten(0, (2, views.batch, views.views))
    return torch.cat([there, back.flip(1)], 2).flatten(0, 1)


class WithFeatures(WithAnswers):
    """Pairs whose views carry the patches of their teachers, "SPACE/patches", which were asked once for each crop."""

    def asked(self, views: Views) -> Views:
        clean = views.images if views.unchanged is None else views.unchanged
        size, sources = f"{views.size[0]}x{views.size[1]}", views.signals[SOURCE].value.tolist()
        pairs = zip(sources, views.names or (), strict=True)
        return Views(clean, names=[[f"{source}/{name} {size}" for name in row] for source, row in pairs])


def _tell_names(batches: PairBatches, names: Sequence[str]) -> None:
    """Say which data and which of their classes are not learned from. Raises UserError where nothing is left."""
    taught, unmatched = set[str](), dict[str, Sequence[str]]()
    for source in batches.sources:
        known = source.manifest.frames.known("labels").any()
        classes = source.manifest.info.get("classes", ()) if known else ()
        left = [name for name in classes if name not in names]
        taught |= {*classes} - {*left}
        if not classes:
            LOG.info("%s has no labels, so no words are learned from it", source.name)
        elif left:
            if len(left) == len(classes):
                unmatched[source.name] = classes
            shown = ", ".join(left[:10]) + ", …" * (len(left) > 10)
            LOG.info("%s: %d of %d classes are not in method.names: %s", source.name, len(left), len(classes), shown)
    if taught:
        return
    if unmatched:
        name, classes = next(iter(unmatched.items()))
        raise UserError(
            f"none of the {len(classes)} classes of {name} ({', '.join(classes[:5])}, …) is in method.names "
            f"({', '.join(names[:5])}, …); name those to learn: --set 'method.names=[{classes[0]}, …]'"
        )
    raise UserError(
        f"{batches.sources[-1].name} has no labels to learn words from; give data with labels (data scan --format "
        "scannet, …), rooms (--data rooms:1), or a model as teacher"
    )


def _kept(config: Sab3RConfig, batches: PairBatches, cache: Path) -> dict[str, CachedTeacher]:
    """Each teacher that is a network with a folder of its answers, where missing ones are kept."""
    from manyview.models.family import lookup

    patch = lookup(config.model)[1].patch_size
    return {
        space: CachedTeacher(
            loaded(source, name=source, student_patch=patch),
            cache / space,
            pictures={
                "frames": batches.describe()["rows"],
                "files": [source.manifest.files_digest() for source in batches.sources],
            },
            keep=config.keep,
        )
        for space, source in config.teachers.items()
        if source != LABELS
    }
