"""What a user hands to `reconstruct`, at the model's resolution: folders, files, videos, arrays, masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.reading import (
    ImageProblem,
    list_images,
    read_fitted,
    read_image,
    resample_nearest,
    resize_image,
)
from manyview.images.video import is_video, iter_video
from manyview.progress import track

MOST_VIEWS = 1000

FitFor = Callable[[tuple[int, int]], Fit]


@dataclass(frozen=True, kw_only=True)
class Take:
    """Which frames of a video, or pictures of a list, are taken."""

    fps: float | None = None
    """Video: frames per second of the recording to keep; null keeps all."""
    stride: int = 1
    """Keep every stride-th of those."""
    max_frames: int | None = None
    """Stop after this many."""

    def of(self, items: Iterable[Any]) -> list[Any]:
        """The ones taken of a list of pictures. Raises UserError for settings that take none."""
        if self.fps is not None:
            raise UserError("--fps is for videos; pictures have no frame rate, use --stride")
        if self.stride < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise UserError(
                f"stride {self.stride}, max-frames {self.max_frames} take nothing; both must be > 0"
            )
        return list(items)[:: self.stride][: self.max_frames]


@dataclass
class Photo:
    """One picture at the model's resolution and how it came to be."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8
    fit: Fit
    path: str | None = None
    frame: int | None = None
    pixels: np.ndarray | None = None  # (H, W, 3) uint8 of pictures that are in no file


def gather(images: Any, fit_for: FitFor, take: Take, *, strict: bool) -> tuple[list[Photo], list[str]]:
    """All pictures and what had to be left out, one line each.

    A broken file in a folder is left out unless `strict` (cameras or masks are given per picture); a file
    that was named raises. Raises UserError when nothing is left or there are more than 1,000.
    """
    skipped: list[str] = []
    if isinstance(images, (str, Path)):
        path = Path(images)
        if is_video(path):
            photos = _from_video(path, fit_for, take)
        else:
            photos = _from_files(
                take.of(list_images(path)), fit_for, skipped, strict=strict or not path.is_dir()
            )
    else:
        photos = _from_sequence(_opened(images), fit_for, take)
    if not photos:
        raise UserError(f"no picture could be read from {images}: {skipped[0] if skipped else 'it is empty'}")
    _make_unique(photos)
    return photos, skipped


def _from_files(paths: Sequence[Path], fit_for: FitFor, skipped: list[str], *, strict: bool) -> list[Photo]:
    _refuse_too_many(len(paths))
    photos = []
    for path in track(paths, label="reading", unit="image"):
        try:
            image, fit = read_fitted(path, fit_for)
        except ImageProblem as problem:
            if strict:
                raise
            skipped.append(str(problem))
            warnings.warn(f"left out {problem}", stacklevel=4)
            continue
        photos.append(Photo(path.name, image, fit, path=str(path.resolve())))
    return photos


def _from_video(path: Path, fit_for: FitFor, take: Take) -> list[Photo]:
    photos: list[Photo] = []
    frames = iter_video(path, fps=take.fps, stride=take.stride, max_frames=take.max_frames)
    for index, pixels in track(frames, label="reading", unit="frame"):
        fit = fit_for(pixels.shape[:2])
        name = f"{path.stem}-{index:06d}.jpg"
        photos.append(Photo(name, resize_image(pixels, fit), fit, path=str(path.resolve()), frame=index))
        if len(photos) > MOST_VIEWS:
            raise UserError(
                f"{path} gives more than {MOST_VIEWS} frames; take fewer with --fps, --stride or --max-frames"
            )
    return photos


def _opened(images: Iterable[Any]) -> list[Any]:
    """Folders among the paths become their files, so that what follows counts pictures."""
    if isinstance(images, np.ndarray) and images.ndim not in (4, 5):
        raise UserError(f"one array of shape {images.shape}; give a list of pictures, or (V, H, W, 3)")
    try:
        items = list(images)
    except TypeError:
        raise UserError(f"images are a {type(images).__name__}; give a folder, a file, or a list") from None
    opened: list[Any] = []
    for item in items:
        opened += list_images(item) if isinstance(item, (str, Path)) else [item]
    return opened


def _from_sequence(items: Sequence[Any], fit_for: FitFor, take: Take) -> list[Photo]:
    items = take.of(items)
    _refuse_too_many(len(items))
    photos: list[Photo] = []
    for index, item in enumerate(items):
        if isinstance(item, Path):
            photos += _from_files([item], fit_for, [], strict=True)
            continue
        pixels = as_picture(item, f"image {index}")
        fit = fit_for((pixels.shape[0], pixels.shape[1]))
        photos.append(Photo(f"view-{index:04d}.png", resize_image(pixels, fit), fit, pixels=pixels))
    return photos


def _refuse_too_many(count: int) -> None:
    if count > MOST_VIEWS:
        raise UserError(f"{count} pictures, a scene takes {MOST_VIEWS}; take fewer (--stride, --max-frames)")


def as_picture(item: Any, what: str) -> np.ndarray:
    """(H, W, 3) uint8 of an array or tensor: uint8 or float in [0, 1]; (H, W), (H, W, 3) or (3, H, W)."""
    try:
        array = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
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


def _make_unique(photos: list[Photo]) -> None:
    names = [photo.name.lower() for photo in photos]
    for index, photo in enumerate(photos):
        if names.count(photo.name.lower()) > 1:
            photo.name = f"{index:04d}-{photo.name}"


def gather_masks(masks: Any, photos: Sequence[Photo]) -> list[np.ndarray | None]:
    """Masks at the model's resolution, True = use the pixel; None where a view has none.

    `masks` is None, a folder of images named like the photos (any suffix), or one array, path or None per
    view, at the photos' own size. Anything above zero (above half for files) means use.
    """
    if masks is None:
        return [None] * len(photos)
    if isinstance(masks, (str, Path)):
        by_stem = {path.stem: path for path in list_images(masks)}
        masks = [by_stem.get(Path(photo.name).stem) for photo in photos]
        if all(mask is None for mask in masks):
            raise UserError("no mask is named like a photo; IMG_1.jpg wants IMG_1.png in the folder of masks")
    masks = list(masks)
    if len(masks) != len(photos):
        raise UserError(f"{len(masks)} masks for {len(photos)} pictures; give one per picture, None for none")
    return [
        None if mask is None else _fit_mask(mask, photo) for mask, photo in zip(masks, photos, strict=True)
    ]


def _fit_mask(mask: Any, photo: Photo) -> np.ndarray:
    if isinstance(mask, (str, Path)):
        use = read_image(mask)[..., 0] > 127
    else:
        use = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask) > 0
    if use.shape != tuple(photo.fit.source):
        raise UserError(
            f"the mask of {photo.name} is {use.shape}, the picture {tuple(photo.fit.source)} (rows, columns)"
        )
    return resample_nearest(use, photo.fit)
