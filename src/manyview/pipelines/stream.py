"""Pictures one after the other, for work that needs no two at once: folders, files, videos, arrays of any number."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.reading import ImageProblem, list_images, read_fitted, resize_image
from manyview.images.video import is_video, iter_video, video_info
from manyview.pipelines.photos import FitFor, Take, as_picture

Fitted = tuple[np.ndarray, Fit]


@dataclass(frozen=True)
class Listed:
    """A picture that has not been read yet."""

    name: str
    """Unique in its set, the file's own name where there is one."""
    stamp: str
    """Changes when the picture does."""
    read: Callable[[FitFor], Fitted]
    """Gives uint8 (h, w, 3) at the size asked for, and how it came to be. Raises UserError."""
    path: str | None = None
    frame: int | None = None


@dataclass
class Stream:
    """Pictures in order. A video may end before it should: then `skipped` says so in the end."""

    items: Iterable[Listed]
    count: int | None
    skipped: list[str]


def stream(images: Any, take: Take) -> Stream:
    """What a user gives as images, unread. Raises UserError when there is nothing, or for a wrong setting."""
    if isinstance(images, (str, Path)):
        path = Path(images)
        if is_video(path):
            return _video(path, take)
        return _listed(take.of(list_images(path)))
    if isinstance(images, np.ndarray) and images.ndim not in (4, 5):
        raise UserError(f"one array of shape {images.shape}; give a list of pictures, or (N, H, W, 3)")
    try:
        given = list(images)
    except TypeError:
        raise UserError(f"images are a {type(images).__name__}; give a folder, a file, or a list") from None
    opened: list[Any] = []
    for item in given:
        opened += list_images(item) if isinstance(item, (str, Path)) else [item]
    # Arrays are checked now: a wrong one is a slip of the caller's, not a broken file among many.
    opened = [p if isinstance(p, Path) else as_picture(p, f"image {i}") for i, p in enumerate(opened)]
    return _listed(take.of(opened))


def _listed(items: list[Any]) -> Stream:
    if not items:
        raise UserError("no pictures were given; give a folder, files, a video, or arrays")
    names = [p.name if isinstance(p, Path) else f"view-{i:04d}.png" for i, p in enumerate(items)]
    seen: dict[str, int] = {}
    for name in names:
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
    listed = [
        _file(item, unique) if isinstance(item, Path) else _array(item, unique, _digest(item))
        for index, (item, name) in enumerate(zip(items, names, strict=True))
        for unique in [name if seen[name.lower()] == 1 else f"{index:04d}-{name}"]
    ]
    return Stream(listed, len(listed), [])


def _file(path: Path, name: str) -> Listed:
    about = path.stat()
    stamp = f"{about.st_size}-{about.st_mtime_ns}"
    return Listed(name, stamp, lambda fit_for: read_fitted(path, fit_for), path=str(path.resolve()))


def _array(
    pixels: np.ndarray, name: str, stamp: str, path: str | None = None, frame: int | None = None
) -> Listed:
    def read(fit_for: FitFor) -> Fitted:
        fit = fit_for((pixels.shape[0], pixels.shape[1]))
        return resize_image(pixels, fit), fit

    return Listed(name, stamp, read, path=path, frame=frame)


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.data).hexdigest()[:32]


def _video(path: Path, take: Take) -> Stream:
    found = Stream([], _length(path, take), [])
    found.items = _frames(path, take, found.skipped)
    return found


def _frames(path: Path, take: Take, skipped: list[str]) -> Iterator[Listed]:
    about = path.stat()
    taken = 0
    try:
        for index, pixels in iter_video(path, fps=take.fps, stride=take.stride, max_frames=take.max_frames):
            stamp = f"{about.st_size}-{about.st_mtime_ns}-{index}"
            yield _array(pixels, f"{path.stem}-{index:06d}.jpg", stamp, str(path.resolve()), index)
            taken += 1
    except UserError as problem:
        if not taken:
            raise
        skipped.append(str(problem))


def _length(path: Path, take: Take) -> int | None:
    """About how many frames will come, for the time left; None when the video does not say."""
    about = video_info(path)
    if not about.frames or take.stride < 1 or (take.fps and not about.fps):
        return take.max_frames
    kept = about.frames * min(1.0, take.fps / about.fps if take.fps else 1.0) / take.stride
    return max(1, min(int(kept), take.max_frames or int(kept)))


def read_ahead(
    items: Iterable[Listed], fit_for: FitFor, *, ahead: int = 8, threads: int = 2
) -> Iterator[tuple[Listed, Fitted | UserError]]:
    """Every picture in order, read by other threads while the caller works; a bad one gives its UserError."""

    def read(item: Listed) -> Fitted | UserError:
        try:
            return item.read(fit_for)
        except ImageProblem as problem:
            return problem
        except UserError as problem:
            return UserError(f"{item.name}: {problem}")

    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(read, item)))
                if len(waiting) > ahead:
                    first, result = waiting.popleft()
                    yield first, result.result()
            for first, result in waiting:
                yield first, result.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
