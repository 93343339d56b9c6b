"""Batches in order, made ahead of time by torch's DataLoader, in as many processes as a run asks for.

The processes are started afresh (forkserver, else spawn), never forked from the one that trains: threads and a GPU
that are at work there are no business of theirs.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from manyview.errors import UserError
from manyview.types import Batches, Views

MOST = 8
"""Processes that load for one GPU unless a run says otherwise."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT = 1 << 30
"""Bytes up to which malloc keeps freed memory."""
PRELOADED = ["torch", "numpy", "PIL.Image", "pyarrow", "manyview.files", "manyview.images.reading"]
"""What the server of new processes imports once for all of them."""


class LoadingEnded(UserError):
    """A process that loads the data is gone."""


def workers_for(device: torch.device, asked: int | None, ranks: int = 1) -> int:
    """Processes that load, for each of the ranks on this machine. Raises UserError for a negative number.

    By default a core for each of up to MOST beside a GPU; none beside a CPU that trains, which needs its cores itself.
    """
    if asked is not None and asked < 0:
        raise UserError(f"run.workers is {asked}; give 0 (load in the training process) or more")
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if device.type != "cuda" else max(1, min(MOST, cores // ranks - 1))


class Feed:
    """`next()` gives the views of the indices in turn, on the device. Close it, or use it as a context manager."""

    def __init__(
        self,
        batches: Batches | Callable[[int], Views],
        indices: Sequence[int],
        *,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        """A plain function cannot be sent to another process: it is called in this one."""
        self._batches, self._device = batches, device
        self._workers = workers = min(workers, len(indices)) if isinstance(batches, Batches) else 0
        if workers and device.type == "cpu":
            keep_freed_memory()
        with contextlib.ExitStack() as stack:
            if workers:
                stack.enter_context(_hidden_main())
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", message=".*worker processes in total", category=UserWarning)
            loader: DataLoader[Any] = DataLoader(
                _Loads(batches.load if isinstance(batches, Batches) else batches),
                sampler=indices,
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=device.type == "cuda",
                worker_init_fn=_begin_worker if workers else None,
                multiprocessing_context=_context() if workers else None,
                generator=torch.Generator(),  # it draws a seed for its workers, which use none
            )
            before = multiprocessing.active_children()
            self._loaded: Iterator[Any] | None = iter(loader)
            self._processes = [p for p in multiprocessing.active_children() if p not in before]
        if workers:
            atexit.register(self.close)  # else a script that stumbles would wait for its processes for ever

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next(self) -> Views:
        """The next batch. What loading it raised is raised here; StopIteration after the last one."""
        if self._loaded is None:
            raise StopIteration("no batches left")
        try:
            loaded = next(self._loaded)
        except (RuntimeError, OSError, EOFError) as error:
            if not self._workers or str(error).startswith("Caught"):  # what loading itself raised
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise LoadingEnded(
                f"a process that loads the data ended early ({reason}); memory may be short: set run.workers lower, or "
                "give a container more shared memory (--shm-size)"
            ) from error
        if isinstance(loaded, UserError):
            raise loaded
        if isinstance(self._batches, Batches):
            return self._batches.finish(loaded, self._device)
        return loaded.to(self._device)

    def close(self) -> None:
        """Drop what is under way and end the processes: they are asked first, and killed when they do not answer."""
        self._loaded = None
        atexit.unregister(self.close)
        for process in self._processes:
            process.join(timeout=1)
            if process.is_alive():  # it ignores SIGTERM, and the interpreter would wait for it for ever
                process.kill()


class _Loads(Dataset[Any]):
    """`load` as a dataset. A user's mistake is a value here: as an exception it would lose its type on the way."""

    def __init__(self, load: Callable[[int], Any]) -> None:
        self.load = load

    def __getitem__(self, index: int) -> Any:
        try:
            return self.load(index)
        except UserError as mistake:
            return mistake


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _begin_worker(number: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM go to every process; the one that trains decides when the others end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have malloc keep what a batch frees for the next one: fresh pages cost more time than filling them.

    Where the C library is not glibc, nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)


def _context() -> Any:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(PRELOADED)
    return context


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """New processes must not run the user's script again, whose main part may have no guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
