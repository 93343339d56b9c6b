"""What a reader of a format is given, and what it gives: a generator of (scene, rows).

    @SOURCES.add("mine")
    @reader("SCENE/images folder")
    def mine(src: Source) -> Scenes:
        for folder in src.folders("*/images"):
            yield src.name(folder.parent), [Row(image=image) for image in images_of(folder)]

Everything else is done here: natural order, which frames are wanted, names, decoding every image, checking what is
known of it, data set, split and depth scale, problems, progress. Readers of other packages leave `@SOURCES.add` away
and are named in the entry-point group `manyview.readers`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np

from manyview.config import Positive
from manyview.data.depths import FARTHEST as FARTHEST_METRES
from manyview.data.depths import nothing, read_stored
from manyview.data.manifest import FARTHEST, Frame, every, inside, parse_span
from manyview.data.overlap import CHUNK, GROUPS, MADE_FOR
from manyview.data.sources.rows import Problem, Row, below
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.reading import ImageProblem, folder_images, has_pages, probe_image, reason_of
from manyview.progress import track
from manyview.registry import Registry
from manyview.workfolder import WorkFolder

T = TypeVar("T")
_BATCH = 4096  # images that are looked at together: not millions of tasks at once
_LOOKED_AT = 8  # scenes
_PAGED = (".gif", ".webp", ".tif", ".tiff")  # data sets of PNGs are large, and none is known whose are animations
NOTES = "notes"  # in a manifest's `info`: what a scan has to say


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
    farthest: Positive | None = None
    """Depth from here on means none, in the data's own unit; default: 1000 in data in metres, else no depth is."""
    skip_bad: bool = False
    """List and leave out frames with a bad pose or a missing depth or label file instead of stopping."""
    extract_to: Path | None = None
    """Formats whose frames are no files (videos, nyuv2): the folder that gets them."""

    def pick(self, items: Sequence[T] | Iterator[T]) -> Iterator[T]:
        """The wanted items of one scene; of an iterator no more are read than that takes."""
        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(f"--max-frames {self.max_frames} leaves nothing; give at least 1")
        span = parse_span(self.frames)
        if isinstance(items, Sequence):
            return iter(every(list(items)[span], self.stride)[: self.max_frames])
        every([], self.stride)  # refuses a stride that selects nothing
        if min(span.start or 0, span.stop or 0) < 0:
            raise UserError(f"frames {self.frames!r}: a video is read from its start; give positions from 0 on")
        return islice(islice(items, span.start, span.stop, self.stride), self.max_frames)


OptionsT = TypeVar("OptionsT", bound=ScanOptions)
Scenes = Iterator[tuple[str | None, Iterable[Row]]]
"""A scene's name and its rows: put into natural order, an iterator taken as it comes. Without a name the images are
counted together, and each is a scene of its own (or belongs to `Row.scene`)."""


