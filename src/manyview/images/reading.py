"""Reading and resizing images: what comes out is upright, RGB and whole, or it is refused with a reason."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyview.errors import UserError
from manyview.files import natural_key, stand_in_of
from manyview.images.fit import MOST_PIXELS, Fit, nearest_indices

_HEIF = (".heic", ".heif")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_RASTER = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "TGA")
_REDUCED = 4  # times as many may a JPEG have that is wanted small, for it is decoded small
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", *_HEIF),
)
_PAGED = (".gif", ".webp", ".png", ".tif", ".tiff", ".avif")
UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _EXIF, _FOCAL_35MM = 0x0112, 0x8769, 0xA405
CLEAR = ("LA", "PA", "La", "RGBA", "RGBa")
_HEADER = 1 << 18  # bytes, in which a file's metadata lie
_TAIL = 32  # bytes; entropy-coded data never hold this many zeros in a row


class ImageProblem(UserError):
    """A file that gives no picture, and why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = Path(path)
        self.reason = " ".join(reason.split())
        super().__init__(f"{self.path}: {self.reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageProblem, (self.path, self.reason)


def reason_of(error: UserError) -> str:
    """What is wrong with a file, without its name."""
    return error.reason if isinstance(error, ImageProblem) else str(error)


def list_images(path_or_paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Image files of a folder in natural order, or the files given. Raises UserError when there is none.

    Files are kept in the order given, unless that is the shell's (img10 before img2): then natural order.
    """
    single = isinstance(path_or_paths, (str, Path))
    given = [Path(path_or_paths)] if single else [Path(path) for path in path_or_paths]  # type: ignore
    if given == sorted(given):
        given = sorted(given, key=natural_key)
    images: list[Path] = []
    for path in given:
        if path.is_dir():
            images += folder_images(path)
        elif path.exists():
            images.append(path)
        else:
            raise UserError(f"no such file or folder: {path}; check the path")
    if not images:
        where = str(given[0]) if len(given) == 1 else "the files given"
        raise UserError(f"no images in {where}, known suffixes: {' '.join(SUFFIXES)}")
    return images


def folder_images(folder: Path) -> list[Path]:
    """Files with a known suffix directly in `folder`, hidden ones left out, in natural order; maybe none."""
    images = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted((path for path in images if not path.is_dir()), key=lambda path: natural_key(path.name))


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright (EXIF applied). Raises ImageProblem for a file without a whole picture.

    16-bit values are scaled to 8 bits, transparent pixels lie on white, an animation gives its first frame.
    """
    image, _, _ = decode(Path(path))
    return np.array(image)


def probe_image(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright image, after decoding the whole file. Raises ImageProblem."""
    _, size, _ = decode(Path(path), at_least=lambda size: (1, 1))
    return size


def read_fitted(path: str | Path, fit_for: Callable[[tuple[int, int]], Fit]) -> tuple[np.ndarray, Fit]:
    """Read and resize in one go: `fit_for` gets the upright (H, W); returns uint8 (h, w, 3) and the Fit.

    Large JPEGs are decoded at a half, a quarter or an eighth of their size as long as that leaves at least
    twice the target's resolution: about four times faster, the same geometry, nearly the same pixels.
    """

    def at_least(size: tuple[int, int]) -> tuple[int, int]:
        scale = 2 * fit_for((size[1], size[0])).scale
        return max(1, int(np.ceil(size[0] * scale))), max(1, int(np.ceil(size[1] * scale)))

    image, (width, height), reduced = decode(Path(path), at_least=at_least)
    fit = fit_for((height, width))
    return _resample(image, fit, reduced), fit


def resize_image(image: np.ndarray, fit: Fit) -> np.ndarray:
    """Scale and crop uint8 (H, W, 3) in one antialiased resampling: uint8 (h, w, 3)."""
    if image.shape[:2] != fit.source:
        raise ValueError(f"image is {image.shape[:2]}, the fit was made for {fit.source}")
    return _resample(Image.fromarray(image), fit, 1.0)


def resample_nearest(values: Any, fit: Fit) -> Any:
    """An (H, W, ...) array or tensor at the target's pixel centres: (h, w, ...), nearest, never mixed.

    The map may have another size than its image (depth often has), as long as it shows the same picture.
    """
    rows, columns = nearest_indices(fit, tuple(values.shape[:2]))
    if isinstance(values, np.ndarray):
        return values[rows[:, None], columns[None]]
    import torch

    return values[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)[None]]


def open_picture(source: bytes | Path) -> Image.Image:
    """A raster picture, its header read; by its content, never by its name, and never by a program of another kind.

    Raises OSError, or what Pillow raises for a damaged header. How large it may be is up to who decodes it.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    try:
        head = file.read(16)
        Image.init()
        for format in _RASTER:
            factory, accept = Image.OPEN.get(format, (None, None))
            try:
                answer = accept(head) if accept is not None else format == "TGA"
            except (IndexError, struct.error):  # of a file that is too short to begin like one
                continue
            if factory is None or not answer or isinstance(answer, str):
                continue
            file.seek(0)
            try:
                image = factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
            image._exclusive_fp = not isinstance(source, bytes)  # as Image.open has it: closed with the picture
            return image
    except BaseException:
        file.close()
        raise
    file.close()
    raise Image.UnidentifiedImageError(f"it begins with {head[:12]!r}")


def refuse_huge(size: tuple[int, int], times: int = 1) -> None:
    """Raise what says so when a picture has more than `times` MOST_PIXELS."""
    most = times * MOST_PIXELS
    if size[0] * size[1] > most:
        million = 1_000_000
        raise Image.DecompressionBombError(
            f"{size[0]}x{size[1]} is too many pixels ({most // million} million at most); make it smaller"
        )


def bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageProblem(path, "no such file") from None
    except OSError as error:
        raise ImageProblem(path, (error.strerror or str(error)).lower()) from error
    if not data:
        raise ImageProblem(path, "empty file (0 bytes)")
    return data


def decode(
    path: Path,
    at_least: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
    seen: Callable[..., Image.Image] | None = None,
) -> tuple[Image.Image, tuple[int, int], float]:
    """The upright RGB image, its full (width, height), and by how much a JPEG was reduced while decoding.

    `at_least` maps the full upright size to the smallest one that still does; None decodes everything.
    """
    data = bytes_of(path)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _allow_heif(path)
    try:
        with open_picture(data) as image:
            sideways = orientation_of(image) >= 5
            if _cut_off(data, image.format):
                raise ImageProblem(path, "truncated: the file's end is filled with zeros")
            reduced = 1.0
            width, height = image.size
            if at_least is not None and image.format in ("JPEG", "MPO"):
                wanted = at_least((height, width) if sideways else (width, height))
                drafted = image.draft(None, wanted[::-1] if sideways else wanted)
                reduced = 1.0 if drafted is None else width / drafted[1][2]
                refuse_huge((width, height), _REDUCED)
            refuse_huge(image.size)
            picture = (seen or as_seen)(image, path, deep=image.format == "PNG" and data[24] == 16)
    except (ImageProblem, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageProblem(path, why(error, data)) from error
    if reduced == 1.0:
        return picture, picture.size, reduced
    return picture, (height, width) if sideways else (width, height), reduced


def as_seen(image: Image.Image, name: str | Path, *, deep: bool = False) -> Image.Image:
    """An opened picture as every part of this package sees it: upright, RGB, 8 bits, transparent pixels on white.

    deep: its file has 16 bits per colour. Raises ImageProblem, which calls the picture `name`, for pixels without a
    known white, and what Pillow raises for damaged ones.
    """
    orientation = orientation_of(image)
    image.load()
    rgb = _rgb(image, Path(name), deep)
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def stored_as_seen(path: str | Path) -> tuple[int, int] | None:
    """(H, W) of a file whose stored pixels are what `read_image` gives, also to programs that ignore EXIF; else None.

    Such are JPEG and PNG files, RGB or grey, upright and without a transparent colour. Reads the header alone.
    """
    try:
        with open_picture(Path(path)) as image:
            plain = image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L")
            same = plain and "transparency" not in image.info and orientation_of(image) == 1
            return (image.height, image.width) if same else None
    except Exception:  # damaged headers raise anything
        return None


def upright_size(path: Path) -> tuple[int, int] | None:
    """(width, height) that the header of an image states, upright; None for a file without one."""
    try:
        with open_picture(path) as image:
            return image.size[::-1] if orientation_of(image) >= 5 else image.size
    except Exception:  # damaged headers raise anything
        return None


def stated_focal(path: str | Path) -> float | None:
    """Focal length in long sides, from the 35 mm equivalent that a photo's EXIF states; None without one."""
    try:
        with open_picture(Path(path)) as photo:
            equivalent = float(photo.getexif().get_ifd(_EXIF).get(_FOCAL_35MM) or 0)
    except Exception:  # damaged EXIF states nothing
        return None
    return equivalent / 36.0 if 5 <= equivalent <= 1000 else None


def has_pages(path: str | Path) -> bool:
    """Whether a file is an animation, or has several pages, of which the first one is the picture."""
    if Path(path).suffix.lower() not in _PAGED:
        return False
    try:
        with open_picture(Path(path)) as image:
            return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # damaged headers raise anything
        return False


def states_panorama(path: str | Path) -> bool:
    """Whether a file's header says that its picture is a panorama (Google's Photo Sphere metadata)."""
    try:
        with Path(path).open("rb") as file:
            return b"GPano:" in file.read(_HEADER)
    except OSError:
        return False


def orientation_of(image: Image.Image) -> int:
    """What EXIF says, 1 (upright) without it; Pillow itself turns TIFF."""
    if image.format == "TIFF":
        return 1
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return orientation if orientation in UPRIGHT else 1


def _rgb(image: Image.Image, path: Path, deep: bool) -> Image.Image:
    clear = image.info.get("transparency")  # a PNG's or GIF's transparent colour, or a palette's alpha values
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageProblem(path, "32-bit integers have no known white; save it with 8 or 16 bits")
        grey = (values * 255 + 32767) // 65535
        grey[values == clear] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageProblem(path, "floating-point pixels have no known white; save it with 8 or 16 bits")
    if isinstance(clear, tuple) and (deep or max(clear) > 255):
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)  # Pillow keeps 8 of the 16 bits
    if image.mode in CLEAR or clear is not None:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return image.convert("RGB")


def _resample(image: Image.Image, fit: Fit, reduced: float) -> np.ndarray:
    height, width = fit.size
    if reduced == 1.0 and fit.size == fit.source and fit.scale == 1.0:
        return np.array(image)
    left, top, right, bottom = (edge / reduced for edge in fit.box)
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _cut_off(data: bytes, container: str | None) -> bool:
    """Whether a compressed file ends in zeros before its end marker: decoders paint the rest in silence."""
    if data[-_TAIL:].strip(b"\0"):
        return False
    if container in ("JPEG", "MPO"):
        return not _jpeg_ends(data)
    if container == "PNG":
        return b"IEND\xaeB`\x82" not in data
    if container == "WEBP":
        return not data[: 8 + int.from_bytes(data[4:8], "little")][-_TAIL:].strip(b"\0")
    return container == "AVIF"


def _jpeg_ends(data: bytes) -> bool:
    """Whether the end marker follows the picture's own data (thumbnails with theirs lie before it)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _allow_heif(path: Path) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageProblem(
            path, "HEIC images need a decoder: pip install 'manyview[heif]', or convert to JPEG"
        ) from None
    pillow_heif.register_heif_opener()


def why(error: Exception, data: bytes) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        if found := stand_in_of(data[:200], "picture"):
            return found
        if data[:4] in (b"II*\0", b"MM\0*"):
            return "a TIFF or raw file of a kind that is not read here; save it as PNG, JPEG or a TIFF of 8 or 16 bits"
        return f"not an image of a known format (it begins with {data[:12]!r})"
    if isinstance(error, Image.DecompressionBombError):
        return str(error)
    return f"damaged: {_short(error)}"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
