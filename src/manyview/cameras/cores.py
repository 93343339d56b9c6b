"""Work on every core: photos and pairs of photos are looked at by threads, in order, with the time left."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from manyview.progress import track

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    function: Callable[[T], R], items: Iterable[T], *, label: str, unit: str = "it", total: int | None = None
) -> Iterator[R]:
    """function(item) of every item, in order; the work is numpy's, OpenCV's and PyTorch's, which let others run."""
    threads, threads_of_torch = cores(), torch.get_num_threads()
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "cameras", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in track(items, label=label, unit=unit, total=total):
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads_of_torch)
