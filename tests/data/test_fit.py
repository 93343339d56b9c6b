"""Where pixels go: cover and longest never squash, and a dot lands where the affine says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyview.errors import UserError
from manyview.images.fit import cover, longest, nearest_indices, same_picture
from manyview.images.reading import resample_nearest, resize_image

SOURCES = [(480, 640), (640, 480), (375, 1241), (101, 77), (63, 64), (301, 200), (1000, 333)]
FITS = {
    "cover landscape": lambda hw: cover(hw, (112, 154)),
    "cover portrait": lambda hw: cover(hw, (154, 98)),
    "cover odd": lambda hw: cover(hw, (57, 33)),
    "longest": lambda hw: longest(hw, long_side=224, multiple=14),
    "longest 1": lambda hw: longest(hw, long_side=129, multiple=1),
}


def dot(height: int, width: int, centre: tuple[float, float], sigma: float) -> np.ndarray:
    """A soft white dot on black whose brightness is centred at (x, y)."""
    y, x = np.mgrid[:height, :width] + 0.5
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(blob * 255).astype(np.uint8)[..., None], 3, -1)


def centroid(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", FITS)
def test_a_dot_lands_where_the_affine_says(source, name):
    fit = FITS[name](source)
    left, top, right, bottom = fit.box
    # off the middle, where a wrong offset and a wrong scale cannot cancel
    centre = (left + 0.3 * (right - left), top + 0.62 * (bottom - top))
    sigma = max(1.5, 2 / fit.scale)
    resized = resize_image(dot(*source, centre, sigma), fit)
    assert resized.shape == (*fit.size, 3)
    expected = fit.affine.numpy() @ [*centre, 1]
    assert np.abs(centroid(resized) - expected[:2]).max() < 0.05


def test_a_wrong_half_pixel_would_be_seen():
    fit = cover((480, 640), (112, 154))
    found = centroid(resize_image(dot(480, 640, (200.0, 300.0), 9.0), fit))
    integers = fit.affine.numpy() @ [199.5, 299.5, 1]  # the other convention, without its own half pixel
    assert np.abs(found - integers[:2]).max() > 0.1


def test_a_round_dot_stays_round():
    fit = longest((200, 610), long_side=308, multiple=14)
    image = resize_image(dot(200, 610, (300.0, 100.0), 12.0), fit)[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    mean = centroid(image[..., None])
    spread_x = (image * (x - mean[0]) ** 2).sum() / image.sum()
    spread_y = (image * (y - mean[1]) ** 2).sum() / image.sum()
    assert spread_x == pytest.approx(spread_y, rel=0.02)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600), st.integers(1, 600))
def test_cover_fills_the_target_and_stays_inside(height, width, h, w):
    fit = cover((height, width), (h, w))
    left, top, right, bottom = fit.box
    assert left >= 0
    assert top >= 0
    assert right <= width
    assert bottom <= height
    assert fit.size == (h, w)
    assert (right - left) * fit.scale == pytest.approx(w, abs=1e-6)
    assert (bottom - top) * fit.scale == pytest.approx(h, abs=1e-6)
    assert min(right - left - width, bottom - top - height, key=abs) == pytest.approx(0, abs=1e-6)  # one side whole


@given(st.integers(20, 5000), st.integers(20, 5000), st.sampled_from([14, 16]), st.integers(5, 40))
def test_longest_crops_less_than_a_patch(height, width, multiple, patches):
    long_side = multiple * patches
    if max(height, width) > 12 * min(height, width) or long_side * min(height, width) < max(height, width) * multiple:
        return
    fit = longest((height, width), long_side=long_side, multiple=multiple)
    assert fit.size[0] % multiple == fit.size[1] % multiple == 0
    assert max(fit.size) == long_side
    for axis, side in enumerate((height, width)):
        assert -1e-6 <= side * fit.scale - fit.size[axis] <= multiple - 1 + 1e-6


@pytest.mark.parametrize(
    ("source", "size"),
    [((1080, 1440), (378, 518)), ((3024, 4032), (378, 518)), ((4032, 3024), (518, 378)), ((392, 518), (392, 518))],
)
def test_longest_known_sizes(source, size):
    assert longest(source, long_side=518, multiple=14).size == size


def test_longest_keeps_a_row_of_patches_that_rounding_would_lose():
    # 391.8 pixels: a plain floor gives 378 and throws 13.8 away
    fit = longest((3918, 5180), long_side=518, multiple=14)
    assert fit.size == (392, 518)


def test_longest_enlarges_tiny_images():
    assert longest((10, 20), long_side=224, multiple=14).size == (112, 224)


def test_longest_refuses_what_has_no_room_for_a_patch():
    with pytest.raises(UserError, match=r"4000x20 .*under 14 pixels"):
        longest((20, 4000), long_side=518, multiple=14)


def test_cover_refuses_an_empty_target():
    with pytest.raises(UserError, match="no pixels"):
        cover((10, 10), (0, 5))


def test_identity_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8)
    fit = longest((56, 70), long_side=70, multiple=14)
    assert np.array_equal(resize_image(image, fit), image)
    assert torch.equal(fit.affine, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("source", SOURCES)
def test_nearest_takes_the_pixel_under_each_target_centre(source):
    fit = cover(source, (41, 60))
    values = np.arange(source[0] * source[1]).reshape(source)
    result = resample_nearest(values, fit)
    inverse = np.linalg.inv(fit.affine.numpy())
    for row, column in [(0, 0), (40, 59), (17, 23), (0, 59)]:  # the slow twin: one pixel at a time
        x, y, _ = inverse @ [column + 0.5, row + 0.5, 1] + 1e-6
        assert result[row, column] == values[min(int(y), source[0] - 1), min(int(x), source[1] - 1)]
    assert torch.equal(resample_nearest(torch.from_numpy(values), fit), torch.from_numpy(result))


def test_nearest_never_mixes_values():
    depth = np.where(np.arange(64)[None] < 31, 1.0, 9.0) * np.ones((48, 1))
    assert set(np.unique(resample_nearest(depth, cover((48, 64), (13, 17))))) == {1.0, 9.0}


def test_nearest_of_a_smaller_map_of_the_same_picture():
    fit = cover((480, 640), (48, 60))
    rows, columns = nearest_indices(fit, (240, 320))
    full_rows, full_columns = nearest_indices(fit, (480, 640))
    assert np.array_equal(rows, full_rows // 2)
    assert np.array_equal(columns, full_columns // 2)


def test_same_picture_knows_turned_maps():
    assert same_picture((240, 320), (480, 640))
    assert same_picture((91, 160), (360, 640))  # a quarter, rounded
    assert not same_picture((640, 480), (480, 640))
    assert not same_picture((480, 480), (480, 640))
