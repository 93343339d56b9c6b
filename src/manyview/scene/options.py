"""The options of `locate`, apart from what they need: the command line shows them at no cost."""

from __future__ import annotations

from dataclasses import dataclass

from manyview.config import Share

MODEL = "manyview-small-words"
"""The bundled model whose features answer to words."""


@dataclass(frozen=True, kw_only=True)
class LocateOptions:
    """What counts as found."""

    threshold: Share = 0.5
    """A pixel shows a query where it is at least this probable against everything else."""
    background: str = ""
    """Words that compete with the queries, with commas between; none: a hundred everyday ones."""
    space: str | None = None
    """Which of the scene's feature spaces; none: the first that words have."""
    quantile: Share = 0.1
    """Leave out this share of the scene's least confident points."""
