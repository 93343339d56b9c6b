"""Pictures as files: PNG without loss, or JPEG that keeps what one sees."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from manyview.files import write_bytes


def encoded(pixels: np.ndarray, suffix: str = ".png", *, notes: Mapping[str, str] | None = None) -> memoryview:
    """Pixels (H, W, 3) uint8, or a map (H, W) uint8 or uint16, as the content of a file; `notes` are a PNG's texts."""
    picture, content = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if suffix == ".png":
        texts = PngImagePlugin.PngInfo()
        for key, text in (notes or {}).items():
            texts.add_text(key, text)
        picture.save(content, "PNG", compress_level=3, pnginfo=texts)
    else:
        picture.save(content, "JPEG", quality=95, subsampling=0)
    return content.getbuffer()


def write_picture(path: Path, pixels: np.ndarray, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a picture in one move, in the format of its suffix. Raises UserError when the place cannot be written."""
    write_bytes(path, encoded(pixels, path.suffix, notes=notes))