class Source(Generic[OptionsT]):
    """What a reader reads: a folder (or file) and the options. It may be asked about files, and told what is known."""

    def __init__(self, src: Path, options: OptionsT, dataset: str) -> None:
        self.path = src
        self.options = options
        self.dataset = dataset
        """Name of the data set, unless the options have one."""
        self.root = (src if src.is_dir() else src.parent).resolve()
        """What the paths in the manifest are relative to."""
        self.info: dict[str, Any] = {}
        """What the manifest says of the whole data set."""
        self.frames: list[Frame] = []
        self.problems: list[Problem] = []
        self._groups: dict[str, list[list[str]]] | None = None
        self._lost = 0
        self._paged = 0

    # ---- for readers ----

    def name(self, folder: Path) -> str:
        """A scene's name: its folder's path below the root, or the root's own name."""
        name = self.root.name if folder == self.root else below(self.root, folder)
        return name.encode(errors="backslashreplace").decode()  # a manifest holds text

    def folders(self, *patterns: str) -> list[Path]:
        """Folders below the root that match a pattern, pattern by pattern in natural order, hidden ones left out."""
        matches = (path for pattern in patterns for path in sorted(self.root.glob(pattern), key=natural_key))
        return [path for path in matches if path.is_dir() and not path.name.startswith(".")]

    def walk(self) -> Iterator[tuple[Path, list[str], list[str]]]:
        """As os.walk below the root, hidden folders and files left out, linked folders followed once."""
        seen: set[str] = set()
        for folder, inner, files in os.walk(self.root, followlinks=True):
            inner[:] = [name for name in inner if not name.startswith(".")]
            place = os.path.realpath(folder)
            if place in seen:
                inner.clear()
                continue
            seen.add(place)
            yield Path(folder), inner, [name for name in files if not name.startswith(".")]

    def folders_named(self, accept: Callable[[str], bool]) -> list[Path]:
        """Folders with an accepted name, at any depth, in natural order; what lies inside them is not looked at."""
        accepted = []
        for folder, inner, _ in self.walk():
            accepted += [folder / name for name in inner if accept(name)]
            inner[:] = [name for name in inner if not accept(name)]
        return sorted(accepted, key=natural_key)

    def files_named(self, accept: Callable[[str], bool]) -> list[Path]:
        """Files with an accepted name, at any depth, in natural order."""
        accepted = (folder / name for folder, _, files in self.walk() for name in files if accept(name))
        return sorted(accepted, key=natural_key)

    def split(self, path: Path, *names: str) -> str:
        """Which of these names a folder between the root and the path has; empty for none."""
        return next((part for part in path.relative_to(self.root).parts if part in names), "")

    def beside(self, name: str) -> Path | None:
        """A file of the data set in the folder that is scanned, or up to two folders above."""
        places = (self.root / name, self.root.parent / name, self.root.parent.parent / name)
        return next((path for path in places if path.is_file()), None)

    def problem(self, path: Path | str, reason: str) -> None:
        """List something that is left out."""
        relative = path if isinstance(path, str) else below(self.root, path)
        self.problems.append(Problem(relative, " ".join(reason.split())))

    def read(self, path: Path, reader: Callable[[Path], T]) -> T | None:
        """What `reader` makes of a camera or list file; None, and a problem, when it is missing or damaged."""
        try:
            return reader(path)
        except FileNotFoundError:
            self.problem(path, "no such file; its frames are kept without what it says")
        except UserError as error:
            self.problem(path, str(error))
        except Exception as error:  # anything can be wrong inside a foreign file
            reason = str(error) or type(error).__name__
            self.problem(path, f"damaged, its frames are kept without what it says: {reason}"[:300])
        return None

    def note(self, line: str) -> None:
        """Something the user should know of what was read: said when the scan ends, kept in the manifest, once."""
        notes = self.info.setdefault(NOTES, [])
        if line not in notes:
            notes.append(line)

    def distorted(self) -> None:
        """Images are not those of the pinhole that the intrinsics say."""
        self.info["distortion"] = "not corrected"
        self.note("distortion of the lenses is not corrected: intrinsics are those of the pinhole part")

    def group(self, scene: str, groups: Iterable[Sequence[Path]]) -> None:
        """Images of a scene that are looked at together; a scene without groups is one group of all it has."""
        self._groups = self._groups or {}
        self._groups[scene] = [[below(self.root, image) for image in group] for group in groups]

    def extract_to(self) -> Path:
        """The folder for frames that are no files, whose own folder becomes the root. Raises UserError without one."""
        folder = self.options.extract_to
        if folder is None:
            raise UserError(f"frames of {self.path} need a place; name the manifest with -o, they go beside it")
        self.root = folder.resolve().parent
        return self.root / folder.name

    # ---- what is done with what they yield ----

    def add(self, scene: str | None, rows: Iterable[Row]) -> None:
        """One scene's rows: picked by the options, every image decoded, everything known checked."""
        label = scene or self.dataset
        if not isinstance(rows, Iterator):
            rows = sorted(rows, key=lambda row: (natural_key(row.name or row.image), natural_key(row.image)))
        try:
            picked = track(self.options.pick(rows), label=label, unit="frame")
            wanted = [row for row in map(self._written, picked) if row is not None]
        except ImageProblem as problem:  # of an iterator: the whole scene is unreadable
            self.problem(problem.path.as_posix(), problem.reason)
            return
        images = [below(self.root, row.image) for row in wanted]
        names = frame_names(images)
        for row, (image, size) in zip(wanted, self._probe(images, label), strict=True):
            if isinstance(size, Problem):
                self.problems.append(size)
                continue
            self._paged += row.image.suffix.lower() in _PAGED and has_pages(row.image)
            name = row.name or (names[image] if scene else row.image.stem)
            self._keep(row, scene or row.scene or image.rsplit(".", 1)[0], name, image, size)

    def _written(self, row: Row) -> Row | None:
        """The row once its image is a file."""
        if row.write is None:
            return row
        try:
            row.write()
        except ImageProblem as problem:
            self.problem(row.image, problem.reason)
            return None
        return replace(row, write=None)  # which may hold the pixels

    def _probe(self, images: Sequence[str], label: str) -> Iterator[tuple[str, tuple[int, int] | Problem]]:
        """Decode every image, several at once: upright (width, height) or problem."""

        def look(relative: str) -> tuple[int, int] | Problem:
            try:
                relative.encode()
                return probe_image(inside(self.root, relative))
            except UnicodeEncodeError:  # a manifest holds text
                shown = relative.encode("utf-8", "backslashreplace").decode()
                return Problem(shown, "its name is not text in UTF-8; rename it")
            except UserError as error:
                return Problem(relative, reason_of(error))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
            sizes = (size for batch in batches for size in pool.map(look, batch))
            yield from zip(images, track(sizes, total=len(images), label=label, unit="image"), strict=True)

    def _keep(self, row: Row, scene: str, name: str, image: str, size: tuple[int, int]) -> None:
        try:
            facts, problems = row.facts(self.root, size)
        except UserError as error:
            if not self.options.skip_bad:
                raise
            facts, problems = {}, [Problem(image, str(error))]
        self.problems += problems
        pose = row.camera.cam2world if row.camera else None
        self._lost += pose is not None and not np.isfinite(pose).all()
        if problems and self.options.skip_bad:
            return
        dataset, split = self.options.dataset or self.dataset, self.options.split or row.split
        self.frames.append(Frame(dataset, scene, name, split, image, *size, **facts))

    def finish(self) -> None:
        """A look at the depth of some scenes, and the groups as row numbers of the manifest, in `info`."""
        self._look_at_depth()
        if self._paged:
            self.note(f"{self._paged} images are animations or have several pages: the first one of each is taken")
        if self._lost:
            self.note(f"{self._lost} frames have no pose: what is written for it is not finite, or no rotation at all")
        if self._groups is None:
            return
        numbers: dict[str, dict[str, int]] = {}
        for index, frame in enumerate(self.frames):
            numbers.setdefault(frame.scene, {})[frame.image] = index
        kept: list[list[int]] = []
        for scene, number in numbers.items():
            named = self._groups.get(scene, ())
            groups = [[number[image] for image in group if image in number] for group in named]
            kept += [group for group in groups if len(group) > 1] or [list(number.values())]
        self.info |= {GROUPS: kept, MADE_FOR: len(self.frames)}

    def _look_at_depth(self) -> None:
        """Say how much of the first depth map of the first scenes is stored as a number that means none."""
        first = {frame.scene: frame for frame in reversed(self.frames) if frame.depth}
        for scene in sorted(first, key=natural_key)[:_LOOKED_AT]:
            frame = first[scene]
            try:
                stored = read_stored(inside(self.root, str(frame.depth)))
            except UserError:
                continue  # who needs it says so
            scale, farthest = frame.depth_scale or 1.0, float(self.info.get(FARTHEST, "inf"))
            share = float((nothing(stored, scale, farthest) & (stored > 0)).mean())
            top = f"{float(np.nanmax(stored)):g}"
            if share:
                self.note(f"{frame.depth}: {share:.0%} is stored as a number that means none (the largest is {top})")
            values = stored[~nothing(stored, scale, farthest)]
            if alone := _far_from_all(values):
                self.note(
                    f"{frame.depth}: {alone:.0%} of what it measures is {values.max():g}, far beyond all else; if that "
                    f"means none (sky, no return), scan again with --farthest {0.99 * float(values.max()) * scale:g}"
                )


