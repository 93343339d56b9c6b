"""Feed-forward reconstruction on an encoder (MuM, section 4.1, appendix B): cameras, depth and points of many views.

A frozen encoder, a linear map, blocks within and among views, VGGT's camera head and two DPTs, learned from measured
depth and cameras (equation 3), or from the answers of VGGT alone (equation 2). Judged by `eval poses --cameras model`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from manyview.batches.worlds import Streaming
from manyview.config import RunConfig
from manyview.errors import UserError
from manyview.losses.feedforward import distillation_terms, reconstruction_terms
from manyview.losses.relating import measured_points
from manyview.models.family import lookup, with_overrides
from manyview.models.family import presets as zoo_names
from manyview.models.vggt.network import Vggt, VggtConfig
from manyview.models.vit import EncoderConfig
from manyview.models.vit import debug as debug_encoder
from manyview.recipes.base import RECIPES, Preset, Recipe
from manyview.recipes.distill3r import Distill3R
from manyview.types import Batches, StepResult, Views

LOG = logging.getLogger(__name__)
PAPER: dict[str, Any] = {"dim": 768, "depth": 6, "heads": 12, "registers": 0, "taps": (2, 3, 4, 5)}
"""Six pairs of blocks, 768 channels, no registers; the dense heads read the last four."""
SMALL: dict[str, Any] = {
    **{"dim": 96, "depth": 4, "heads": 4, "registers": 0, "taps": (0, 1, 2, 3), "camera_depth": 1, "camera_rounds": 2},
    **{"head_layer_dims": (32, 32, 64, 64), "head_dim": 32, "head_last_dim": 16},
}
"""For two cores."""


@dataclass(frozen=True, kw_only=True)
class FeedforwardConfig:
    """What changes the numbers of a run, beside how it is optimised."""

    encoder: str = ""
    """Zoo name or model directory of the encoder; without one, a small one with random weights."""
    freeze: bool = True
    """The encoder stays as it is."""
    student: dict[str, Any] = field(default_factory=lambda: dict(PAPER))
    """Sizes of what is on the encoder, as fields of the family vggt: {dim: 768, depth: 6}."""
    distil: str = ""
    """Zoo name or model directory of a network whose answers are learned in place of measured ones (equation 2):
    vggt-1b."""
    camera: float = 5.0
    """Weight of the cameras (equation 3)."""
    depth: float = 1.0
    """Weight of depth."""
    points: float = 1.0
    """Weight of points."""
    alpha: float = 0.2
    """What being sure pays."""
    teacher: str | None = None
    """Whose measurements of a cache are learned, where it holds several; none: the first one's."""
    views: int = 8
    """Views per scene and step, of a cache."""
    flip: bool = False
    """Mirror whole scenes of a cache at random."""
    jitter: float = 0.0
    """Strength of colour jitter on the images of a cache."""
    stream: Streaming = field(default_factory=Streaming)
    """How procedural scenes become batches."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> how often its samples are drawn, in proportion; empty: every sample as often."""


