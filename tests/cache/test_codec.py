"""Archives: every bit survives, equal maps give equal bytes, one view is read alone, damage is noticed."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pyarrow
import pytest

from manyview.cache import archive, codec


def every_pattern() -> np.ndarray:
    """(256, 256) float16 with each of the 65,536 bit patterns once: NaNs, infinities, -0 and subnormals
    included."""
    bits = np.random.default_rng(0).permutation(65536).astype(np.uint16)
    return bits.view(np.float16).reshape(256, 256)


def back_from(frame: bytes, like: np.ndarray) -> np.ndarray:
    """A frame decoded as a map of this type and shape."""
    out = np.empty(like.shape, like.dtype)
    codec.decode_into(out, frame, codec.LOSSLESS[like.dtype.name])
    return out


def naive_decode(frame: bytes, shape: tuple[int, int, int]) -> list[int]:
    """The documented format, one value at a time."""
    height, width, channels = shape
    count = height * width * channels
    raw = pyarrow.Codec("zstd").decompress(frame, decompressed_size=2 * count, asbytes=True)
    values = [raw[i] + 256 * raw[count + i] for i in range(count)]
    for i in range(count):
        if i // channels % width:
            values[i] = (values[i] + values[i - channels]) % 65536
    return values


def test_every_bit_pattern_survives():
    values = every_pattern()
    back = back_from(codec.encode(values, codec.HALF), values)
    assert back.dtype == np.float16
    assert np.array_equal(back.view(np.uint16), values.view(np.uint16))


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 3), (4, 1, 1), (3, 9, 17)])
def test_half_frames_are_what_is_documented(shape):
    bits = np.random.default_rng(1).integers(0, 65536, shape).astype(np.uint16)
    frame = codec.encode(bits.view(np.float16), codec.HALF)
    assert naive_decode(frame, shape) == bits.flatten().tolist()
    assert np.array_equal(back_from(frame, bits.view(np.float16)).view(np.uint16), bits)


def test_half_frames_of_a_view_into_a_larger_array():
    values = every_pattern()[::2, 3:77]
    back = back_from(codec.encode(values, codec.HALF), values)
    assert np.array_equal(back.view(np.uint16), np.ascontiguousarray(values).view(np.uint16))


@pytest.mark.parametrize("shape", [(17, 23), (1, 1), (8, 8), (3, 5, 2)])
def test_masks_survive_and_are_eight_pixels_a_byte(shape):
    mask = np.random.default_rng(2).random(shape) > 0.5
    frame = codec.encode(mask, codec.MASK)
    raw = pyarrow.Codec("zstd").decompress(frame, decompressed_size=-(-mask.size // 8), asbytes=True)
    assert [raw[i // 8] >> (7 - i % 8) & 1 for i in range(mask.size)] == mask.flatten().tolist()
    back = back_from(frame, mask)
    assert back.dtype == bool
    assert np.array_equal(back, mask)


def test_overflow_and_nan_become_invalid_never_infinite():
    values = np.array([[1.0, 65504.0, 65519.0, 65520.0, 1e9, np.nan, -np.inf, -1e6]])
    half, valid = codec.to_half(values, np.ones((1, 8), bool))
    assert valid.tolist() == [[True, True, True, False, False, False, False, False]]
    assert half.tolist() == [[1.0, 65504.0, 65504.0, 0, 0, 0, 0, 0]]
    points = np.array([[[0.1, 7e4, 1.0], [1.0, 2.0, 3.0]]])
    half, valid = codec.to_half(points, np.array([[True, True]]))
    assert valid.tolist() == [[False, True]]
    assert half[0, 0].tolist() == [0, 0, 0]


def test_confidences_saturate_instead():
    values = np.array([[1e9, 2.0, np.nan, np.inf]])
    half, valid = codec.to_half(values, np.array([[True, False, True, True]]), saturate=True)
    assert half.tolist() == [[65504.0, 0, 0, 0]]
    assert valid.tolist() == [[True, False, False, False]]


def sample() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {"pointmap": rng.standard_normal((3, 6, 10, 3)).astype(np.float16), "valid": rng.random((3, 6, 10)) > 0.3}


def test_archive_round_trip_and_header():
    content = archive.encode_archive(sample(), {"scene": "küche"})
    header, fields = archive.decode_archive(io.BytesIO(content))
    assert header["scene"] == "küche"
    assert header["fields"]["pointmap"]["shape"] == [3, 6, 10, 3]
    for name, values in sample().items():
        assert np.array_equal(fields[name], values)


def test_some_views_are_read_without_the_others():
    content = archive.encode_archive(sample(), {})
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        kept = [name for name in whole.namelist() if not name.endswith("/001")]
        part = io.BytesIO()
        with zipfile.ZipFile(part, "w") as cut:
            for name in kept:
                cut.writestr(name, whole.read(name))
    _, fields = archive.decode_archive(part, views=[2, 0])  # view 1 is not even in the file
    assert np.array_equal(fields["pointmap"], sample()["pointmap"][[2, 0]])
    with pytest.raises(codec.BrokenArchive):
        archive.decode_archive(part)


def test_equal_maps_give_equal_bytes_and_a_plain_zip():
    first, second = (archive.encode_archive(dict(reversed(sample().items())), {"b": 1, "a": 2}) for _ in range(2))
    assert first == second == archive.encode_archive(sample(), {"a": 2, "b": 1})
    with zipfile.ZipFile(io.BytesIO(first)) as whole:
        assert {info.compress_type for info in whole.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(whole.read("header.json"))["fields"]["valid"]["encoding"] == "packbits+zstd"


def test_every_cut_and_a_flipped_bit_are_noticed():
    content = archive.encode_archive(sample(), {})
    for length in range(0, len(content), 97):
        with pytest.raises(codec.BrokenArchive):
            archive.decode_archive(io.BytesIO(content[:length]))
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        start = whole.getinfo("pointmap/001").header_offset + 60  # inside that member's frame
    damaged = bytearray(content)
    damaged[start + 20] ^= 16
    with pytest.raises(codec.BrokenArchive):
        archive.decode_archive(io.BytesIO(bytes(damaged)))
