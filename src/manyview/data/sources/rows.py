"""From what an official layout says of an image to a row of the manifest: one place for all the checking.

The image decides whether a frame is in. Whatever else is broken (a pose that is no rotation, a depth map that
is missing in a folder of depth maps or damaged) is left out of the row and listed; `--skip-bad` leaves the
whole frame out instead. A pose with NaN or infinity, and maps whose folder is not there, are just unknown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from manyview.data.manifest import Frame, inside, intrinsics_problem, pose_problem
from manyview.data.overlap import GROUPS, MADE_FOR
from manyview.data.sources.base import Problem, Scanned, ScanOptions, frame_names, probe
from manyview.errors import UserError
from manyview.files import natural_key
from manyview.images.fit import same_picture
from manyview.images.reading import folder_images

T = TypeVar("T")
_SQUASH = 0.02  # a resized copy may differ in aspect by rounding, never by a crop


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image and what the layout says of it. Paths are relative to the root, with forward slashes."""

    image: str
    name: str | None = None
    """The frame's name; default: the image's stem."""
    camera: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy with pixel centres at +0.5 ..."""
    camera_size: tuple[float, float] | None = None
    """... of an image of this (width, height), (1, 1) for fractions of the image; None: of the stored one."""
    cam2world: np.ndarray | None = None
    """(4, 4), OpenCV axes."""
    depth: str | None = None
    depth_scale: float = 1.0
    labels: str | None = None
    instances: str | None = None
    split: str = ""


@dataclass
class Collector:
    """Gathers scenes of one data set into a Scanned."""

    src: Path
    options: ScanOptions
    dataset: str
    found: Scanned = field(init=False)
    _groups: dict[str, list[list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.src.resolve()
        self.found = Scanned(self.root)

    def below(self, path: Path) -> str:
        """`path` relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def problem(self, path: Path | str, reason: str) -> None:
        relative = path if isinstance(path, str) else self.below(path)
        self.found.problems.append(Problem(relative, " ".join(reason.split())))

    def read(self, path: Path, reader: Callable[[Path], T]) -> T | None:
        """What `reader` makes of a camera or list file; None, and a problem, when it is missing or damaged."""
        try:
            return reader(path)
        except FileNotFoundError:
            self.problem(path, "no such file; its frames are kept without what it says")
        except UserError as error:
            self.problem(path, str(error))
        except Exception as error:  # anything can be wrong inside a foreign file
            said = str(error) or type(error).__name__
            self.problem(path, f"damaged, its frames are kept without what it says: {said}"[:300])
        return None

    def add(self, scene: str, rows: Iterable[Row]) -> None:
        """One scene: picked by the options, every image decoded, everything known checked."""
        wanted = self.options.pick(sorted(rows, key=_order))
        names = frame_names([row.image for row in wanted])
        self._probe(wanted, lambda row: (scene, row.name or names[row.image]), label=scene)

    def add_singles(self, rows: Iterable[Row]) -> None:
        """Images that are scenes of their own, named by their paths; the options count over all of them."""
        wanted = self.options.pick(sorted(rows, key=_order))
        self._probe(wanted, lambda row: (row.image.rsplit(".", 1)[0], Path(row.image).stem), self.dataset)

    def group(self, scene: str, groups: Iterable[Sequence[str]]) -> None:
        """Images of a scene that are looked at together; a scene without groups is one group of all it has."""
        self._groups[scene] = [list(group) for group in groups]

    def finish(self) -> Scanned:
        """The scan with its groups as row numbers of the manifest, in `info`."""
        rows: dict[str, dict[str, int]] = {}
        for index, frame in enumerate(self.found.frames):
            rows.setdefault(frame.scene, {})[frame.image] = index
        groups: list[list[int]] = []
        for scene, known in rows.items():
            kept = [
                [known[image] for image in group if image in known] for group in self._groups.get(scene, ())
            ]
            groups += [group for group in kept if len(group) > 1] or [list(known.values())]
        self.found.info |= {GROUPS: groups, MADE_FOR: len(self.found.frames)}
        return self.found

    def _probe(self, rows: list[Row], named: Callable[[Row], tuple[str, str]], label: str) -> None:
        found = probe(self.root, [row.image for row in rows], label)
        for row, (_, size) in zip(rows, found, strict=True):
            if isinstance(size, Problem):
                self.found.problems.append(size)
                continue
            known, problems = self._known(row, size)
            self.found.problems += problems
            if problems and self.options.skip_bad:
                continue
            scene, name = named(row)
            dataset, split = self.options.dataset or self.dataset, self.options.split or row.split
            self.found.frames.append(Frame(dataset, scene, name, split, row.image, *size, **known))

    def _known(self, row: Row, size: tuple[int, int]) -> tuple[dict[str, Any], list[Problem]]:
        known: dict[str, Any] = {}
        problems = []

        def judge(path: str, reason: str | None) -> bool:
            if reason:
                problems.append(Problem(path, reason))
            return reason is None

        if row.camera is not None:
            camera, reason = _fitted(row.camera, row.camera_size, size)
            if judge(row.image, reason):
                known.update(zip(("fx", "fy", "cx", "cy"), camera, strict=True))
        if row.cam2world is not None and np.isfinite(row.cam2world).all():
            reason = pose_problem(row.cam2world)
            if judge(row.image, reason and f"its pose {reason}; the frame has none now"):
                known["cam2world"] = tuple(float(number) for number in row.cam2world.ravel())
        for kind in ("depth", "labels", "instances"):
            path = getattr(row, kind)
            there = path is not None and (self.root / path).parent.is_dir()
            if there and judge(path, self._map_problem(path, size)):
                known[kind] = path
        if "depth" in known:
            known["depth_scale"] = row.depth_scale
        return known, problems

    def _map_problem(self, relative: str, size: tuple[int, int]) -> str | None:
        """A look at the header, where it is a picture's; other formats must be there and hold something."""
        try:
            path = inside(self.root, relative)
        except UserError as error:
            return str(error)
        if not path.is_file() or not path.stat().st_size:
            return "no such file" if not path.is_file() else "empty file (0 bytes)"
        if path.suffix.lower() not in (".png", ".tif", ".tiff"):
            return None
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception:  # decoders raise anything on damaged data
            return "damaged, or no image of a known format"
        if not same_picture((height, width), (size[1], size[0])):
            return f"is {width}x{height}, its image {size[0]}x{size[1]}: another aspect"
        return None


