"""One rule for what a picture shows, what of it is transparent, and what a mask holds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from manyview.cli.main import main
from manyview.images.fit import longest
from manyview.images.inputs import Take, gather, oddities, read_masks
from manyview.images.maps import read_map, read_mask, read_opaque
from manyview.images.reading import ImageProblem, probe_image, read_fitted, read_image

USED = np.zeros((48, 64), bool)
USED[10:38, 15:50] = True


def fit(size):
    return longest(size, long_side=64, multiple=1)


def grey(value):
    return Image.fromarray(np.where(USED, value, 0).astype(np.uint8))


def with_alpha(colours):
    picture = colours.convert("RGBA")
    picture.putalpha(grey(255))
    return picture


def palette():
    picture = grey(1).convert("P")
    picture.putpalette([0, 0, 0, 200, 30, 30] + [0] * 762)
    return picture


def colours(count):
    """The colours of VOC's things, of which some are dim, laid over the mask in stripes."""
    bits = (np.arange(30)[:, None, None] >> (3 * np.arange(3) + np.arange(3)[:, None])) & 1  # number, channel, bit
    table = (bits << (7 - np.arange(3))).sum(-1)
    number = np.where(USED, np.arange(64) % (count - 1) + 1, 0)
    return Image.fromarray(table[number].astype(np.uint8))


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
MASKS = {
    "white": grey(255),
    "zero_one": grey(1),
    "half_grey": grey(100),
    "bits": grey(255).convert("1"),
    "sixteen": Image.fromarray(np.where(USED, 40000, 0).astype(np.uint16)),
    "green": Image.merge("RGB", [grey(0), grey(255), grey(0)]),
    "cutout": with_alpha(PHOTO),
    "alpha_only": with_alpha(Image.new("RGB", (64, 48))),
    "opaque_alpha": Image.merge("RGBA", [grey(255)] * 3 + [Image.new("L", (64, 48), 255)]),
    "palette": palette(),
    "labels of many things": Image.fromarray(np.where(USED, np.arange(64) % 7 * 20 + 20, 0).astype(np.uint8)),
    "a colour per thing": colours(21),
    "colours in a palette": colours(21).convert("P", palette=Image.Palette.ADAPTIVE),
    "dim colour": Image.merge("RGB", [grey(64), grey(0), grey(0)]),
    "cutout on black": Image.fromarray(np.asarray(PHOTO).clip(40) * USED[..., None].astype(np.uint8)),
    "trimap": Image.fromarray(np.where(USED, np.where(np.arange(64) < 20, 128, 255), 0).astype(np.uint8)),
    "labels": Image.fromarray(np.where(USED, np.arange(64) % 3 + 1, 0).astype(np.uint8)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_what_its_file_holds(tmp_path, kind):
    MASKS[kind].save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), USED)


def test_a_mask_with_soft_edges_and_one_of_an_array(tmp_path):
    soft = grey(255).resize((640, 480), Image.Resampling.BICUBIC)
    for name, how in (("m.png", {}), ("m.jpg", {"quality": 60}), ("m.webp", {}), ("m.tif", {})):
        soft.save(tmp_path / name, **how)
        assert np.array_equal(read_mask(tmp_path / name)[5::10, 5::10], USED), name
    for values in (USED, USED.astype(np.uint8) * 200, np.where(USED, 0.3, np.nan)):
        np.save(tmp_path / "m.npy", values)
        assert np.array_equal(read_mask(tmp_path / "m.npy"), USED)


def test_numbers_of_a_pgm_are_those_that_are_stored(tmp_path):
    values = np.arange(48 * 64).reshape(48, 64)
    for most, kind in ((5000, ">u2"), (65535, ">u2"), (200, np.uint8)):
        stored = (values % (most + 1)).astype(kind)
        (tmp_path / "d.pgm").write_bytes(b"P5\n# millimetres\n64 48\n%d\n" % most + stored.tobytes())
        assert np.array_equal(read_map(tmp_path / "d.pgm", "depth"), stored)
    (tmp_path / "d.pgm").write_bytes(b"P5 64 48 5000\n" + bytes(100))
    with pytest.raises(ImageProblem, match="truncated"):
        read_map(tmp_path / "d.pgm", "depth")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer, not the picture"),
        (b"<!DOCTYPE html>", "a web page, not the picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a web page"),
        (b"II*\0" + bytes(60), "a TIFF or raw file of a kind that is not read here"),
        (b"\x93NUMPY" + bytes(60), "not an image of a known format"),
        (b"\0\0\0\x18ftypmp42" + bytes(60), "not an image of a known format"),
    ],
)
def test_what_people_take_for_a_picture_is_named(tmp_path, content, sentence):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageProblem, match=sentence):
        read_image(tmp_path / "a.jpg")


def test_animations_and_pages_are_said(tmp_path, capsys):
    frames = [PHOTO.resize((64, 48)), PHOTO.rotate(180)]
    for name in ("a.gif", "b.webp", "c.tif", "d.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    PHOTO.resize((64, 48)).save(tmp_path / "e.tif")
    photos, _ = gather(tmp_path, fit, Take(), strict=True)
    (line,) = oddities(photos)
    assert line.startswith("4 of 5 pictures are animations or have several pages: the first one is taken")
    words = ["data", "scan", str(tmp_path), "--format", "folder", "-o", str(tmp_path / "m.parquet")]
    assert main(words) == 0
    assert "3 images are animations or have several pages" in capsys.readouterr().err


def test_a_panorama_that_says_so_is_named_whatever_its_shape(tmp_path):
    tag = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><GPano:ProjectionType>equirectangular</GPano:ProjectionType></x:xmpmeta>'
    )
    PHOTO.resize((640, 240)).save(tmp_path / "tagged.jpg", xmp=tag)
    PHOTO.resize((1025, 512)).save(tmp_path / "rounded.png")
    PHOTO.resize((640, 480)).save(tmp_path / "plain.jpg")
    paths = [tmp_path / name for name in ("tagged.jpg", "rounded.png", "plain.jpg")]
    photos, _ = gather(paths, fit, Take(), strict=True)
    says, shape = oddities(photos)
    assert "say that they are panoramas" in says
    assert says.endswith("(tagged.jpg)")
    assert shape.endswith("(rounded.png)")


