"""What a user hands in as pictures: folders, files, a video, arrays, PIL images, and masks to go with them.

`pictures` lists them without reading; `read_ahead` reads them one after the other while the caller works.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyview.config import Positive
from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.maps import read_mask, read_opaque, upright_alpha
from manyview.images.reading import (
    ImageProblem,
    as_seen,
    folder_images,
    has_pages,
    list_images,
    read_fitted,
    resample_nearest,
    resize_image,
    states_panorama,
)
from manyview.images.video import is_video, iter_video, video_info
from manyview.progress import track

_SMALL = 32
MOST_VIEWS = 1000
"""Pictures of one scene."""

FitFor = Callable[[tuple[int, int]], Fit]
"""Upright (H, W) of a picture -> how it gets the network's size."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """Which frames of a video, or pictures of a list, are taken."""

    fps: Positive | None = None
    """Video: frames per second of the recording to keep; none keeps all."""
    stride: int = 1
    """Keep every stride-th of those."""
    max_frames: int | None = None
    """Stop after this many."""

    def of(self, items: Iterable[Any]) -> list[Any]:
        """The ones taken of a list of pictures. Raises UserError for settings that take none."""
        if self.fps is not None:
            raise UserError("--fps is for videos; pictures have no frame rate, use --stride")
        if self.stride < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise UserError(f"stride {self.stride}, max-frames {self.max_frames} take nothing; both must be > 0")
        return list(items)[:: self.stride][: self.max_frames]


@dataclass(frozen=True)
class Picture:
    """A picture that has not been brought to any size yet: a file, a frame of a video, or an array."""

    name: str
    """Unique in its set, the file's own name where there is one."""
    stamp: str
    """Changes when the picture does."""
    path: str | None = None
    """The image or video file; None for an array."""
    frame: int | None = None
    """The frame number when `path` is a video."""
    pixels: np.ndarray | None = None
    """(H, W, 3) uint8 of arrays and video frames; files are read when they are asked for."""
    opaque: np.ndarray | None = None
    """(H, W) of a PIL image with transparent pixels: where it has none."""

    def read(self, fit_for: FitFor) -> Photo:
        """The picture at the size that `fit_for` chooses. Raises UserError."""
        if self.pixels is None:
            image, fit = read_fitted(str(self.path), fit_for)
        else:
            fit = fit_for((self.pixels.shape[0], self.pixels.shape[1]))
            image = resize_image(self.pixels, fit)
        in_a_file = self.path is not None
        return Photo(replace(self, pixels=None) if in_a_file else self, image, fit)


@dataclass(frozen=True)
class Photo:
    """A picture at a network's resolution, and how it came to be."""

    picture: Picture  # without the pixels of a video's frame, which would fill the memory
    image: np.ndarray  # (h, w, 3) uint8
    fit: Fit

    @property
    def name(self) -> str:
        return self.picture.name


@dataclass(frozen=True)
class Pictures:
    """Pictures in order, unread. A video's can be gone through once."""

    items: Iterable[Picture]
    count: int | None
    """How many there are; of a video about how many, None when it does not say."""
    named: bool = True
    """Whether each was given by name, so that none may be left out in silence; False for a folder's."""
    notes: list[str] = field(default_factory=list)
    """What is to be said once they are all read."""


def pictures(images: Any, take: Take) -> Pictures:
    """What a user gives as images. Raises UserError when there is none, or for a wrong setting."""
    if isinstance(images, (str, Path)):
        path = Path(images)
        if is_video(path):
            notes: list[str] = []
            return Pictures(_frames(path, take, notes), _length(path, take), notes=notes)
        return _listed(take.of(list_images(path)), named=not path.is_dir())
    if isinstance(images, np.ndarray) and images.ndim not in (4, 5):
        raise UserError(f"one array of shape {images.shape}; give a list of pictures, or (V, H, W, 3)")
    try:
        given = list(images)
    except TypeError:
        raise UserError(f"images are a {type(images).__name__}; give a folder, a file, or a list") from None
    files_and_arrays: list[Any] = []
    for item in given:
        files_and_arrays += list_images(item) if isinstance(item, (str, Path)) else [item]
    # Arrays are checked now: a wrong one is a slip of the caller's, not a broken file among many.
    checked = [p if isinstance(p, Path) else as_picture(p, f"image {i}") for i, p in enumerate(files_and_arrays)]
    opaque = take.of([_opaque(item) for item in files_and_arrays])
    return _listed(take.of(checked), named=True, opaque=opaque)


def _opaque(item: Any) -> np.ndarray | None:
    """(H, W) where a PIL image with transparent pixels has none; None for all else."""
    if not isinstance(item, Image.Image) or not item.has_transparency_data:
        return None
    return np.asarray(upright_alpha(item)) > 127


