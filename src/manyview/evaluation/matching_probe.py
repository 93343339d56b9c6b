"""Linear-probe dense matching (MuM, section 4.2 and Table 4; by layer, Figure 4).

The encoder is frozen. One linear projection of its patch tokens, shared by both images, is trained so that each
cell of A votes, by a softmax over cosines, for the cell of B that shows the same place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from manyview.evaluation import store
from manyview.evaluation.base import PROTOCOLS
from manyview.evaluation.matching import Matching, encoder_methods, save_prediction
from manyview.evaluation.matching_frames import Frames
from manyview.evaluation.probe import PUBLISHED_DECAYS, PUBLISHED_LRS, Sweep, predict, train_sweep
from manyview.evaluation.tokens import Tokenise, Tokens


@PROTOCOLS.add("matching-probe")
@dataclass(frozen=True, kw_only=True)
class MatchingProbe(Matching):
    """The protocol's options.

    `published=true` sets what the released evaluation does: 30 probes, gradients clipped over all of them
    together, tokens as they are, neighbours by flat index, absolute positions interpolated, the probe and the
    moment picked on the test pairs themselves, RoMa's mask of valid pixels.
    """

    name: ClassVar[str] = "matching-probe"
    line: ClassVar[str] = "end-point error of a linear probe on frozen features (MuM, Table 4; Figure 4)"

    norm: bool = True
    """Tokens after the encoder's final LayerNorm; false: as they leave the block."""
    standardise: bool = True
    """Channels with mean 0 and spread 1 on the training frames, for every method alike. A linear probe can say no
    more with it, but learns in fewer steps; not in the published evaluation."""
    train_pairs: int = 1500
    """Pairs the probes learn from."""
    val_pairs: int = 200
    """Pairs that pick the probe."""
    pairs_per_scene: int = 6
    """Training pairs of a scene, before another scene's are taken: fewer frames to encode."""
    pick: Literal["val", "test"] = "val"
    """What picks the probe; test is what was published, and flatters."""
    sweep: Sweep = field(default_factory=Sweep)
    """How the probes are trained (sweep.steps, sweep.lrs, ...)."""

    @property
    def training_pairs(self) -> dict[str, int]:
        return {"train": self.train_pairs, "val": self.val_pairs}

    @property
    def per_scene(self) -> dict[str, int]:
        return {"train": self.pairs_per_scene}

    def methods(self, model: Any, encoder: Any) -> list[Tokenise]:
        return encoder_methods(self, model, encoder, (self.norm,))

    def predict(self, tokens: dict[str, dict[str, Tokens]], frames: Frames, out: Path) -> None:
        picked_on = "test" if self.published else self.pick
        for name, found_tokens in tokens.items():
            of_split = found_tokens
            if (out / "predictions" / f"{name}.npz").is_file():
                continue
            if self.standardise and not self.published:
                numbers = of_split["train"].statistics()
                of_split = {split: rows.standardised(*numbers) for split, rows in of_split.items()}
            train, picking, test = (frames.examples(of_split, s) for s in ("train", picked_on, "test"))
            common: dict[str, Any] = {"shape": frames.shape, "sweep": self.the_sweep, "device": frames.device}
            probe, found = train_sweep(train, picking, **common, width=min(train.tokens.dim, frames.width))
            store.write_json(out / "training" / f"{name}.json", found)
            save_prediction(out, name, torch.cat(list(predict(probe, test, **common)), 1)[0])

    @property
    def the_sweep(self) -> Sweep:
        if self.published:
            return replace(self.sweep, lrs=PUBLISHED_LRS, decays=PUBLISHED_DECAYS, clip="global")
        return self.sweep
