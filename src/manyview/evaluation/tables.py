"""Tables of numbers for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Number:
    """A number that matters: its key in rows, and how tables show it."""

    key: str
    head: str
    """With its unit: "EPE px", "RMSE"."""
    better: Literal["lower", "higher"] = "lower"
    digits: int = 3
    percent: bool = False
    """Shown times 100, with a sign."""

    def text(self, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.{self.digits}f} %" if self.percent else f"{value:.{self.digits}f}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, texts: bool = False) -> str:
    """A table; the first column is text, the others are numbers, or `texts` too."""
    rule = f"|{' --- |' * len(heads)}" if texts else "|---|" + "---:|" * (len(heads) - 1)
    body = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *body])


def interval(low: float | None, high: float | None, form: str = ".3f") -> str:
    """ "0.512 to 0.634", or why there is none."""
    if low is None or high is None or not math.isfinite(low):
        return "one scene"
    return f"{low:{form}} to {high:{form}}"
