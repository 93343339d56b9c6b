"""Maps that go with pictures: class numbers, stored depth, and masks that say which pixels count."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from manyview.images.reading import (
    CLEAR,
    UPRIGHT,
    ImageProblem,
    bytes_of,
    decode,
    open_picture,
    orientation_of,
    refuse_huge,
    why,
)


def read_labels(path: str | Path) -> np.ndarray:
    """(H, W) int32 class or instance numbers; a palette image gives its indices, not its colours."""
    values = read_map(Path(path), "label")
    if not np.issubdtype(values.dtype, np.integer) and values.dtype != bool:
        raise ImageProblem(path, f"a label map holds whole numbers, this one {values.dtype}; write it as PNG")
    return values.astype(np.int32)


def read_map(path: Path, kind: str) -> np.ndarray:
    """(H, W) stored numbers of a one-channel file. Raises ImageProblem, which calls it a `kind` map."""
    data = bytes_of(path)
    try:
        if data.startswith(b"\x93NUMPY"):
            values = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            with open_picture(data) as image:
                refuse_huge(image.size)
                image.load()
                values = np.asarray(image)
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageProblem(path, f"cannot be read as a {kind} map: {why(error, data)}") from error
    if values.ndim != 2:
        raise ImageProblem(path, f"a {kind} map has one channel, this file has shape {values.shape}")
    return values


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool, upright, True = use the pixel. Raises ImageProblem.

    Where a file has transparent pixels they are the mask. Else a pixel counts whose brightest channel lies above half
    of the brightest in the file: black and white, grey, coloured and 0/1 files alike. Files of small numbers (labels
    up to 15) count above zero.
    """
    opaque = read_opaque(path)
    if opaque is not None:
        return opaque
    data = bytes_of(Path(path))
    try:
        with open_picture(data) as image:
            refuse_huge(image.size)
            turn = UPRIGHT.get(orientation_of(image))
            image.load()
            values = np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr", "1") else image)
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageProblem(path, f"cannot be read as a mask: {why(error, data)}") from error
    if values.ndim == 3:
        values = values[..., : 1 if values.shape[-1] == 2 else 3].max(-1)
    most = float(values.max())
    use = values > (most / 2 if most > 15 else 0)
    return np.asarray(Image.fromarray(use).transpose(turn)) if turn is not None else use


def read_opaque(path: str | Path) -> np.ndarray | None:
    """(H, W) bool, upright: where a picture is more than half opaque; None for one that is opaque all over."""
    try:
        with open_picture(Path(path)) as image:
            if image.mode not in CLEAR and "transparency" not in image.info:
                return None
    except Exception:  # who reads the pixels says what is wrong
        return None
    picture, _, _ = decode(Path(path), seen=lambda image, name, deep: upright_alpha(image))
    opaque = np.asarray(picture) > 127
    return None if opaque.all() else opaque


def upright_alpha(image: Image.Image) -> Image.Image:
    """Opacity (mode L) of an opened picture, 0 at its transparent colour."""
    orientation = orientation_of(image)
    image.load()
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        alpha = Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
    else:
        alpha = image.convert("RGBA").getchannel("A")
    return alpha.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else alpha
