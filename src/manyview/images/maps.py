"""Maps that go with pictures: class numbers, stored depth, and masks that say which pixels count."""

from __future__ import annotations

import io
import re
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

_FEW, _LOOKED_AT = 32, 1 << 18
"""Numbers or colours of a file that is drawn and not photographed; pixels that are looked at to count them."""


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
        elif data.startswith(b"P5"):
            values = _pgm(data)
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


def _pgm(data: bytes) -> np.ndarray:
    """(H, W) numbers of a binary PGM as they are stored; Pillow stretches those whose largest is not 255 or 65535."""
    head = re.match(rb"P5(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s", data[:4096])
    if head is None:
        raise ValueError("its header is none")
    width, height, most = (int(number) for number in head.groups())
    refuse_huge((width, height))
    kind = np.dtype(np.uint8 if most < 256 else ">u2")
    if len(data) - head.end() < width * height * kind.itemsize:
        raise ValueError("image file is truncated")
    values = np.frombuffer(data, kind, width * height, head.end()).reshape(height, width)
    return values.astype(kind.newbyteorder("="))


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool, upright, True = use the pixel. Raises ImageProblem.

    Where a file has transparent pixels they are the mask. A file of at most 32 numbers or colours (0 and 1, labels, a
    colour per thing) counts wherever it is not black. Of others a pixel counts whose brightest channel lies above half
    of the brightest in the file where they are grey, and above a tenth where they have colours (cut-outs on black).
    """
    opaque = read_opaque(path)
    if opaque is not None:
        return opaque
    data = bytes_of(Path(path))
    if data.startswith(b"\x93NUMPY"):
        return np.nan_to_num(read_map(Path(path), "mask")) > 0
    try:
        with open_picture(data) as image:
            refuse_huge(image.size)
            turn = UPRIGHT.get(orientation_of(image))
            image.load()
            values = np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr", "1") else image)
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageProblem(path, f"cannot be read as a mask: {why(error, data)}") from error
    use = _not_black(values)
    return np.asarray(Image.fromarray(use).transpose(turn)) if turn is not None else use


def _not_black(values: np.ndarray) -> np.ndarray:
    """(H, W) bool of stored (H, W) numbers, or of (H, W, 2 to 4) with channels."""
    share = 0.5
    if values.ndim == 3:
        colours = values[..., : 1 if values.shape[-1] == 2 else 3]
        values, least = colours.max(-1), colours.min(-1)
        share = 0.1 if (values - least).max() > 0.1 * values.max() else share
        numbered = colours.reshape(-1, colours.shape[-1])[:: max(1, values.size // _LOOKED_AT)].astype(np.int64)
        few = len(np.unique(numbered @ (1 << 16) ** np.arange(numbered.shape[-1])))
    else:
        few = len(np.unique(values.ravel()[:: max(1, values.size // _LOOKED_AT)]))
    return values > (0 if few <= _FEW else share * float(values.max()))


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
