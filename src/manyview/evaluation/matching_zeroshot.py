"""Matching without a probe (MuM, Table 13; by layer): each cell goes to the cell of the most similar token.

Tokens are compared by cosine, with and without the encoder's final layer norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from manyview.evaluation.base import PROTOCOLS
from manyview.evaluation.matching import Matching, encoder_methods, save_prediction
from manyview.evaluation.matching_frames import Frames
from manyview.evaluation.tokens import Tokenise, Tokens
from manyview.geometry.matching import Decoding, decode, kernel_log_probabilities

BATCH = 8


@PROTOCOLS.add("matching-zeroshot")
@dataclass(frozen=True, kw_only=True)
class MatchingZeroshot(Matching):
    """The protocol's options; nothing is trained, so all scenes of the data are test scenes."""

    name: ClassVar[str] = "matching-zeroshot"
    line: ClassVar[str] = "end-point error of the most similar token, without a probe (MuM, Table 13)"

    decoding: Decoding = "argmax"
    """How similarities become a position; with other than argmax, `temperature` counts."""
    temperature: float = 0.1
    """What cosines are divided by."""

    def methods(self, model: Any, encoder: Any) -> list[Tokenise]:
        return encoder_methods(self, model, encoder, (True, False))

    def predict(self, tokens: dict[str, dict[str, Tokens]], frames: Frames, out: Path) -> None:
        for name, of_split in tokens.items():
            (test, pairs), shape, found = frames.examples(of_split, "test"), frames.shape, []
            for start in range(0, len(pairs), BATCH):
                a, b = (test[side[start : start + BATCH]].to(frames.device) for side in (pairs.a, pairs.b))
                scores = kernel_log_probabilities(a, b, self.temperature)
                found.append(decode(scores, shape.grid, shape.size, shape.decoding).cpu())
            save_prediction(out, name, torch.cat(found))
