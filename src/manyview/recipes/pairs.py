"""Pair reconstructors learn from posed depth: DUSt3R's and MASt3R's training, and MASt3R's decoder on a frozen DUNE.

DUSt3R (Wang et al., CVPR 2024) regresses both views' points in the first one's frame under a confidence; MASt3R (Leroy
et al., ECCV 2024, equation 13) adds 0.075 times a matching loss on descriptors. DUNE's supplementary, section B, keeps
the encoder frozen, reads it through a new LayerNorm, and starts decoder and heads from MASt3R's where sizes agree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyview.batches.pairs import METRIC, PairBatches, PairOptions, PairWish
from manyview.batches.road import wish_of
from manyview.config import Positive, RunConfig, Share, read_assignments
from manyview.data.pairs import Choice
from manyview.data.sources import SOURCES
from manyview.errors import UserError
from manyview.losses.confident import confident_regression, point_distances, sum_of_views
from manyview.losses.matching import matching_loss
from manyview.models.model import Model
from manyview.models.pair.network import PairConfig, PairReconstructor
from manyview.recipes.base import RECIPES, Preset, Recipe, only_manifests
from manyview.recipes.pair_signals import MATCHES, both_ways, pair_signals
from manyview.types import Batches, Features, Signal, StepResult, Views

LOG = logging.getLogger(__name__)

Sizes = tuple[tuple[int, int], ...]

SIZES_448: Sizes = ((448, 448), (336, 448), (294, 448), (252, 448), (224, 448), (140, 448))
SIZES_518: Sizes = ((518, 518), (392, 518), (336, 518), (294, 518), (252, 518), (168, 518))
SIZES_512: Sizes = ((384, 512), (336, 512), (288, 512), (256, 512), (160, 512))
"""DUNE's supplementary, section B, for encoders distilled at 336 and at 448; MASt3R's and SAB3R's training."""
TINY = (
    *("dim=128", "depth=6", "heads=2", "registers=0", "patch_size=8", "positions=12", "layer_scale=null"),
    *("decoder_dim=128", "decoder_depth=4", "decoder_heads=2", "taps=[0,2,3,4]"),
    *("head=linear", "descriptor_dim=16", "descriptor_hidden=1"),
)
"""A small layout, with the encoder of `manyview train dune --preset tiny`: that run's model can be `method.encoder`."""


def in_metres() -> tuple[str, ...]:
    """Data sets whose depth and poses are in metres, of all readers that are installed, and our own scenes."""
    metric = (name for name in SOURCES.names() if SOURCES.get(name).metric)
    return ("manyview-synth", *metric)


@dataclass(frozen=True, kw_only=True)
class PairsConfig(PairOptions):
    """What changes the numbers of a run on pairs, beside how it is optimised."""

    model: str = "dunemast3r-vitb14"
    """Zoo name of the pair reconstructor; `--init` replaces all its weights."""
    size: Literal["debug"] | None = None
    """Shrinks the student: `debug` or none."""
    student: tuple[str, ...] = ()
    """Fields of its layout to override, as key=value: dim=128, depth=6, decoder_dim=128, taps=[0,1,2,3]."""
    encoder: str | None = None
    """Zoo name or model directory whose encoder's weights it starts from, such as a trained DUNE; none: random ones."""
    start: str | None = None
    """Zoo name or model directory whose other weights are taken wherever name and shape agree."""
    freeze: Literal["encoder", "nothing"] = "encoder"
    """encoder: all of it but the LayerNorm that the decoder reads it through."""
    sizes: Sizes = SIZES_518
    """(height, width) of the images, landscape, multiples of the patch; one is drawn per forward pass."""
    symmetric: bool = True
    """Every pair counts both ways round; each image is encoded once."""
    alpha: float = 0.2
    """Reward of confidence in the points' loss."""
    matching: float = 0.075
    """Weight of the matching loss; 0 for none, and for networks without descriptors."""
    matching_alpha: float = 10.0
    """Reward of confidence in the matching loss."""
    temperature: Positive = 0.05
    """Of the softmaxes over descriptors."""
    matches: int = 8192
    """Pixels of each view that the matching loss looks at."""
    mismatched: Share = 0.5
    """Least share of these without a match."""
    overlap: tuple[Share, Share] = (0.2, 0.95)
    """Smallest and largest share of a view's places that the other sees."""
    motion: float = 0.0
    """Smallest median displacement between the views, in units of the longer side."""
    jitter: float = 0.5
    """Strength of the colour jitter, picture by picture."""
    checkpointing: bool = False
    """Recompute the encoder's blocks in the backward pass: less memory, more time."""


def _preset(run: RunConfig, **method: Any) -> Preset:
    return Preset(method=PairsConfig(**method), run=run)


