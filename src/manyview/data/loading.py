"""From rows of a manifest to Views: read, fit without squashing, move the cameras with the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manyview.data.depths import read_depth
from manyview.data.manifest import LABEL_MAP, NO_CLASS, Frame, Manifest
from manyview.errors import UserError
from manyview.geometry.cameras import apply_affine
from manyview.images.fit import cover, same_picture
from manyview.images.maps import read_labels
from manyview.images.reading import read_fitted, resample_nearest
from manyview.types import Views

_UNKNOWN = 255


@dataclass(frozen=True)
class FittedFrame:
    """A frame at a network's size, with the cameras that go with its pixels."""

    pixels: np.ndarray  # (H, W, 3) uint8
    intrinsics: Tensor | None  # (3, 3) float32
    cam2world: Tensor | None  # (4, 4) float32
    depth: Tensor | None  # (H, W) float32 metres, 0 = none; None when the frame has none, or it was not asked for
    labels: Tensor | None = None  # (H, W) int16 places in the names that were asked for, NO_CLASS elsewhere

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + sum(map_.nbytes for map_ in (self.depth, self.labels) if map_ is not None)


def read_frame(
    manifest: Manifest, row: int, size: tuple[int, int], *, depth: bool, names: Sequence[str] | None = None
) -> FittedFrame:
    """A frame scaled to cover `size` (H, W) and centre-cropped. Depth is decoded only where it is asked for, and so are
    labels: `names` are the classes that count, in the order of their numbers.

    Raises ImageProblem for a file without a picture, UserError for one that is not as the manifest says.
    """
    frame = manifest[row]
    path = manifest.path(frame.image)
    pixels, fit = read_fitted(path, lambda source: cover(source, size))
    if fit.source != (frame.height, frame.width):
        raise UserError(
            f"{path} is {fit.source[1]}x{fit.source[0]}, the manifest says {frame.width}x{frame.height}; scan it again"
        )
    known = frame.intrinsics
    return FittedFrame(
        pixels=pixels,
        intrinsics=None if known is None else apply_affine(fit.affine, torch.from_numpy(known)).float(),
        cam2world=None if frame.pose is None else torch.from_numpy(frame.pose).float(),
        depth=load_depth(manifest, frame, size) if depth else None,
        labels=None if names is None else load_labels(manifest, frame, size, names),
    )


def load_views(manifest: Manifest, indices: Sequence[int], size: tuple[int, int], *, depth: bool = True) -> Views:
    """Frames of one scene as Views with batch 1 at `size` (H, W): scaled to cover it, centre-cropped.

    Intrinsics and poses are there when every frame has them; depth, where it is asked for, when any has (0 = none
    elsewhere). `names` are the images' paths in the manifest.
    """
    if not len(indices):
        raise UserError("no frames to load; give at least one index")
    frames = [read_frame(manifest, row, size, depth=depth) for row in indices]
    pixels = torch.from_numpy(np.stack([frame.pixels for frame in frames]))
    depths = [frame.depth for frame in frames]
    if any(measured is not None for measured in depths):
        depths = [torch.zeros(size) if measured is None else measured for measured in depths]
    return Views(
        images=pixels.permute(0, 3, 1, 2).float().contiguous()[None] / 255,
        intrinsics=stack_known([frame.intrinsics for frame in frames]),
        cam2world=stack_known([frame.cam2world for frame in frames]),
        depth=stack_known(depths),
        names=[[manifest[row].image for row in indices]],
    )


def stack_known(values: Sequence[Tensor | None]) -> Tensor | None:
    """(1, V, ...), or None unless every value is known."""
    known = [value for value in values if value is not None]
    return torch.stack(known)[None] if len(known) == len(values) else None


def load_depth(manifest: Manifest, frame: Frame, size: tuple[int, int]) -> Tensor | None:
    """(H, W) metres at `size`, nearest neighbour, 0 = none; None when the frame has no depth."""
    if frame.depth is None:
        return None
    depth = read_depth(manifest.path(frame.depth), frame.depth_scale or 1.0, manifest.farthest)
    if not same_picture(depth.shape, (frame.height, frame.width)):
        raise UserError(
            f"{frame.depth} is {depth.shape[1]}x{depth.shape[0]} but its image {frame.image} "
            f"{frame.width}x{frame.height}: another aspect; make both show the same picture and scan again"
        )
    return torch.from_numpy(resample_nearest(depth, cover((frame.height, frame.width), size)))


def load_labels(manifest: Manifest, frame: Frame, size: tuple[int, int], names: Sequence[str]) -> Tensor:
    """(H, W) int16 at `size`, nearest neighbour: the place of a pixel's class in `names`, by its name, else NO_CLASS.

    Raises UserError for labels that are in no list, or of another aspect than the picture.
    """
    classes = manifest.info.get("classes", ())
    if frame.labels is None or not classes:
        return torch.full(size, NO_CLASS, dtype=torch.int16)
    found = listed_classes(manifest, frame.labels)
    if not same_picture(found.shape, (frame.height, frame.width)):
        raise UserError(
            f"{frame.labels} is {found.shape[1]}x{found.shape[0]} but its image {frame.image} "
            f"{frame.width}x{frame.height}: another aspect; make both show the same picture and scan again"
        )
    place = {name: number for number, name in enumerate(names)}
    table = np.array([*(place.get(name, NO_CLASS) for name in classes), NO_CLASS], np.int16)
    return torch.from_numpy(resample_nearest(table[found], cover((frame.height, frame.width), size)))


def listed_classes(manifest: Manifest, relative: str) -> np.ndarray:
    """As `read_classes`. Raises UserError for a class beyond those that the manifest names."""
    found, count = read_classes(manifest, relative), len(manifest.info.get("classes", ()))
    if found.max(initial=0) >= count:
        raise UserError(
            f"{relative} holds label {found.max()}, the manifest names {count} classes (0 to {count - 1}); scan with "
            "the right list of classes, or mend the file"
        )
    return found


def read_classes(manifest: Manifest, relative: str) -> np.ndarray:
    """(H, W) int32 classes of a label file, NO_CLASS where it has none.

    `info["label_map"]` of the manifest lists the class of every stored number from 0 on; numbers past its end have
    none. Without it the stored numbers are the classes, but for 255.
    """
    values = read_labels(manifest.path(relative))
    table = manifest.info.get(LABEL_MAP)
    if table is None:
        return np.where(values == _UNKNOWN, NO_CLASS, values)
    known = (values >= 0) & (values < len(table))
    return np.asarray([*table, NO_CLASS], np.int32)[np.where(known, values, len(table))]