@RECIPES.add("feedforward")
class Feedforward(Recipe):
    """Holds the student and turns views with measured depth and cameras, or a teacher's answers, into a loss."""

    Config = FeedforwardConfig

    def __init__(self, config: FeedforwardConfig) -> None:
        super().__init__()
        self.config = config
        self.student: Vggt = _student(config)
        if config.freeze:
            self.student.encoder.requires_grad_(False)
        self.student.train()
        self._teacher: list[Any] = []  # in a list, lest it becomes part of what is trained and saved
        if config.distil:
            from manyview import zoo

            network = zoo.load(config.distil)
            if not hasattr(network, "camera"):
                raise UserError(
                    f"method.distil is {config.distil}, which says no cameras, depth and points; take vggt-1b, or a "
                    "model that this recipe made"
                )
            self._teacher = [network.eval().requires_grad_(False)]

    @staticmethod
    def presets() -> dict[str, Preset]:
        """`tiny`: two cores; `frozen`: as printed, on an encoder that you name; `distil`: equation 2; `debug`.

        The paper's rates are lost in its text: 2e-4 is that of the authors' fork of VGGT. What is distilled there keeps
        MuM's decoder; here the blocks on the encoder are new.
        """
        printed = RunConfig(
            steps=100_000, batch=4, lr=2e-4, min_lr=1e-8, warmup=0.05, weight_decay=0.05, clip=1.0, precision="bf16"
        )
        tiny = RunConfig(steps=2000, batch=4, lr=1e-3, warmup=0.05, weight_decay=0.05, clip=1.0, checkpoint_every=250)
        debug = RunConfig(steps=10, batch=1, lr=1e-3, checkpoint_every=5, log_every=1)
        small = Streaming(sizes=("42x42",), count=(2, 3, 4), rendered=4)
        large = Streaming(sizes=("224x304", "304x224", "256x256"), rendered=24, count=(2, 4, 8, 12, 16, 24))
        mum: dict[str, Any] = {"encoder": "mum-vitl16", "stream": large}
        return {
            "tiny": Preset(method=FeedforwardConfig(student=SMALL, stream=small), run=tiny),
            "frozen": Preset(method=FeedforwardConfig(**mum), run=printed),
            "distil": Preset(method=FeedforwardConfig(**mum, freeze=False, distil="vggt-1b"), run=printed),
            "debug": Preset(method=FeedforwardConfig(student=SMALL, stream=small), run=debug),
        }

    @staticmethod
    def batches(config: Any, run: RunConfig, *, cache: Path | None, data: Sequence[Path]) -> Batches:
        """As distill3r: a cache of measured depth, or procedural scenes where the data name them."""
        return Distill3R.batches(config, run, cache=cache, data=data)

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        """One forward pass and its loss (equation 2 or 3)."""
        config, said = self.config, self.student(views.images)
        if self._teacher:
            with torch.inference_mode():
                answers = self._teacher[0].to(views.images.device)(views.images)
            terms = distillation_terms(said, {name: value.clone() for name, value in answers.items() if name in said})
            total = sum(terms.values())
        else:
            if views.cam2world is None or views.intrinsics is None:
                raise UserError("feedforward learns cameras, which these data do not say; scan data with poses")
            terms = reconstruction_terms(said, views, views.signals or measured_points(views), alpha=config.alpha)
            total = config.camera * terms["camera"] + config.depth * terms["depth"] + config.points * terms["points"]
        return StepResult(torch.as_tensor(total), {name: term.detach() for name, term in terms.items()})


def _student(config: FeedforwardConfig) -> Vggt:
    """The family vggt on the encoder that is named. Raises UserError for sizes that do not go together."""
    from manyview import zoo
    from manyview.zoo.models import encoder_weights, licences_of, take_weights

    plain = VggtConfig()
    if config.encoder:
        whole = lookup(config.encoder)[1] if config.encoder in zoo_names() else zoo.load(config.encoder).config
        layout = getattr(whole, "encoder", whole)
        if not isinstance(layout, EncoderConfig):
            raise UserError(f"method.encoder is {config.encoder}, which has no encoder of patches to build on")
    else:
        LOG.warning("the encoder is small and has random weights; see method.encoder")
        layout = debug_encoder(plain.encoder)
    try:
        student = Vggt.fresh(with_overrides(replace(plain, encoder=layout), {"embed": True, **config.student}))
    except (TypeError, ValueError) as error:  # a field that is unknown, or sizes that do not go together
        raise UserError(f"method.student does not fit: {error}") from error
    student.architecture = "vggt"
    if config.encoder:
        what = f"the encoder of {config.encoder}"
        take_weights(student.encoder, encoder_weights(config.encoder), what, "choose another")
        student.card = {"derived_from": licences_of(config.encoder)}
    return student
