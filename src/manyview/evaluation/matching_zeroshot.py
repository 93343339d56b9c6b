"""Matching without a probe (MuM, Table 13; by layer): each cell goes to the cell of the most similar token.

Tokens are compared by cosine, with and without the encoder's final layer norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manyview.evaluation.base import PROTOCOLS, Work
from manyview.evaluation.matching import Matching
from manyview.evaluation.matching_frames import Frames
from manyview.evaluation.tokens import Tokens
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

    norms: ClassVar[tuple[bool, ...]] = (True, False)

    def predict(self, name: str, tokens: dict[str, Tokens], frames: Frames, work: Work) -> Iterator[Tensor]:
        (test, pairs), shape = frames.examples(tokens, "test"), frames.shape
        for start in range(0, len(pairs), BATCH):
            a, b = (test[side[start : start + BATCH]].to(frames.device) for side in (pairs.a, pairs.b))
            scores = kernel_log_probabilities(a, b, self.temperature)
            yield decode(scores, shape.grid, shape.size, shape.decoding).cpu()