def test_a_mask_is_turned_as_its_photo_is(tmp_path):
    turned = grey(255)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "m.png"), np.rot90(USED, -1))


@pytest.mark.parametrize("kind", ["rgba", "la", "trns", "palette"])
def test_transparent_pixels_make_no_points(tmp_path, kind):
    clear = PHOTO.copy()
    clear.paste((0, 0, 1), (0, 0, 15, 48))
    expected = np.ones((48, 64), bool)
    expected[:, :15] = False
    if kind == "trns":
        clear.save(tmp_path / "a.png", transparency=(0, 0, 1))
    elif kind == "palette":
        indexed = PHOTO.convert("P", colors=200, palette=Image.Palette.ADAPTIVE)
        indexed.putpalette(indexed.getpalette()[:600] + [0, 0, 0] * 56)
        indexed.paste(255, (0, 0, 15, 48))
        indexed.save(tmp_path / "a.png", transparency=255)
    else:
        picture = PHOTO.convert("RGBA" if kind == "rgba" else "LA")
        picture.putalpha(Image.fromarray(np.where(expected, 255, 0).astype(np.uint8)))
        picture.save(tmp_path / "a.png")
    assert np.array_equal(read_opaque(tmp_path / "a.png"), expected)
    assert (read_image(tmp_path / "a.png")[:, :15] == 255).all()
    for given in ([tmp_path / "a.png"], [Image.open(tmp_path / "a.png")]):
        photos, _ = gather(given, fit, Take(), strict=False)
        (mask,), notes = read_masks(None, photos)
        assert np.array_equal(mask, expected)
        assert not notes
        (mask,), _ = read_masks([np.ones((48, 64), bool)], photos)
        assert np.array_equal(mask, expected)


def test_masks_of_photos_with_equal_names(tmp_path):
    for folder in ("a", "b", "masks", "more/a", "more/b"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in "ab":
        PHOTO.save(tmp_path / folder / "img.jpg")
    PHOTO.save(tmp_path / "b/other.jpg")
    grey(255).save(tmp_path / "masks/img.png")
    files = [tmp_path / "a/img.jpg", tmp_path / "b/img.jpg", tmp_path / "b/other.jpg"]
    photos, _ = gather(files, fit, Take(), strict=False)
    masks, notes = read_masks(tmp_path / "masks", photos)
    assert [mask is not None for mask in masks] == [True, True, False]
    assert notes[0] == "no mask for other.jpg: all of it is used"
    assert notes[1].startswith("img.png is the mask of 2 photos of that name")
    grey(255).save(tmp_path / "more/a/img.png")
    grey(0).save(tmp_path / "more/b/img.jpg.png")
    (first, second, _), notes = read_masks(tmp_path / "more", photos)
    assert np.array_equal(first, USED)
    assert not second.any()
    assert notes[1].startswith("nothing is left of")


def test_a_photo_of_two_hundred_megapixels_is_decoded_small(tmp_path):
    tile = Image.new("L", (16320, 12240), 90)
    tile.save(tmp_path / "phone.jpg", quality=20)
    assert probe_image(tmp_path / "phone.jpg") == (16320, 12240)
    pixels, fitted = read_fitted(tmp_path / "phone.jpg", lambda size: longest(size, long_side=112, multiple=14))
    assert fitted.source == (12240, 16320)
    assert pixels.shape == (84, 112, 3)
    with pytest.raises(ImageProblem, match="too many pixels"):
        read_image(tmp_path / "phone.jpg")


def png_header(width, height):
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_stated_size_is_looked_at_before_it_is_allocated(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(60000, 60000))
    for read in (read_image, probe_image, read_mask):
        with pytest.raises(ImageProblem, match="too many pixels"):
            read(tmp_path / "bomb.png")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


@pytest.mark.parametrize("content", [POSTSCRIPT, b"\xd7\xcd\xc6\x9a" + b"\0" * 60])
def test_only_raster_pictures_are_opened(tmp_path, content, monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a program"))
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageProblem, match="not an image of a known format"):
        read_image(tmp_path / "a.jpg")


def test_a_picture_is_read_by_its_content(tmp_path):
    PHOTO.save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "a.webp").rename(tmp_path / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), np.asarray(PHOTO))


def test_pictures_that_no_pinhole_took_or_that_show_nothing_are_named(tmp_path):
    pictures = {
        "pano.jpg": PHOTO.resize((1024, 512)),
        "card.png": Image.new("RGB", (640, 480), "white"),
        "dot.png": PHOTO.resize((1, 1)),
        "good.png": PHOTO.resize((640, 480)),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    photos, _ = gather([tmp_path / name for name in pictures], fit, Take(), strict=False)
    panorama, colour, small = oddities(photos)
    assert panorama.startswith("1 of 4 pictures are twice as wide as high")
    assert panorama.endswith("(pano.jpg)")
    assert colour.endswith("(card.png, dot.png)")
    assert small.endswith("(dot.png)")