def _listed(
    items: Sequence[Path | np.ndarray], *, named: bool, opaque: Sequence[np.ndarray | None] | None = None
) -> Pictures:
    if not items:
        raise UserError("no picture could be read from the list: it is empty; give a folder, files, a video, or arrays")
    names = [item.name if isinstance(item, Path) else f"view-{i:04d}.png" for i, item in enumerate(items)]
    uses = Counter(name.lower() for name in names)
    unique = [name if uses[name.lower()] == 1 else f"{i:04d}-{name}" for i, name in enumerate(names)]
    listed = [
        Picture(name, _stamp(item), path=str(item.resolve()))
        if isinstance(item, Path)
        else Picture(name, hashlib.sha256(item.data).hexdigest()[:32], pixels=item, opaque=clear)
        for item, name, clear in zip(items, unique, opaque or [None] * len(items), strict=True)
    ]
    return Pictures(listed, len(listed), named)


def _stamp(path: Path) -> str:
    about = path.stat()
    return f"{about.st_size}-{about.st_mtime_ns}"


def _frames(path: Path, take: Take, notes: list[str]) -> Iterator[Picture]:
    def cut(reason: str) -> None:
        notes.append(f"{path.name} {reason}")

    stamp = _stamp(path)
    for index, pixels in iter_video(path, fps=take.fps, stride=take.stride, max_frames=take.max_frames, cut=cut):
        name = f"{path.stem}-{index:06d}.jpg"
        yield Picture(name, f"{stamp}-{index}", path=str(path.resolve()), frame=index, pixels=pixels)


def _length(path: Path, take: Take) -> int | None:
    """About how many frames will come, for the time left; None when the video does not say."""
    about = video_info(path)
    if not about.frames or take.stride < 1 or (take.fps and not about.fps):
        return take.max_frames
    kept = about.frames * min(1.0, take.fps / about.fps if take.fps else 1.0) / take.stride
    return max(1, min(int(kept), take.max_frames or int(kept)))