def _far_from_all(values: np.ndarray) -> float:
    """The share of the largest number where it stands for many pixels and twice as high as any other; else 0."""
    largest = float(values.max(initial=0))
    most = values == largest
    below = float(values[~most].max(initial=0))
    return float(most.mean()) if below and largest > 2 * below and most.mean() > 0.01 else 0.0


@dataclass(frozen=True)
class Reader(Generic[OptionsT]):
    """A format that can be scanned."""

    scenes: Callable[[Source[OptionsT]], Scenes]
    layout: str
    """What a folder of this format holds, for the line that says it is not there."""
    options: type[OptionsT]
    """Which options it has."""
    info: dict[str, Any] = field(default_factory=dict)
    """What every manifest of it says."""
    metric: bool = False
    """Whether its depth and poses are in metres."""
    about: str = ""
    """What it reads, for people; else the docstring of `scenes` says it."""

    def scan(self, src: Path, options: OptionsT, dataset: str) -> Source[OptionsT]:
        """Everything the source holds. Raises UserError when it is not of this format."""
        source = Source(src, options, dataset)
        if options.farthest is not None and not 0 < options.farthest < np.inf:
            raise UserError(f"--farthest {options.farthest:g} is out of range: give a finite number above 0")
        farthest = options.farthest or (FARTHEST_METRES if self.metric else None)
        source.info |= self.info | ({FARTHEST: farthest} if farthest else {})
        empty = True
        for scene, rows in self._read(source):
            empty = False
            source.add(scene, rows)
        if empty and not source.problems:
            raise UserError(f"{src} has no {self.layout}; check the folder, or use --format folder for plain images")
        source.finish()
        return source

    def _read(self, source: Source[OptionsT]) -> Scenes:
        """The scenes, and one line for what a reader did not expect: anything can be wrong inside foreign files."""
        try:
            yield from self.scenes(source)
        except (UserError, GeneratorExit, MemoryError, OSError):
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"{source.path} is not as this format has it ({reason}); check --format, or mend what is damaged"
            ) from error


