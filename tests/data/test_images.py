"""Reading images: every kind comes out as the same picture, and what is broken is refused with its reason."""

from __future__ import annotations

import io
import pickle
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from manyview.data.depths import read_depth
from manyview.errors import UserError
from manyview.images import reading
from manyview.images.fit import cover
from manyview.images.maps import read_labels
from manyview.images.reading import (
    ImageProblem,
    as_seen,
    list_images,
    probe_image,
    read_fitted,
    read_image,
    resize_image,
    stored_as_seen,
)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "P"])
def test_colour_modes_keep_their_colours(kit, tmp_path, mode):
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(kit.corners())
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(path, **({"quality": 95} if suffix == "jpg" else {}))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (48, 64, 3)
    assert np.abs(kit.quarters(image) - kit.quarters(kit.corners())).max() < 12
    assert probe_image(path) == (64, 48)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_becomes_grey_rgb(tmp_path, mode):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (20, 1))
    if mode == "I;16":
        source = Image.fromarray(ramp.astype(np.uint16) * 257)
        assert source.mode == "I;16"
    elif mode == "1":
        ramp = np.where(ramp > 127, 255, 0).astype(np.uint8)
        source = Image.fromarray(ramp).convert("1")
    else:
        source = Image.fromarray(ramp).convert(mode)
    source.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(ramp[..., None], 3, -1))


