"""The original pictures of a scene, brought into an export, with cameras for exactly those pixels."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from manyview.errors import UserError
from manyview.scene.scene import Scene, SceneView

JPEG_QUALITY = 95


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
    found, names = [], set()
    for index, view in enumerate(scene.views):
        name = _name(view, size)
        if name.lower() in names:
            name = f"{index:04d}-{name}"
        names.add(name.lower())
        if size == "model":
            height, width = view.depth.shape
            found.append(Target(name, width, height, view.intrinsics, np.eye(3)))
        else:
            height, width = view.source.size
            back = np.linalg.inv(view.source.affine)
            found.append(Target(name, width, height, view.source.intrinsics, back))
    gone = [v for v in scene.views if v.source.pixels is None and not Path(v.source.path or "").is_file()]
    if size == "original" and gone:
        raise UserError(
            f"{len(gone)} of {len(scene)} original pictures are gone, first {gone[0].source.path}; put them "
            "back, or export at the model's resolution with size='model' (--size model)"
        )
    return found


def _name(view: SceneView, size: str) -> str:
    stem, suffix = Path(view.name).stem, Path(view.name).suffix.lower()
    stem = re.sub(r"[^\w.+-]", "_", stem)  # COLMAP's text files end a name at a space
    if size == "model" or view.source.pixels is not None:
        return f"{stem}.png"
    return f"{stem}{suffix}" if suffix in (".jpg", ".jpeg", ".png") else f"{stem}.jpg"


def write_pictures(
    scene: Scene, chosen: list[Target], folder: Path, size: Literal["original", "model"]
) -> None:
    """Write one picture per view: files that are upright already are copied as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = _video_frames(scene) if size == "original" else iter(())
    for view, target in zip(scene.views, chosen, strict=True):
        path, source = folder / target.name, view.source
        if size == "model":
            _write(view.image, path)
        elif source.pixels is not None:
            _write(source.pixels, path)
        elif source.frame is not None:
            _write(_checked(next(frames), view), path)
        else:
            _copy(view, path)


def _copy(view: SceneView, path: Path) -> None:
    source = Path(str(view.source.path))
    with _opened(source) as picture:
        plain = picture.format in ("JPEG", "PNG") and picture.getexif().get(0x0112, 1) == 1
        if plain and picture.size[::-1] == view.source.size and picture.mode in ("RGB", "L"):
            shutil.copyfile(source, path)
            return
        upright = np.asarray(_rgb(ImageOps.exif_transpose(picture)))
    _write(_checked(upright, view), path)


def _opened(path: Path) -> Image.Image:
    if path.suffix.lower() in (".heic", ".heif"):
        with contextlib.suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
    try:
        return Image.open(path)
    except OSError as error:
        raise UserError(
            f"{path} can no longer be read as a picture; export with size='model' (--size model)"
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) * 255 // 65535).astype(np.uint8))
    return picture.convert("RGB")


def _checked(pixels: np.ndarray, view: SceneView) -> np.ndarray:
    if pixels.shape[:2] != view.source.size:
        raise UserError(
            f"{view.source.path} is now {pixels.shape[1]}x{pixels.shape[0]}, the scene was made from "
            f"{view.source.size[1]}x{view.source.size[0]}; reconstruct it again"
        )
    return pixels


def _write(pixels: np.ndarray, path: Path) -> None:
    picture = Image.fromarray(pixels)
    if path.suffix == ".png":
        picture.save(path, compress_level=3)
    else:
        picture.save(path, quality=JPEG_QUALITY, subsampling=0)


def _video_frames(scene: Scene) -> Iterator[np.ndarray]:
    """The frames of the scene's video views, in the order of the views (one pass per growing run)."""
    import cv2

    capture, opened, position = None, None, 0
    for view in scene.views:
        path, wanted = view.source.path, view.source.frame
        if wanted is None:
            continue
        if path != opened or wanted < position:
            capture, opened, position = cv2.VideoCapture(str(path)), path, 0
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        while capture is not None and position < wanted and capture.grab():
            position += 1
        read, frame = capture.read() if capture is not None else (False, None)
        if not read or frame is None:
            raise UserError(f"{path}: frame {wanted} cannot be read; export with size='model' (--size model)")
        position += 1
        yield np.ascontiguousarray(frame[..., ::-1])
