"""Batches made ahead of time by a background thread, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """`next()` returns `make(index)` for the indices in turn; up to `ahead` of them are already under way.

    What `make` raises is raised by the `next()` that would have returned its result.
    """

    def __init__(self, make: Callable[[int], T], indices: Iterable[int], *, ahead: int = 2) -> None:
        self._make = make
        self._indices = iter(indices)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._waiting: deque[Future[T]] = deque()
        self._submit(ahead)

    def _submit(self, count: int) -> None:
        for index in itertools.islice(self._indices, count):
            self._waiting.append(self._pool.submit(self._make, index))

    def next(self) -> T:
        if not self._waiting:
            raise StopIteration("no batches left")
        result = self._waiting.popleft().result()
        self._submit(1)
        return result

    def close(self) -> None:
        """Drop what is under way; waits at most for the batch being made."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