def test_16_bit_colour_png(kit, tmp_path):
    import cv2

    path = tmp_path / "a.png"
    cv2.imwrite(str(path), kit.corners()[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_image(path), kit.corners())


def test_transparent_pixels_lie_on_white(kit, tmp_path):
    image = np.dstack([kit.corners(), np.full((48, 64), 255, np.uint8)])
    image[:24, :32, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    result = read_image(tmp_path / "a.png")
    assert (result[:24, :32] == 255).all()
    assert np.array_equal(result[24:], kit.corners()[24:])


def _with_a_clear_colour(kind: str, path) -> None:
    """A picture of 2 x 4 pixels whose left half is see-through without an alpha channel."""
    grey = np.full((2, 4), 200, np.uint8)
    grey[:, :2] = 3
    colours = np.stack([grey, grey, grey // 2], -1)
    if kind == "RGB":
        Image.fromarray(colours).save(path, transparency=(3, 3, 1))
    elif kind == "L":
        Image.fromarray(grey).save(path, transparency=3)
    elif kind == "1":
        Image.fromarray(grey > 100).save(path, transparency=0)
    elif kind in ("I;16", "RGB;16"):
        import cv2

        deep = (grey if kind == "I;16" else colours[..., ::-1]).astype(np.uint16) * 200  # both bytes count
        cv2.imwrite(str(path), deep)
        data = path.read_bytes()  # neither OpenCV nor Pillow writes a transparent colour of 16 bits
        clear = [3] if kind == "I;16" else [3, 3, 1]
        chunk = b"tRNS" + b"".join((200 * value).to_bytes(2, "big") for value in clear)
        whole = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        place = data.index(b"IDAT") - 4
        path.write_bytes(data[:place] + whole + data[place:])
    else:
        palette = Image.fromarray(colours).quantize(2)
        palette.save(path, transparency=palette.getpixel((0, 0)))


@pytest.mark.parametrize("kind", ["RGB", "L", "1", "I;16", "RGB;16", "P"])
def test_a_transparent_colour_lies_on_white(tmp_path, kind):
    path = tmp_path / "a.png"
    _with_a_clear_colour(kind, path)
    result = read_image(path)
    assert (result[:, :2] == 255).all()
    assert (result[:, 2:, 0] == {"1": 255, "I;16": 156, "RGB;16": 156}.get(kind, 200)).all()
    assert stored_as_seen(path) is None
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(as_seen(image, "a.png")), result)


def test_only_plain_files_are_stored_as_they_are_seen(kit, tmp_path):
    Image.fromarray(kit.corners()).save(tmp_path / "plain.png")
    assert stored_as_seen(tmp_path / "plain.png") == (48, 64)
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "turned.jpg").write_bytes(kit.jpeg(kit.corners(), exif=exif))
    Image.fromarray(kit.corners()).save(tmp_path / "a.webp")
    (tmp_path / "text.png").write_text("hello")
    for name in ("turned.jpg", "a.webp", "text.png", "nowhere.png"):
        assert stored_as_seen(tmp_path / name) is None


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_come_out_upright(kit, tmp_path, orientation, suffix):
    upright = Image.fromarray(kit.corners(48, 80))
    undo = {  # how a camera that writes this orientation stores an upright picture
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({} if suffix in ("png", "tif") else {"quality": 95}))
    assert probe_image(path) == (80, 48)
    assert np.abs(kit.quarters(read_image(path)) - kit.quarters(kit.corners())).max() < 20
    small, fit = read_fitted(path, lambda source: cover(source, (12, 20)))
    assert fit.source == (48, 80)
    assert np.abs(kit.quarters(small) - kit.quarters(kit.corners())).max() < 20


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_nonsense_in_exif_does_not_cost_the_picture(kit, tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 47
    path.write_bytes(kit.jpeg(kit.corners(), exif=exif))
    assert probe_image(path) == (64, 48)
    path.write_bytes(kit.jpeg(kit.corners(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert probe_image(path) == (64, 48)


def test_an_animation_gives_its_first_frame(kit, tmp_path):
    frames = [Image.fromarray(kit.corners()), Image.new("RGB", (64, 48), "black")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.abs(kit.quarters(read_image(tmp_path / "a.gif")) - kit.quarters(kit.corners())).max() < 12


BROKEN = {
    "empty.jpg": (lambda kit: b"", "empty file"),
    "text.jpg": (lambda kit: b"hello, I am no picture", "not an image of a known format"),
    "half.jpg": (lambda kit: kit.jpeg(kit.noise())[:9000], "truncated"),
    "head.jpg": (lambda kit: kit.jpeg(kit.noise())[:100], "damaged|not an image"),
    "zeros.jpg": (lambda kit: kit.jpeg(kit.noise())[:30000] + bytes(20000), "truncated"),
    "photo.heic": (lambda kit: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC|not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_reason(kit, tmp_path, name):
    make, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(make(kit))
    for read in (read_image, probe_image, lambda p: read_fitted(p, lambda source: cover(source, (8, 8)))):
        with pytest.raises(ImageProblem, match=reason) as caught:
            read(path)
        assert caught.value.path == path
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("turned", [False, True])
def test_heic_photos_are_read_upright(kit, tmp_path, turned):
    """As a telephone stores them: lying on its side, with the EXIF tag that says so."""
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `heif`")
    picture, exif = Image.fromarray(kit.corners()), Image.Exif()
    if turned:
        exif[0x0112] = 6
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    heif.from_pillow(picture).save(tmp_path / "a.HEIC", quality=95, exif=exif.tobytes())
    image = read_image(tmp_path / "a.HEIC")
    assert image.shape == (48, 64, 3)
    assert np.abs(kit.quarters(image) - kit.quarters(kit.corners())).max() < 12
    assert probe_image(tmp_path / "a.HEIC") == (64, 48)  # width, height


def test_heic_without_its_plugin_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ImageProblem, match=r"manyview\[heif\]., or convert"):
        read_image(tmp_path / "a.HEIC")


def test_every_cut_of_a_jpeg_or_png_is_refused(kit, tmp_path):
    for suffix in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(kit.noise(64, 64)).save(buffer, suffix)
        whole = buffer.getvalue()
        for share in (0.02, 0.2, 0.5, 0.9, 0.97):
            path = tmp_path / f"{share}.{suffix.lower()}"
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(ImageProblem):
                probe_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_files_whose_end_was_never_downloaded_are_refused(kit, tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(kit.noise(64, 64)).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / f"a.{kind.lower()}"
    for share in (0.3, 0.6, 0.9, 0.98):
        kept = whole[: int(len(whole) * share)]
        path.write_bytes(kept + bytes(len(whole) - len(kept)))
        with pytest.raises(ImageProblem):
            read_image(path)
    path.write_bytes(whole + bytes(500))  # padding after the end hurts nobody
    assert probe_image(path) == (64, 64)


def test_pixels_without_a_known_white_are_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).random((8, 8)).astype(np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 1 << 20, np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(ImageProblem, match="no known white"):
            read_image(tmp_path / name)


def test_missing_files_folders_and_bombs(kit, tmp_path, monkeypatch):
    with pytest.raises(ImageProblem, match="no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageProblem, match="directory"):
        read_image(tmp_path)
    path = kit.save(tmp_path / "big.png", kit.noise())
    monkeypatch.setattr(reading, "MOST_PIXELS", 1000)
    with pytest.raises(ImageProblem, match="too many pixels"):
        read_image(path)


def test_a_problem_travels_between_processes():
    problem = pickle.loads(pickle.dumps(ImageProblem("a.jpg", "empty\nfile")))
    assert (str(problem), problem.reason) == ("a.jpg: empty file", "empty file")


@pytest.mark.parametrize("source", [(1201, 1603), (1600, 1201), (1207, 905)])
def test_reduced_decoding_keeps_the_geometry(kit, tmp_path, source):
    height, width = source
    y, x = np.mgrid[:height, :width] + 0.5
    centre = (0.31 * width, 0.66 * height)
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 40.0**2))
    image = np.repeat(np.round(blob * 255).astype(np.uint8)[..., None], 3, -1)
    path = tmp_path / "a.jpg"
    path.write_bytes(kit.jpeg(image))
    small, fit = read_fitted(path, lambda hw: cover(hw, (112, 112)))
    full = resize_image(read_image(path), fit)
    assert fit.source == source
    assert np.abs(small.astype(int) - full).max() <= 3
    weight = small[..., 0].astype(float) * (small[..., 0] > 8)
    rows, columns = np.mgrid[:112, :112] + 0.5
    found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    assert np.abs(found - (fit.affine.numpy() @ [*centre, 1])[:2]).max() < 0.1


def test_depth_in_metres_and_zero_for_none(tmp_path):
    Image.fromarray(np.array([[0, 1500], [65535, 1]], np.uint16)).save(tmp_path / "d.png")
    assert np.allclose(read_depth(tmp_path / "d.png", 0.001), [[0, 1.5], [0, 0.001]])
    np.save(tmp_path / "d.npy", np.array([[np.nan, np.inf, -1.0, 2.0]], np.float32))
    assert np.array_equal(read_depth(tmp_path / "d.npy", 1.0), np.array([[0, 0, 0, 2]], np.float32))


def test_depth_and_labels_refuse_colour_and_broken_files(kit, tmp_path):
    colour = kit.save(tmp_path / "c.png", kit.corners())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(colour.read_bytes()[:60])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for path in (colour, tmp_path / "empty.png", tmp_path / "cut.png", tmp_path / "objects.npy", tmp_path / "no.png"):
        with pytest.raises(ImageProblem):
            read_depth(path, 0.001)
        with pytest.raises(ImageProblem):
            read_labels(path)


def test_labels_of_a_palette_image_are_indices(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(labels).convert("P")
    image.putpalette([7, 7, 7] * 256)
    image.save(tmp_path / "l.png")
    assert np.array_equal(read_labels(tmp_path / "l.png"), labels)


def test_list_images_in_natural_order(tmp_path):
    for name in ("img10.jpg", "img2.JPG", "img1.png", "._img3.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["img1.png", "img2.JPG", "img10.jpg"]
    shell = sorted([tmp_path / "img10.jpg", tmp_path / "img2.JPG", tmp_path / "img1.png"])
    assert [p.name for p in list_images(shell)] == ["img1.png", "img2.JPG", "img10.jpg"]
    chosen = [tmp_path / "img2.JPG", tmp_path / "img10.jpg", tmp_path / "img1.png"]
    assert list_images(chosen) == chosen  # an order of one's own is kept: the first view is the reference


def test_list_images_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"no images in .*known suffixes: \.jpg"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        list_images([tmp_path / "nope.jpg"])
