"""The original pictures of a scene, brought into an export, with cameras for exactly those pixels."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from manyview.errors import UserError
from manyview.images.reading import read_image, stored_as_seen
from manyview.images.video import read_frames
from manyview.images.writing import encoded
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView


@dataclass(frozen=True)
class Target:
    """A picture of an export and its camera."""

    name: str
    """File name, without spaces, unique."""
    width: int
    height: int
    intrinsics: np.ndarray
    """(3, 3) for these pixels."""
    affine: np.ndarray
    """(3, 3) from the model's pixels to these."""

    def pixels(self, uv: np.ndarray) -> np.ndarray:
        """Model pixels (N, 2) as pixels of this picture."""
        return uv @ self.affine[:2, :2].T + self.affine[:2, 2]


def targets(scene: Scene, size: Literal["original", "model"]) -> list[Target]:
    """One per view. Raises UserError when original pictures are asked for and gone."""
    if size not in ("original", "model"):
        raise UserError(f"size is {size!r}; it must be original or model")
    chosen, names = [], set()
    for index, view in enumerate(scene.views):
        name = _name(view, size)
        if name.lower() in names:
            name = f"{index:04d}-{name}"
        names.add(name.lower())
        if size == "model":
            height, width = view.depth.shape
            chosen.append(Target(name, width, height, view.intrinsics, np.eye(3)))
        else:
            height, width = view.source.size
            back = np.linalg.inv(view.source.affine)
            chosen.append(Target(name, width, height, view.source.intrinsics, back))
    gone = [v for v in scene.views if v.source.pixels is None and not Path(v.source.path or "").is_file()]
    if size == "original" and gone:
        raise UserError(
            f"{len(gone)} of {len(scene)} original pictures are gone, first {gone[0].source.path}; put them "
            "back, or export at the model's resolution with size='model' (--size model)"
        )
    return chosen


def _name(view: SceneView, size: str) -> str:
    stem, suffix = Path(view.name).stem, Path(view.name).suffix.lower()
    stem = re.sub(r"[^\w.+-]", "_", stem)  # COLMAP's text files end a name at a space
    if size == "model" or view.source.pixels is not None:
        return f"{stem}.png"
    return f"{stem}{suffix}" if suffix in (".jpg", ".jpeg", ".png") else f"{stem}.jpg"


def write_pictures(scene: Scene, chosen: list[Target], folder: Path, size: Literal["original", "model"]) -> None:
    """Write one picture per view, in the colours the network saw; a file that stores those already is copied."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = _video_frames(scene)
    for view, target in zip(scene.views, chosen, strict=True):
        path, source = folder / target.name, view.source
        if size == "model":
            path.write_bytes(encoded(view.image, path.suffix))
        elif source.pixels is not None:
            path.write_bytes(encoded(source.pixels, path.suffix))
        elif source.frame is None and stored_as_seen(str(source.path)) == source.size:
            shutil.copyfile(str(source.path), path)
        else:
            path.write_bytes(encoded(_original(view, frames), path.suffix))


def original_pixels(view: SceneView) -> np.ndarray:
    """(H, W, 3) uint8 of the photo a view was made from. Raises UserError when it is gone or has changed."""
    source = view.source
    if source.pixels is not None:
        return source.pixels
    if not Path(source.path or "").is_file():
        raise UserError(f"{source.path}, which the scene was made from, is gone; put it back")
    return _original(view, read_frames(str(source.path), [source.frame]) if source.frame is not None else iter(()))


def _original(view: SceneView, frames: Iterator[np.ndarray]) -> np.ndarray:
    """The picture of a view (H, W, 3) at its own size, read again from its file or as the next of the frames."""
    source = view.source
    try:
        pixels = read_image(str(source.path)) if source.frame is None else next(frames)
    except UserError as error:
        raise UserError(
            f"the original of {view.name} can no longer be read: {error}; export with size='model' (--size model)"
        ) from error
    if pixels.shape[:2] != source.size:
        raise UserError(
            f"{source.path} is now {pixels.shape[1]}x{pixels.shape[0]}, the scene was made from "
            f"{source.size[1]}x{source.size[0]}; reconstruct it again"
        )
    return pixels


def _video_frames(scene: Scene) -> Iterator[np.ndarray]:
    """The frames of the scene's video views, in the order of the views."""
    sources = [view.source for view in scene.views if view.source.frame is not None]
    for path, group in itertools.groupby(sources, key=lambda source: str(source.path)):
        yield from read_frames(path, [source.frame for source in group if source.frame is not None])