@RECIPES.add("pairs")
class PairsRecipe(Recipe):
    """Holds the pair reconstructor and turns measured pairs into a loss."""

    Config = PairsConfig
    next_steps = ("manyview reconstruct FIRST SECOND --model {model} -o scene",)

    def __init__(self, config: PairsConfig) -> None:
        super().__init__()
        self.config = config
        self.student: PairReconstructor = _student(config)
        if (
            config.freeze == "encoder"
        ):  # but the LayerNorm that the decoder reads it through: its last one, or a new one
            self.student.encoder.requires_grad_(False)
            if self.student.norm is None:
                self.student.encoder.norm.requires_grad_(True)
        self.student.encoder.checkpointing = config.checkpointing
        self.student.train()

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`tiny`: a CPU; `paper`, `paper-336`, `small`: MASt3R on DUNE; `mast3r`: MASt3R itself; `debug`: seconds.

        In ten minutes `tiny` shows that everything runs; it has not been seen to do better than the mean pointmap.
        """
        # DUNE's supplementary says 6.5 million pairs with MASt3R's code; batch, rates and warm-up are MASt3R's: 64
        # pairs a step, on eight GPUs with run.accumulate=2.
        shared: dict[str, Any] = {"weight_decay": 0.05, "betas": (0.9, 0.95), "batch": 4}
        large = {**shared, "lr": 1e-4, "min_lr": 1e-6, "warmup": 0.16, "accumulate": 16, "checkpoint_every": 1000}
        on_dune = RunConfig(steps=6_500_000 // 64, **large)
        mast3r = RunConfig(steps=50 * 698_820 // 64, **large)
        tiny = RunConfig(
            steps=2000, lr=3e-3, min_lr=1e-5, warmup=0.1, decay_vectors=False, checkpoint_every=100, **shared
        )
        debug = RunConfig(steps=10, batch=2, lr=1e-3, checkpoint_every=5, log_every=1)
        published = {"start": "mast3r-vitl16", "metric": in_metres()}
        small = {"model": "dunemast3r-vits14", "freeze": "nothing", "matches": 256, "jitter": 0.3}
        middle = {"encoder": "dune-vitb14-336", "student": ("positions=24",), "sizes": SIZES_448}
        return {
            "tiny": _preset(tiny, student=TINY, sizes=((64, 88),), **small),
            "paper": _preset(on_dune, encoder="dune-vitb14-448", **published),
            "paper-336": _preset(on_dune, **middle, **published),
            "small": _preset(on_dune, model="dunemast3r-vits14", encoder="dune-vits14-448", **published),
            "mast3r": _preset(
                mast3r,
                model="mast3r-vitl16",
                start="dust3r-vitl16-512-dpt",
                freeze="nothing",
                sizes=SIZES_512,
                metric=in_metres(),
            ),
            "debug": _preset(debug, model="dunemast3r-vits14", size="debug", sizes=((28, 42),), matches=64),
        }

    @staticmethod
    def batches(config: PairsConfig, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:
        """Overlapping pairs of the manifests' scenes."""
        only_manifests("pairs learns on frames with depth and poses", data, cache)
        choice = Choice(overlap=config.overlap, motion=config.motion)
        wish = wish_of(PairWish, config, pairs=run.batch, choice=choice, seed=run.seed)
        batches = PairBatches(data, wish)
        if config.metric and not {*batches.datasets} & {*config.metric}:
            raise UserError(
                f"method.metric names none of the data's datasets ({', '.join(batches.datasets)}), so no size could be "
                "learned; name those that are in metres, or set method.metric=[]"
            )
        return batches

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass and its loss: the points' under the confidence, and the matches'."""
        return self.geometry(*self.predict(views), generator)

    def geometry(self, views: Views, said: dict[str, Any], generator: torch.Generator) -> StepResult:
        """The loss of what was said of measured views (B, 2, ...), both ways round where that is asked."""
        config = self.config
        truth = pair_signals(
            views, matches=config.matches if config.matching else 0, mismatched=config.mismatched, generator=generator
        )
        metric = None
        if METRIC in views.signals:  # whose lengths are metres, said of the pairs before they were turned round
            flags = views.signals[METRIC].value
            metric = flags.repeat(len(views.images) // len(flags))
        distances, known = point_distances(said["pointmap"], truth["pointmap"], metric=metric)
        regression = sum_of_views(*confident_regression(distances, known, said["confidence"], alpha=config.alpha))
        away = sum_of_views(distances.sum((2, 3)), known.sum((2, 3))) / 2
        logs: dict[str, float | Tensor] = {"points": regression.detach(), "distance": away.detach()}
        loss = regression
        if config.matching:
            sums, counts = matching_loss(
                said["descriptors"],
                said["descriptor_confidence"],
                truth[MATCHES],
                alpha=config.matching_alpha,
                temperature=config.temperature,
            )
            matching = sums.sum() / counts.sum().clamp(min=1)
            loss = regression + config.matching * matching
            logs |= {"matching": matching.detach(), "matches": counts.float().mean()}
        shown = {name: said[name][:1].detach() for name in ("pointmap", "confidence")}
        return StepResult(loss, logs, pictures=lambda: {"pair": panel(views.images[0], shown, truth["pointmap"])})

    def predict(self, views: Views) -> tuple[Views, dict[str, Any]]:
        """The views that count, both ways round where the pairs are symmetric, and what the student says of them."""
        first, second = self.student.encode_views(views.images)
        if self.config.symmetric:
            views = both_ways(views)
            whole, swapped = (
                Features(torch.cat([one.patches, other.patches]), None, None, one.grid)
                for one, other in ((first, second), (second, first))
            )
            first, second = whole, swapped
        named = (name for name, _ in self.student.heads[0].named_children())
        heads = None if self.config.matching else [name for name in named if name != "descriptors"]
        return views, self.student.decode(first, second, heads=heads)


def built(config: PairsConfig, **fields: Any) -> Model:
    """The network of a config's name, with these fields and those of `method.student`. Raises UserError."""
    from manyview import zoo

    fields |= read_assignments(config.student, "method.student")
    try:
        return zoo.build(config.model, size=config.size, **fields)
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # a field that is unknown, or sizes that do not go together
        raise UserError(f"method.student does not fit {config.model}: {error}") from error


