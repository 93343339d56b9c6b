"""From what a layout says of an image to what the manifest keeps of it: one place for all the checking.

The image decides whether a frame is in. Whatever else is broken (a pose that is no rotation, a depth map that
is missing in a folder of depth maps or damaged) is left out of the row and listed; `--skip-bad` leaves the
whole frame out instead. A pose with NaN or infinity, and maps whose folder is not there, are just unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from manyview.data.manifest import inside, intrinsics_problem, pinhole_problem, pose_problem
from manyview.data.sources.poses import full, inverse
from manyview.errors import UserError
from manyview.images.fit import same_picture
from manyview.images.reading import open_picture

Lens = tuple[float, float, float, float]
"""fx, fy, cx, cy with pixel centres at +0.5."""
_SQUASH = 0.02  # a resized copy may differ in aspect by rounding, never by a crop


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Camera:
    """What a layout says of the camera of one image; None for what it does not say."""

    lens: Lens | None = None
    """In pixels ..."""
    cam2world: np.ndarray | None = None
    """(4, 4), OpenCV axes."""
    size: tuple[float, float] | None = None
    """... of an image of this (width, height), (1, 1) for fractions of the image; None: of the stored one."""

    @classmethod
    def of(
        cls,
        lens: ArrayLike | None,
        *,
        centre: float = 0.5,
        cam2world: ArrayLike | None = None,
        world2cam: ArrayLike | None = None,
        size: Sequence[float] | np.ndarray | None = None,
    ) -> Camera:
        """A camera from fx, fy, cx, cy or a (3, 3) matrix, whose first pixel's centre lies at `centre` (0 or 0.5).

        A pose has 12 or 16 numbers, one way or the other.
        """
        if lens is not None:
            values = np.asarray(lens, np.float64)
            fx, fy, cx, cy = (values[[0, 1, 0, 1], [0, 1, 2, 2]] if values.ndim == 2 else values).tolist()
            lens = fx, fy, cx + 0.5 - centre, cy + 0.5 - centre
        pose = None if cam2world is None else full(cam2world)
        pose = pose if world2cam is None else inverse(full(world2cam))
        return cls(lens, pose, None if size is None else (float(size[0]), float(size[1])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image and what the layout says of it."""

    image: Path
    name: str | None = None
    """The frame's name; default: the image's stem."""
    scene: str | None = None
    """For rows that are counted over all scenes: the one it belongs to; default: a scene of its own."""
    camera: Camera | None = None
    depth: Path | None = None
    depth_scale: float = 1.0
    labels: Path | None = None
    instances: Path | None = None
    split: str = ""
    write: Callable[[], None] | None = None
    """For frames that are no files yet: writes the image (and its maps) where they are missing.
    May raise ImageProblem."""

    def facts(self, root: Path, size: tuple[int, int]) -> tuple[dict[str, Any], list[Problem]]:
        """What the manifest keeps beside the image, whose upright (width, height) is `size`, and what is wrong.

        Raises UserError for what must stop the scan unless such frames are to be left out.
        """
        facts: dict[str, Any] = {}
        problems = []

        def good(path: Path, reason: str | None) -> bool:
            if reason:
                problems.append(Problem(below(root, path), reason))
            return reason is None

        camera = self.camera or Camera()
        if camera.lens is not None:
            lens, reason = _fitted(camera.lens, camera.size, size)
            if good(self.image, reason):
                facts.update(zip(("fx", "fy", "cx", "cy"), lens, strict=True))
        if camera.cam2world is not None and np.isfinite(camera.cam2world).all():
            reason = pose_problem(camera.cam2world)
            if good(self.image, reason and f"its pose {reason}; the frame has none now"):
                facts["cam2world"] = tuple(float(number) for number in camera.cam2world.ravel())
        for kind, path in (("depth", self.depth), ("labels", self.labels), ("instances", self.instances)):
            if path is not None and path.parent.is_dir() and good(path, _map_problem(root, path, size)):
                facts[kind] = below(root, path)
        if "depth" in facts:
            facts["depth_scale"] = self.depth_scale
        return facts, problems


def below(root: Path, path: Path) -> str:
    """`path` relative to the root, with forward slashes; as it is where it lies elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _map_problem(root: Path, path: Path, size: tuple[int, int]) -> str | None:
    """A look at the header, where it is a picture's; other formats must be there and hold something."""
    try:
        path = inside(root, below(root, path))
    except UserError as error:
        return str(error)
    if not path.is_file() or not path.stat().st_size:
        return "no such file" if not path.is_file() else "empty file (0 bytes)"
    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        return None
    shape = map_size(path)
    if shape is None:
        return "damaged, or no image of a known format"
    if not same_picture(shape[::-1], size[::-1]):
        return f"is {shape[0]}x{shape[1]}, its image {size[0]}x{size[1]}: another aspect"
    return None


def map_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in the header of a depth or label map, None for one that cannot be read."""
    try:
        with open_picture(path) as image:
            return image.size
    except Exception:  # decoders raise anything on damaged data
        return None


def _fitted(lens: Lens, of: tuple[float, float] | None, size: tuple[int, int]) -> tuple[tuple[float, ...], str | None]:
    """Intrinsics moved to the stored image's size, and what is wrong with them or None."""
    x, y = 1.0, 1.0
    if of is not None and not (0 < of[0] < np.inf and 0 < of[1] < np.inf):
        return (), f"its intrinsics are for {of[0]:g}x{of[1]:g} pixels; it has none now"
    if of is not None:
        x, y = size[0] / of[0], size[1] / of[1]
        if of != (1, 1) and abs(x / y - 1) > _SQUASH:
            return (), f"is {size[0]}x{size[1]}, its intrinsics are for {of[0]:g}x{of[1]:g}: another aspect"
    fitted = tuple(float(value * factor) for value, factor in zip(lens, (x, y, x, y), strict=True))
    if reason := intrinsics_problem(fitted):
        return fitted, f"its camera {reason}; the frame has no intrinsics now"
    reason = pinhole_problem(fitted, size)
    return fitted, reason and f"its intrinsics {reason}; the frame has none now"