def read_ahead(
    items: Iterable[Picture], fit_for: FitFor, *, ahead: int = 8, threads: int = 2
) -> Iterator[Photo | UserError]:
    """Every picture in order, read by other threads while the caller works; a bad one gives its UserError.

    A video that ends too early gives its UserError last; one that gives no frame at all raises it.
    """

    def read(item: Picture | UserError) -> Photo | UserError:
        if isinstance(item, UserError):
            return item
        try:
            return item.read(fit_for)
        except ImageProblem as problem:
            return problem
        except UserError as problem:
            return UserError(f"{item.name}: {problem}")

    waiting: deque[Future[Photo | UserError]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        try:
            for item in _with_the_end(items):
                waiting.append(pool.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _with_the_end(items: Iterable[Picture]) -> Iterator[Picture | UserError]:
    """The pictures, and last the UserError that ended them early."""
    begun = False
    try:
        for item in items:
            yield item
            begun = True
    except UserError as problem:
        if not begun:
            raise
        yield problem


def gather(images: Any, fit_for: FitFor, take: Take, *, strict: bool) -> tuple[list[Photo], list[str]]:
    """All pictures of a scene, and one line for each that had to be left out.

    A broken file in a folder is left out with a warning unless `strict` (cameras or masks are given per picture); a
    file that was named raises. Raises UserError when nothing is left or there are more than 1,000.
    """
    given = pictures(images, take)
    listed = isinstance(given.items, list)
    if listed and given.count is not None and given.count > MOST_VIEWS:
        raise UserError(f"{given.count} pictures, a scene takes {MOST_VIEWS}; take fewer (--stride, --max-frames)")
    photos: list[Photo] = []
    skipped: list[str] = []
    items = track(given.items, total=given.count, label="reading", unit="image" if listed else "frame")
    for photo in read_ahead(items, fit_for):
        if isinstance(photo, Photo):
            photos.append(photo)
        elif strict or given.named or not isinstance(photo, ImageProblem):
            raise photo
        else:
            skipped.append(str(photo))
            warnings.warn(f"left out {photo}", stacklevel=3)
        if len(photos) > MOST_VIEWS:
            raise UserError(
                f"{images} gives more than {MOST_VIEWS} frames; take fewer with --fps, --stride or --max-frames"
            )
    if not photos:
        raise UserError(f"no picture could be read from {images}: {skipped[0]}")
    return photos, skipped + given.notes


def oddities(photos: Sequence[Photo]) -> list[str]:
    """Lines about pictures that no pinhole camera took, or that show nothing: they are used all the same."""
    notes = []
    for what, odd in (
        ("say that they are panoramas (GPano): no pinhole camera sees that", _says_panorama),
        ("are twice as wide as high, as panoramas are: no pinhole camera sees that", _panorama),
        ("are animations or have several pages: the first one is taken", _paged),
        ("show one colour alone: nothing can be found in them", lambda photo: photo.image.std((0, 1)).max() < 1),
        (
            f"are smaller than {_SMALL} pixels: nearly nothing can be found in them",
            lambda p: min(p.fit.source) < _SMALL,
        ),
    ):
        if names := [photo.name for photo in photos if odd(photo)]:
            notes.append(f"{len(names)} of {len(photos)} pictures {what} ({_named(names)})")
    return notes


def _says_panorama(photo: Photo) -> bool:
    picture = photo.picture
    return picture.path is not None and picture.frame is None and states_panorama(picture.path)


def _paged(photo: Photo) -> bool:
    picture = photo.picture
    return picture.path is not None and picture.frame is None and has_pages(picture.path)


def _panorama(photo: Photo) -> bool:
    height, width = photo.fit.source
    return abs(width - 2 * height) <= 2 and width >= 512 and not _says_panorama(photo)


def as_array(values: Any) -> np.ndarray:
    """An array of what NumPy reads, and of a tensor wherever it lies."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def as_picture(item: Any, what: str) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image, an array or a tensor; of one that is no picture a UserError calling it `what`.

    Arrays are uint8 or float in [0, 1]; (H, W), (H, W, 3) or (3, H, W).
    """
    try:
        array = np.array(as_seen(item, what)) if isinstance(item, Image.Image) else as_array(item)
    except ImageProblem:
        raise
    except Exception as error:
        raise UserError(f"{what} is a {type(item).__name__}; give paths or arrays") from error
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, -1)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or array.size == 0:
        raise UserError(f"{what} has shape {array.shape}; RGB images are (H, W, 3) or (3, H, W)")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise UserError(f"{what} has float values outside [0, 1]; divide by 255, or give uint8")
        array = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{what} has type {array.dtype}; give uint8, or float in [0, 1]")
    return np.ascontiguousarray(array)


def read_masks(masks: Any, photos: Sequence[Photo]) -> tuple[list[np.ndarray | None], list[str]]:
    """Masks at the network's resolution, True = use the pixel, None where all of a view counts; and what to say.

    `masks` is None, a folder of images named like the photos (IMG_1.png or IMG_1.jpg.png for IMG_1.jpg, also in
    folders named like the photos'), or one array, path or None per view, at the photos' own size. Of arrays anything
    above zero means use, of files what `read_mask` takes. Transparent pixels of the photos themselves never count.
    """
    notes: list[str] = []
    if isinstance(masks, (str, Path)):
        masks, notes = _masks_of_folder(Path(masks), photos)
    masks = [None] * len(photos) if masks is None else list(masks)
    if len(masks) != len(photos):
        raise UserError(f"{len(masks)} masks for {len(photos)} pictures; give one per picture, None for none")
    fitted = [_fit_mask(mask, photo) for mask, photo in zip(masks, photos, strict=True)]
    empty = [photo.name for mask, photo in zip(fitted, photos, strict=True) if mask is not None and not mask.any()]
    return fitted, notes + ([f"nothing is left of {_named(empty)} under the mask"] if empty else [])


def _masks_of_folder(folder: Path, photos: Sequence[Photo]) -> tuple[list[Path | None], list[str]]:
    """The mask of every photo, by the photo's own file, and lines about photos without one and masks of several."""
    inner = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    by_name = {f"{place.name}/{path.stem}": path for place in inner for path in folder_images(place)}
    if not by_name or folder_images(folder):
        by_name |= {path.stem: path for path in list_images(folder)}
    found: list[Path | None] = []
    for photo in photos:
        in_file = photo.picture.path is not None and photo.picture.frame is None
        own = Path(str(photo.picture.path)) if in_file else Path(photo.name)
        names = (f"{own.parent.name}/{own.stem}", f"{own.parent.name}/{own.name}", own.stem, own.name)
        found.append(next((by_name[name] for name in names if name in by_name), None))
    if all(mask is None for mask in found):
        raise UserError(f"no mask in {folder} is named like a photo; IMG_1.jpg wants IMG_1.png there")
    without = [photo.name for mask, photo in zip(found, photos, strict=True) if mask is None]
    notes = [f"no mask for {_named(without)}: all of it is used"] if without else []
    uses = Counter(mask for mask in found if mask is not None)
    for mask in [mask for mask, count in uses.items() if count > 1]:
        notes.append(
            f"{mask.name} is the mask of {uses[mask]} photos of that name; put masks into folders named like theirs"
        )
    return found, notes


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _fit_mask(mask: Any, photo: Photo) -> np.ndarray | None:
    """The mask at the network's size, without the photo's transparent pixels."""
    picture = photo.picture
    opaque = picture.opaque
    if picture.path is not None and picture.frame is None:
        opaque = read_opaque(picture.path)
    if mask is None:
        return None if opaque is None else resample_nearest(opaque, photo.fit)
    use = read_mask(mask) if isinstance(mask, (str, Path)) else as_array(mask) > 0
    if opaque is not None and opaque.shape == use.shape:
        use = use & opaque
    if use.shape != photo.fit.source:
        raise UserError(f"the mask of {photo.name} is {use.shape}, the picture {photo.fit.source} (rows, columns)")
    return resample_nearest(use, photo.fit)