def start_from(student: Model, source: str, *, but: tuple[str, ...] = ()) -> tuple[int, int]:
    """Take the weights of a zoo name or model directory wherever name and shape agree: (taken, left as they were).

    `but`: prefixes of names that keep their own. Raises UserError when nothing agrees.
    """
    from manyview import zoo

    weights, mend = zoo.load(source).state_dict(), "choose another method.start"
    taken, left = zoo.take_weights(student, weights, f"method.start={source}", mend, partly=True, but=but)
    card = student.card
    student.card = {**card, "derived_from": [*card.get("derived_from", ()), *zoo.licences_of(source)]}
    LOG.info("took %d weights of %s, %d differ in name or shape", taken, source, left)
    return taken, left


def panel(images: Tensor, said: dict[str, Tensor], truth: Signal) -> Tensor:
    """The views (2, 3, H, W) of the first pair beside each other: pixels, distance from the first camera said and true,
    confidence; rows of one picture (3, 4H, 2W).

    Distances are in units of their mean over what was measured, white far; confidence is logarithmic, white sure.
    """
    points, known = truth.value[0], (truth.value[0].norm(dim=-1) > 0)  # (2, H, W, 3), (2, H, W)
    greys = []  # (2, H, W) each
    for each in (said["pointmap"][0], points):
        distance = each.float().norm(dim=-1) * known
        mean = distance.sum() / known.sum().clamp(min=1)
        greys.append(distance / (2 * mean).clamp(min=1e-8))
    sure = said["confidence"][0].float().log()
    greys.append(sure / sure.max().clamp(min=1e-8))
    rows = [images.float(), *(grey[:, None].expand(-1, 3, -1, -1) for grey in greys)]
    return torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2).clamp(0, 1).cpu()


def _student(config: PairsConfig) -> PairReconstructor:
    """The network with the weights it starts from. Raises UserError for one that does not fit the options."""
    from manyview.models.family import lookup

    if not issubclass(lookup(config.model)[0].network, PairReconstructor):
        raise UserError(
            f"method.model is {config.model}, no pair reconstructor; choose a dust3r-…, mast3r-… or dunemast3r-…"
        )
    # Points are only ever called metric where that was learned.
    student = built(config, encoder=config.encoder, metric=bool(config.metric))
    assert isinstance(student, PairReconstructor)
    _check(config, student.config)
    if config.freeze == "encoder" and config.encoder is None and config.start is None:
        LOG.warning("the frozen encoder has random weights unless --init brings others; see method.encoder")
    if config.start is not None:
        start_from(student, config.start, but=("encoder.",) if config.encoder is not None else ())
    return student


def _check(config: PairsConfig, student: PairConfig) -> None:
    """Raise UserError for options that the network cannot serve."""
    if config.matching and not student.descriptor_dim:
        raise UserError(
            f"{config.model} has no descriptors, which the matching loss needs; set method.matching=0 or take a "
            "mast3r-… or dunemast3r-…"
        )
    for height, width in config.sizes:
        near = [max(1, round(side / student.patch_size)) * student.patch_size for side in (height, width)]
        if [height, width] != near or height > width:
            low, high = sorted(near)
            raise UserError(
                f"method.sizes has [{height}, {width}]; sides are multiples of the patch ({student.patch_size}), "
                f"height at most width: take [{low}, {high}]"
            )
    if not config.sizes:
        raise UserError("method.sizes is empty; give at least one [height, width]")
    least, most = config.overlap
    if not 0 <= least <= most <= 1:
        raise UserError(f"method.overlap is [{least:g}, {most:g}]; it is two shares from 0 to 1, the smaller first")
    if not 0 <= config.mismatched < 1 or config.matches < 1:
        raise UserError(
            f"method.matches is {config.matches} with a share mismatched of {config.mismatched:g}; give at least 1, "
            "and a share from 0 to below 1"
        )
