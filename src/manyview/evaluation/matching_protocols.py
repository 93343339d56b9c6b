"""The matching protocols of MuM: by a linear probe (section 4.2, Table 4; by layer, Figure 4), and without (Table 13).

The encoder is frozen. Each cell of A votes, by a softmax over cosines of tokens, for the cell of B that shows the same
place; the probe is one linear projection of the tokens, shared by both images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from manyview.config import Positive
from manyview.data.pairs import DepthReader, Pair
from manyview.evaluation.base import PROTOCOLS, Model, Work
from manyview.evaluation.matching import Frames, Matching
from manyview.evaluation.matching_changes import Changed, changed_pairs, usable
from manyview.evaluation.probe import PUBLISHED_DECAYS, PUBLISHED_LRS, Sweep, predict, train_sweep
from manyview.evaluation.tokens import Scaling, Tokenise, Tokens, from_colours
from manyview.geometry.matching import Decoding, decode, kernel_log_probabilities

BATCH = 8
PUBLISHED_STEPS = 25_000


@PROTOCOLS.add("matching-probe")
@dataclass(frozen=True, kw_only=True)
class MatchingProbe(Matching):
    """The protocol's options.

    `published=true` sets what the released evaluation does: 30 probes, gradients clipped over all of them
    together, tokens as they are, neighbours by flat index, absolute positions interpolated, the probe and the
    moment picked on the test pairs themselves, RoMa's mask of valid pixels; and, unless they are given, pictures of 448
    pixels, 25,000 steps judged ten times, and changed copies of the training pairs. The published list of test pairs is
    `pair_list`.
    """

    name: ClassVar[str] = "matching-probe"
    line: ClassVar[str] = "end-point error of a linear probe on frozen features (MuM, Table 4; Figure 4)"

    norm: bool = True
    """Tokens after the encoder's final LayerNorm; false: as they leave the block."""
    scalings: tuple[Scaling, ...] = ("channels", "whitened")
    """How tokens are scaled before the probe, by numbers of the training frames: every channel's spread 1, or whitened
    as a whole; empty for neither. All are tried and the validation pairs pick, for every method alike. A linear probe
    can say no more with it, but learns in fewer steps; not in the published evaluation."""
    train_pairs: int = 1500
    """Pairs the probes learn from."""
    val_pairs: int = 200
    """Pairs that pick the probe."""
    augment: int = -1
    """Copies of every training pair, flipped and shifted by up to 32 pixels, that the probes learn from beside it; -1:
    4 with published=true, which draws them anew each time where this keeps them, else none."""
    pairs_per_scene: int = 6
    """Training pairs of a scene, before another scene's are taken: fewer frames to encode."""
    pick: Literal["val", "test"] = "val"
    """What picks the probe; test is what was published, and flatters."""
    sweep: Sweep = field(default_factory=Sweep)
    """How the probes are trained (sweep.steps, sweep.lrs, ...)."""

    @property
    def wanted(self) -> dict[str, tuple[int, int]]:
        train = {"train": (self.train_pairs, self.pairs_per_scene), "val": (self.val_pairs, 1)}
        return {**train, **super().wanted}

    def tokenisers(self, model: Model, encoder: Any, norms: Sequence[bool]) -> list[Tokenise]:
        colours = [from_colours(int(encoder.config.patch_size))] if self.baselines else []
        return [*super().tokenisers(model, encoder, (self.norm,)), *colours]

    def predict(self, name: str, tokens: dict[str, Tokens], frames: Frames, work: Work) -> Iterator[Tensor]:
        scalings: Sequence[Scaling | None] = (None,) if self.published or not self.scalings else self.scalings
        common: dict[str, Any] = {"shape": frames.shape, "sweep": self.the_sweep, "device": frames.device}
        tried = []
        for scaling in scalings:
            of_split = tokens
            if scaling is not None:
                numbers = tokens["train"].scaling(scaling)
                of_split = {split: rows.scaled(*numbers) for split, rows in tokens.items()}
            picked_on = "test" if self.published else self.pick
            train, picking, test = (frames.examples(of_split, split) for split in ("train", picked_on, "test"))
            probe, learned = train_sweep(train, picking, **common, width=frames.width)
            tried.append((probe, {"scaling": scaling, **learned}, test))
        probe, learned, test = min(tried, key=lambda one: one[1]["picked"]["epe"])
        work.keep_learned(name, learned)
        return (uv[0] for uv in predict(probe, test, **common))

    @property
    def the_sweep(self) -> Sweep:
        if self.published:
            plain = Sweep()
            own = self.sweep.steps != plain.steps
            steps = self.sweep.steps if own else PUBLISHED_STEPS
            often = self.sweep.evaluations if own or self.sweep.evaluations != plain.evaluations else 10
            lrs, decays = PUBLISHED_LRS, PUBLISHED_DECAYS
            return replace(self.sweep, lrs=lrs, decays=decays, clip="global", steps=steps, evaluations=often)
        return self.sweep

    def _seen_anew(self, readers: Mapping[str, DepthReader], pairs: dict[str, list[Pair]]) -> dict[str, Changed]:
        of, copies = super()._seen_anew(readers, pairs), self.augment
        copies = (4 if self.published else 0) if copies < 0 else copies
        if copies:
            of["train"], every = changed_pairs(readers["train"], pairs["train"], copies, self.seed)
            pairs["train"] = usable(of["train"], every, readers["train"].size)
        return of


@PROTOCOLS.add("matching-zeroshot")
@dataclass(frozen=True, kw_only=True)
class MatchingZeroshot(Matching):
    """The protocol's options; nothing is trained, so all scenes of the data are test scenes."""

    name: ClassVar[str] = "matching-zeroshot"
    line: ClassVar[str] = "end-point error of the most similar token, without a probe (MuM, Table 13)"

    decoding: Decoding = "argmax"
    """How similarities become a position; with other than argmax, `temperature` counts."""
    temperature: Positive = 0.1
    """What cosines are divided by."""

    norms: ClassVar[tuple[bool, ...]] = (True, False)

    def predict(self, name: str, tokens: dict[str, Tokens], frames: Frames, work: Work) -> Iterator[Tensor]:
        (test, pairs), shape = frames.examples(tokens, "test"), frames.shape
        for start in range(0, len(pairs), BATCH):
            a, b = (test[side[start : start + BATCH]].to(frames.device) for side in (pairs.a, pairs.b))
            scores = kernel_log_probabilities(a, b, self.temperature)
            yield decode(scores, shape.grid, shape.size, shape.decoding).cpu()
