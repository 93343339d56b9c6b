"""Progress with time left for anything that takes more than a moment: on stderr, silent when that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    iterable: Iterable[T], *, total: int | None = None, label: str = "", unit: str = "it", enabled: bool | None = None
) -> Iterator[T]:
    """Yield from `iterable`, drawing a bar with the time left after one second.

    `enabled=None` draws only when stderr is a terminal; `True` always draws; `False` never does.
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    if not enabled:
        yield from iterable
        return
    from tqdm import tqdm

    yield from tqdm(iterable, total=total, desc=label, unit=unit, delay=1.0, file=sys.stderr, dynamic_ncols=True)
