"""From rows of a manifest to Views: read, fit without squashing, move the cameras with the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from manyview.data.depths import read_depth
from manyview.data.manifest import LABEL_MAP, NO_CLASS, Frame, Manifest
from manyview.errors import UserError
from manyview.geometry.cameras import apply_affine
from manyview.images.fit import same_picture
from manyview.images.reading import cover, read_fitted, read_labels, resample_nearest
from manyview.types import Views

_UNKNOWN = 255


def load_views(manifest: Manifest, indices: Sequence[int], size: tuple[int, int]) -> Views:
    """Frames of one scene as Views with batch 1 at `size` (H, W): scaled to cover it, centre-cropped.

    Intrinsics and poses are there when every frame has them; depth when any has (0 = none elsewhere).
    `names` are the images' paths in the manifest.
    """
    frames = [manifest[i] for i in indices]
    if not frames:
        raise UserError("no frames to load; give at least one index")
    images, intrinsics, depths = [], [], []
    for frame in frames:
        image, affine = _image(manifest, frame, size)
        images.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
        if frame.intrinsics is not None:
            intrinsics.append(apply_affine(affine, torch.from_numpy(frame.intrinsics)).float())
        depths.append(load_depth(manifest, frame, size))
    poses = [torch.from_numpy(frame.pose).float() for frame in frames if frame.pose is not None]
    return Views(
        images=torch.stack(images)[None],
        intrinsics=torch.stack(intrinsics)[None] if len(intrinsics) == len(frames) else None,
        cam2world=torch.stack(poses)[None] if len(poses) == len(frames) else None,
        depth=_stack_depth(depths, size),
        names=[[frame.image for frame in frames]],
    )


def load_depth(manifest: Manifest, frame: Frame, size: tuple[int, int]) -> Tensor | None:
    """(H, W) metres at `size`, nearest neighbour, 0 = none; None when the frame has no depth."""
    if frame.depth is None:
        return None
    depth = read_depth(manifest.path(frame.depth), frame.depth_scale or 1.0)
    return torch.from_numpy(_fitted_map(depth, frame, frame.depth, size))


def load_labels(
    manifest: Manifest, frame: Frame, size: tuple[int, int], *, instances: bool = False
) -> Tensor | None:
    """(H, W) int64 classes (or instances) at `size`, nearest neighbour; None when the frame has no such map."""
    relative = frame.instances if instances else frame.labels
    if relative is None:
        return None
    values = read_labels(manifest.path(relative)) if instances else read_classes(manifest, relative)
    return torch.from_numpy(_fitted_map(values, frame, relative, size)).long()


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


def _image(manifest: Manifest, frame: Frame, size: tuple[int, int]) -> tuple[np.ndarray, Tensor]:
    path = manifest.path(frame.image)
    image, fit = read_fitted(path, lambda source: cover(source, size))
    if fit.source != (frame.height, frame.width):
        raise UserError(
            f"{path} is {fit.source[1]}x{fit.source[0]}, the manifest says {frame.width}x{frame.height}; "
            "scan it again"
        )
    return image, fit.affine


def _fitted_map(values: np.ndarray, frame: Frame, relative: str, size: tuple[int, int]) -> np.ndarray:
    if not same_picture(values.shape, (frame.height, frame.width)):
        raise UserError(
            f"{relative} is {values.shape[1]}x{values.shape[0]} but its image {frame.image} "
            f"{frame.width}x{frame.height}: another aspect; make both show the same picture and scan again"
        )
    return np.ascontiguousarray(resample_nearest(values, cover((frame.height, frame.width), size)))


def _stack_depth(depths: list[Tensor | None], size: tuple[int, int]) -> Tensor | None:
    if all(depth is None for depth in depths):
        return None
    return torch.stack([torch.zeros(size) if depth is None else depth for depth in depths])[None]
