"""Progress with time left for anything that takes more than a moment: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
FIRST, EVERY = 10.0, 60.0
"""Seconds until the first line without a terminal, and between the next ones."""
say: Callable[[str], None] | None = None
"""Where lines go without a terminal; a command sets it, the library alone is silent."""


def track(
    iterable: Iterable[T], *, total: int | None = None, label: str = "", unit: str = "it", enabled: bool | None = None
) -> Iterator[T]:
    """Yield from `iterable`, telling the time left: by a bar after one second, or by lines (`say`) after ten.

    `enabled=None` draws a bar only when stderr is a terminal; `True` always draws; `False` never tells anything.
    """
    if enabled is None and not sys.stderr.isatty():
        yield from iterable if say is None else _lines(iterable, total, label, unit)
        return
    if enabled is False:
        yield from iterable
        return
    from tqdm import tqdm

    yield from tqdm(iterable, total=total, desc=label, unit=unit, delay=1.0, file=sys.stderr, dynamic_ncols=True)


def _lines(iterable: Iterable[T], total: int | None, label: str, unit: str) -> Iterator[T]:
    total = len(iterable) if total is None and isinstance(iterable, Sized) else total
    began = told = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if say is not None and done and now - told >= (FIRST if told == began else EVERY):
            left = "" if total is None else f" of {total:,}, {clock((now - began) / done * (total - done))} left"
            say(f"{label or 'working'}: {unit} {done:,}{left}")
            told = now
        yield item


def clock(seconds: float) -> str:
    """3725 -> 1:02:05"""
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{seconds_left:02d}"