def reader(
    layout: str,
    *,
    options: type[OptionsT] = ScanOptions,  # type: ignore[assignment]
    chunk: int | None = None,
    metric: bool = False,
) -> Callable[[Callable[[Source[OptionsT]], Scenes]], Reader[OptionsT]]:
    """Decorator: a generator of scenes as a Reader.

    chunk: frames of a sequence, where the data set is cut so. metric: its depth and poses are in metres.
    """
    return lambda scenes: Reader(scenes, layout, options, {} if chunk is None else {CHUNK: chunk}, metric)


SOURCES: Registry[Reader[Any]] = Registry(
    "source format", package="manyview.data.sources", group="manyview.readers", instance_of=Reader
)


def images_of(folder: Path) -> list[Path]:
    """Images directly in a folder, in natural order; none when the folder is not there."""
    return folder_images(folder) if folder.is_dir() else []


def frame_names(images: Sequence[str]) -> dict[str, str]:
    """Image -> its frame's name in the scene: the stem, or the whole path where two images share a stem."""
    stems = {image: PurePosixPath(image).stem for image in images}
    counts = Counter(stems.values())
    return {image: stem if counts[stem] == 1 else image for image, stem in stems.items()}


def first_file(paths: Iterable[Path]) -> Path:
    """The first path that is a file, else the first."""
    places = list(paths)
    return next((path for path in places if path.is_file()), places[0])


def claim(folder: Path, source: Path, pattern: str) -> None:
    """Make a folder of extracted frames this file's own: frames (`pattern`) of another file are removed.

    Raises UserError for a folder with content that no scan has written.
    """
    work = WorkFolder(folder, "set of extracted frames", "source.json", (pattern,), needs=("source", "bytes"))
    work.take({"source": source.name, "bytes": source.stat().st_size})
