"""What every source shares: the registry, the options of a scan, problems, a look at many images at once.

A source is one small file with `@SOURCES.add("name") def scan(src, options) -> Scanned`; add its import in
`manyview.data.sources`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from manyview.data.manifest import Frame, every, inside, parse_span
from manyview.errors import UserError
from manyview.files import write_bytes
from manyview.images.reading import ImageProblem, probe_image
from manyview.progress import track
from manyview.registry import Registry

T = TypeVar("T")
_BATCH = 4096


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """What of a source is wanted. Positions count from 0 in natural order per scene, broken files too."""

    dataset: str | None = None
    """Name of the data set; default: the name of the folder or file."""
    split: str = ""
    """Written into every row, for example train or test."""
    frames: str | None = None
    """A:B, B excluded; default: all."""
    stride: int = 1
    """Of those, every stride-th."""
    max_frames: int | None = None
    """Of those, at most this many per scene."""
    fps: float | None = None
    """Videos only: frames per second to take, before the positions are counted."""
    skip_bad: bool = False
    """List and leave out frames with a bad pose or a missing depth or label file instead of stopping."""
    classes: int = 0
    """Which of a data set's lists of classes (scannet: 20 or 40; nyuv2: 40, 13 or 894); 0 for the first."""
    extract_to: Path | None = None
    """Formats whose frames are no files (videos, nyuv2): the folder that gets them."""

    def pick(self, items: Sequence[T]) -> list[T]:
        """The wanted items of one scene."""
        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(f"--max-frames {self.max_frames} leaves nothing; give at least 1")
        return every(list(items)[parse_span(self.frames)], self.stride)[: self.max_frames]


@dataclass
class Scanned:
    """What a source found; paths of the frames are relative to `root`."""

    root: Path
    frames: list[Frame] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


SOURCES: Registry[Callable[[Path, ScanOptions], Scanned]] = Registry(
    "source format", package="manyview.data.sources", group="manyview.readers"
)


def frame_names(images: Sequence[str]) -> dict[str, str]:
    """Image -> its frame's name in the scene: the stem, or the whole path where two images share a stem."""
    stems = {image: PurePosixPath(image).stem for image in images}
    counts = Counter(stems.values())
    return {image: stem if counts[stem] == 1 else image for image, stem in stems.items()}


def probe(root: Path, images: Sequence[str], label: str) -> Iterator[tuple[str, tuple[int, int] | Problem]]:
    """Decode every image (paths relative to `root`), several at once: upright (width, height) or problem."""

    def look(relative: str) -> tuple[int, int] | Problem:
        try:
            return probe_image(inside(root, relative))
        except ImageProblem as problem:
            return Problem(relative, problem.reason)
        except UserError as error:
            return Problem(relative, str(error))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
        sizes = (size for batch in batches for size in pool.map(look, batch))  # not millions of tasks at once
        yield from zip(images, track(sizes, total=len(images), label=label, unit="image"), strict=True)


def claim(folder: Path, source: Path, pattern: str) -> None:
    """Make a folder of extracted frames this file's own: frames (`pattern`) of another of that name are removed."""
    stamp = folder / "source.json"
    mine = {"source": source.name, "bytes": source.stat().st_size}
    try:
        theirs = json.loads(stamp.read_bytes())
    except (OSError, ValueError):
        theirs = None
    if theirs != mine:
        for old in folder.glob(pattern):
            old.unlink()
        write_bytes(stamp, json.dumps(mine).encode())