def _fitted(
    camera: Sequence[float], of: tuple[float, float] | None, size: tuple[int, int]
) -> tuple[tuple[float, ...], str | None]:
    """Intrinsics moved to the stored image's size, and what is wrong with them or None."""
    x, y = 1.0, 1.0
    if of is not None:
        x, y = size[0] / of[0], size[1] / of[1]
        if of != (1, 1) and abs(x / y - 1) > _SQUASH:
            return (), f"is {size[0]}x{size[1]}, its intrinsics are for {of[0]:g}x{of[1]:g}: another aspect"
    fx, fy, cx, cy = camera
    fitted = (float(fx * x), float(fy * y), float(cx * x), float(cy * y))
    reason = intrinsics_problem(fitted)
    return fitted, reason and f"its camera {reason}; the frame has no intrinsics now"


def _order(row: Row) -> tuple:
    return natural_key(row.name or row.image), natural_key(row.image)


def camera_from_matrix(matrix: np.ndarray, *, centre: float) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) of a (3, 3) matrix whose first pixel's centre lies at `centre` (0 or 0.5)."""
    shift = 0.5 - centre
    return (
        float(matrix[0, 0]),
        float(matrix[1, 1]),
        float(matrix[0, 2] + shift),
        float(matrix[1, 2] + shift),
    )


def images_of(folder: Path) -> list[Path]:
    """Images directly in a folder, in natural order; none when the folder is not there."""
    return folder_images(folder) if folder.is_dir() else []


def folders_of(folder: Path, pattern: str = "*") -> list[Path]:
    """Folders that match, hidden ones left out, in natural order."""
    found = (path for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith("."))
    return sorted(found, key=natural_key)


def find_folders(root: Path, accept: Callable[[str], bool]) -> list[Path]:
    """Folders under `root` with an accepted name, in natural order; what lies inside them is not looked at."""
    found = []
    for folder, below, _ in os.walk(root):
        wanted = [name for name in below if accept(name)]
        found += [Path(folder, name) for name in wanted]
        below[:] = [name for name in below if name not in wanted and not name.startswith(".")]
    return sorted(found, key=natural_key)


def find_files(root: Path, accept: Callable[[str], bool]) -> list[Path]:
    """Files under `root` with an accepted name, in natural order, hidden files and folders left out."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".") and accept(name)]
    return sorted(found, key=natural_key)


def need_scenes(scenes: Sequence[T], src: Path, layout: str) -> Sequence[T]:
    """The scenes, or a UserError that says what the layout looks like."""
    if not scenes:
        raise UserError(f"{src} has no {layout}; check the folder, or use --format folder for plain images")
    return scenes
