"""Cameras a user already knows, as arrays or in a file, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.manifest import pinhole_problem, pose_problem
from manyview.errors import UserError
from manyview.images.inputs import Photo, as_array
from manyview.pipelines.camera_files import Known, matrix_of, read_known

_UNEQUAL = 0.15  # of logarithms: pixels that are no squares, as of old cameras and video, differ by less


@dataclass(frozen=True)
class Given:
    """What is known of the cameras, photo by photo."""

    intrinsics: list[np.ndarray | None]
    """(3, 3) in pixels of the original pictures."""
    cam2world: list[np.ndarray | None]
    """(4, 4), OpenCV axes."""
    notes: list[str] = field(default_factory=list)
    """What a file of cameras does not say, in words."""

    @property
    def poses(self) -> np.ndarray | None:
        """(V, 4, 4), None unless every photo has one."""
        known = [pose for pose in self.cam2world if pose is not None]
        return np.stack(known) if known and len(known) == len(self.cam2world) else None

    @property
    def any_pose(self) -> bool:
        return any(pose is not None for pose in self.cam2world)


def nothing_given(photos: Sequence[Photo]) -> Given:
    return Given([None] * len(photos), [None] * len(photos))


def given_cameras(photos: Sequence[Photo], intrinsics: Any, cam2world: Any, file: str | Path | None) -> Given:
    """What the arrays say, else the file. Raises UserError for what cannot be right."""
    from_file = nothing_given(photos) if file is None else _of_file(photos, Path(file))
    own_k, own_poses = given_intrinsics(intrinsics, photos), given_poses(cam2world, photos)
    given = Given(
        [one if one is not None else other for one, other in zip(own_k, from_file.intrinsics, strict=True)],
        [one if one is not None else other for one, other in zip(own_poses, from_file.cam2world, strict=True)],
        from_file.notes,
    )
    for photo, matrix, pose in zip(photos, given.intrinsics, given.cam2world, strict=True):
        problem = None if matrix is None else lens_problem(matrix, photo.fit.source)
        if problem:
            raise UserError(f"the intrinsics of {photo.name} {problem}")
        problem = None if pose is None else pose_problem(pose)
        if problem:
            raise UserError(f"the cam2world of {photo.name} {problem}; leave that pose out or mend it")
    unequal = [k for k in given.intrinsics if k is not None and abs(np.log(k[0, 0] / k[1, 1])) > _UNEQUAL]
    if unequal:
        fx, fy = np.diag(unequal[0])[:2]
        given.notes.append(
            f"{len(unequal)} given cameras have focal lengths as unequal as {fx:g} across and {fy:g} down; the order "
            "is FX, FY, CX, CY"
        )
    alike: dict[bytes, list[tuple[str, tuple[int, int]]]] = {}
    for photo, matrix in zip(photos, given.intrinsics, strict=True):
        if matrix is not None:
            alike.setdefault(matrix.tobytes(), []).append((photo.name, photo.fit.source))
    for same in alike.values():
        refuse_sizes(same, "give the camera of each photo in its own pixels")
    return given


def _array(values: Any, what: str) -> np.ndarray:
    try:
        if isinstance(values, (list, tuple)):
            values = [as_array(value) for value in values]
        array = np.asarray(as_array(values), np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} cannot be read as numbers: {error}") from None
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise UserError(f"{what} has a value that is not finite, first at index {bad}; leave that picture out")
    return array


def per_picture(intrinsics: Any) -> bool:
    """Whether there is one matrix per picture, so that no picture may be left out in silence."""
    return intrinsics is not None and (_has_gaps(intrinsics) or _array(intrinsics, "intrinsics").ndim == 3)


def _has_gaps(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and any(value is None for value in values)


def _each(values: Any, what: str, shape: tuple[int, int], count: int) -> list[np.ndarray | None]:
    """One matrix per picture, None where there is none."""
    if _has_gaps(values):
        matrices = [None if value is None else _array(value, what) for value in values]
        wrong = next((m.shape for m in matrices if m is not None and m.shape != shape), None)
    else:
        array = _array(values, what)
        wrong = array.shape if array.shape != (len(array), *shape) else None
        matrices = list(array)
    if wrong is not None or len(matrices) != count:
        found = wrong or (len(matrices), *shape)
        raise UserError(f"{what} has shape {found}; {count} pictures take ({count}, {shape[0]}, {shape[1]})")
    return matrices


def _whole(pose: Any) -> Any:
    """A (3, 4) pose with the row 0 0 0 1 that it leaves out; everything else as it is."""
    try:
        matrix = np.asarray(as_array(pose), np.float64)
    except (TypeError, ValueError):
        return pose
    return np.vstack([matrix, [0, 0, 0, 1]]) if matrix.shape == (3, 4) else pose


def given_intrinsics(values: Any, photos: Sequence[Photo]) -> list[np.ndarray | None]:
    """(3, 3) per photo in pixels of the original pictures, from one matrix for all or one per view."""
    if values is None:
        return [None] * len(photos)
    if not _has_gaps(values) and (matrix := _array(values, "intrinsics")).shape == (3, 3):
        mend = "give one per photo (--cameras-from FILE), or reconstruct with photos of one size"
        refuse_sizes([(photo.name, photo.fit.source) for photo in photos], mend)
        return [matrix.copy() for _ in photos]
    return _each(values, "intrinsics", (3, 3), len(photos))


def refuse_sizes(photos: Sequence[tuple[str, tuple[int, int]]], mend: str, where: str = "") -> None:
    """Raise UserError when photos, (name, (H, W)) each, that one lens is given for are not all of one size."""
    sizes = {size: name for name, size in reversed(photos)}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height} ({name})" for (height, width), name in list(sizes.items())[:3])
        raise UserError(f"{where}one camera is given for photos of {len(sizes)} sizes or orientations, {shown}: {mend}")


def given_poses(values: Any, photos: Sequence[Photo]) -> list[np.ndarray | None]:
    """(4, 4) cam2world per photo, None where there is none; (3, 4) ones get their last row."""
    if values is None:
        return [None] * len(photos)
    if isinstance(values, (list, tuple)) or getattr(values, "shape", ())[-2:] == (3, 4):
        values = [None if pose is None else _whole(pose) for pose in values]
    return _each(values, "cam2world", (4, 4), len(photos))


def lens_problem(matrix: np.ndarray, size: tuple[int, int]) -> str | None:
    """What is wrong with intrinsics (3, 3) of a picture of (H, W), or None."""
    height, width = size
    (fx, fy), (cx, cy) = np.diag(matrix)[:2], matrix[:2, 2]
    if not np.isfinite(matrix).all() or min(fx, fy) <= 0 or not np.allclose(matrix[2], [0, 0, 1]):
        return "are no camera matrix: focal lengths above 0, last row 0 0 1"
    if matrix[0, 1] or matrix[1, 0]:
        return f"have a skew of {matrix[0, 1] or matrix[1, 0]:g}, which no camera here has; write 0"
    return pinhole_problem((fx, fy, cx, cy), (width, height))


def _of_file(photos: Sequence[Photo], path: Path) -> Given:
    """The cameras of a file, matched to the photos by file name."""
    known = read_known(path)
    found = [_named_like(photo, known, path) for photo in photos]
    if not any(found):
        raise UserError(
            f"{path}: none of its {len(known)} cameras is of a photo here: it names {known[0].name}, the photos are "
            f"{photos[0].name}, …"
        )
    lacking = [photo.name for photo, one in zip(photos, found, strict=True) if one is None]
    notes = []
    if lacking:
        notes.append(f"{path} has no camera for {len(lacking)} of {len(photos)} photos: {', '.join(lacking[:5])}")
    pairs = zip(photos, found, strict=True)
    shared = [(photo.name, photo.fit.source) for photo, one in pairs if one is not None and one.shared]
    refuse_sizes(shared, "let the file say the size (w, h) or the camera of each", f"{path}: ")
    lenses = [None if one is None else _lens_for(one, photo, path) for photo, one in zip(photos, found, strict=True)]
    return Given(lenses, [None if one is None else one.cam2world for one in found], notes)


def _named_like(photo: Photo, known: Sequence[Known], path: Path) -> Known | None:
    """The camera with the photo's file name; of several the one whose folders agree furthest."""
    own = Path(photo.picture.path or photo.name)
    names = [own.name] if photo.picture.frame is None else [photo.name]
    alike = [one for one in known if Path(one.name).name in names]
    alike = alike or [one for one in known if Path(one.name).stem in [Path(name).stem for name in names]]
    agreeing = [_common_end(Path(one.name), own) for one in alike]
    best = [one for one, length in zip(alike, agreeing, strict=True) if length == max(agreeing)]
    if len(best) > 1:
        raise UserError(f"{path} has {len(best)} cameras for {own.name} ({best[0].name}, {best[1].name}); keep one")
    return best[0] if best else None


def _common_end(one: Path, other: Path) -> int:
    """How many folders above the files are the same."""
    pairs = zip(reversed(one.parts[:-1]), reversed(other.parts[:-1]), strict=False)
    same = [a == b for a, b in pairs]
    return same.index(False) if False in same else len(same)


def _lens_for(one: Known, photo: Photo, path: Path) -> np.ndarray | None:
    """The intrinsics at the photo's size."""
    height, width = photo.fit.source
    if one.lens_at is not None:
        try:
            lens = one.lens_at((width, height))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"{path}: the lens of {one.name} cannot be read ({error}); mend it") from error
        return None if lens is None else matrix_of(*lens)
    if one.intrinsics is None or one.size is None:
        return one.intrinsics
    across, down = width / one.size[0], height / one.size[1]
    if abs(across / down - 1) > 0.01:
        raise UserError(
            f"{path}: the camera of {photo.name} is for {one.size[0]:g}x{one.size[1]:g} pixels, the photo upright is "
            f"{width}x{height}, of another shape; give the camera of the upright photo"
        )
    return np.diag([across, down, 1.0]) @ one.intrinsics
