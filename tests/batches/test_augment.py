"""Crops, mirrors and colours against Pillow and plain formulas, their ranges, and how often they come."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from manyview.batches.augment import (
    Augmentation,
    Change,
    blurred,
    cropped,
    cropped_map,
    draw_change,
    only_colours,
    recoloured,
)
from manyview.batches.resampling import cropped_one, cropped_together

NONE = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0, jitter=0, grey=0, blur=0, solarise=0)


def picture(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """Smooth, with hard edges and flat parts: (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    pixels[: height // 4] = rng.integers(0, 256, 3)
    pixels[-5:, : width // 2] = 255
    return pixels


def one(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels)[None]


def image(pixels: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return one(pixels).permute(0, 3, 1, 2).float() / 255


def levels(images: torch.Tensor) -> np.ndarray:
    """(H, W, 3) float, 0 to 255."""
    return (255 * images[0]).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(24, 24), (24, 40), (60, 80)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.13, 0.31, 0.77, 0.94), (0.4, 0.5, 0.55, 0.62)])
def test_a_crop_is_pillow_s(box, size):
    pixels = picture()
    inside = (box[0] * 56, box[1] * 40, box[2] * 56, box[3] * 40)
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]  # mode F: not rounded
    parts = [np.asarray(c.resize(size[::-1], Image.Resampling.BICUBIC, box=inside)) for c in channels]
    expected = np.stack(parts, -1).clip(0, 255)
    for mirrored in (False, True):
        made = levels(cropped(one(pixels), [(40, 56)], [Change(box, mirrored)], size))
        assert np.abs(made - (expected[:, ::-1] if mirrored else expected)).max() < 0.02


def test_a_batch_of_unlike_pictures_is_each_alone_and_padding_never_shows():
    sources = [(40, 56), (64, 33), (17, 64)]
    pixels = [picture(*source, seed=i) for i, source in enumerate(sources)]
    together = np.full((3, 64, 64, 3), 255, np.uint8)
    for row, (each, (h, w)) in enumerate(zip(pixels, sources, strict=True)):
        together[row, :h, :w] = each
    rng = np.random.default_rng(3)
    changes = [draw_change(Augmentation(), source, (32, 32), rng) for source in sources]
    batch = cropped(torch.from_numpy(together), sources, changes, (32, 32))
    for row in range(3):
        alone = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
        alone[0, : sources[row][0], : sources[row][1]] = torch.from_numpy(pixels[row])
        same = cropped(alone, sources[row : row + 1], changes[row : row + 1], (32, 32))[0]
        assert torch.equal(batch[row], same)


@pytest.mark.parametrize("seed", range(6))
def test_a_crop_made_in_blocks_is_the_one_made_of_all_pixels(seed):
    """What a CPU does, beside what a GPU does: sources and crops of any size, mirrored too."""
    rng = np.random.default_rng(seed)
    (height, width), size = rng.integers(3, 150, 2).tolist(), tuple(rng.integers(1, 130, 2).tolist())
    pixels = torch.from_numpy(rng.integers(0, 256, (height, width, 3), np.uint8))
    first = torch.from_numpy(rng.uniform(0, 0.5, 2) * (height, width)).float()
    step = torch.from_numpy(rng.uniform(0.1, 0.5, 2) * (height, width)).float()
    if seed % 2:
        first[1], step[1] = first[1] + step[1], -step[1]
    padded = torch.full((1, height + 9, width + 5, 3), 255, dtype=torch.uint8)
    padded[0, :height, :width] = pixels
    sides = torch.tensor([[height, width]]).float()
    together = cropped_together(padded, sides, first[None], step[None], size)[0]
    alone = cropped_one(pixels, tuple(first.tolist()), tuple(step.tolist()), size)
    assert alone.shape == together.shape == (3, *size)
    torch.testing.assert_close(alone, together, atol=3e-5, rtol=0)


def test_the_whole_picture_at_its_own_size_is_itself():
    pixels = picture()
    assert torch.equal(cropped(one(pixels), [(40, 56)], [Change()], (40, 56)), image(pixels))


def test_the_crop_of_a_map_is_that_of_the_picture():
    rows, columns = np.mgrid[:60, :80]
    pixels = np.stack([rows, columns, rows], -1).astype(np.uint8)
    for seed in range(6):
        change = draw_change(Augmentation(scale=(0.3, 0.9)), (60, 80), (24, 32), np.random.default_rng(seed))
        made = levels(cropped(one(pixels), [(60, 80)], [change], (24, 32)))
        assert np.abs(cropped_map(columns, change, (24, 32)) - made[..., 1]).max() <= 3
        assert np.abs(cropped_map(rows, change, (24, 32)) - made[..., 0]).max() <= 3


@pytest.mark.parametrize(
    ("kind", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
@pytest.mark.parametrize("factor", [0.6, 0.93, 1.4])
def test_brightness_contrast_and_saturation_are_pillow_s(kind, enhance, factor):
    pixels = picture()
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[kind] = factor
    made = levels(recoloured(image(pixels), [Change(factors=tuple(factors))]))
    assert np.abs(made - np.asarray(enhance(Image.fromarray(pixels)).enhance(factor), float)).max() < 1.6


@pytest.mark.parametrize("turn", [-0.1, 0.03, 0.1, 0.5])
def test_hue_turns_by_a_share_of_the_circle(turn):
    pixels = picture()
    made = levels(recoloured(image(pixels), [Change(factors=(1.0, 1.0, 1.0, turn))]))
    for y, x in [(2, 3), (20, 30), (15, 50), (39, 2), (33, 40)]:
        h, s, v = colorsys.rgb_to_hsv(*(pixels[y, x] / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v))
        assert np.abs(made[y, x] - expected).max() < 0.01


def test_grey_gamma_and_inverted_highlights():
    pixels = picture()
    made = levels(recoloured(image(pixels), [Change(grey=True)]))
    assert np.abs(made - np.asarray(ImageOps.grayscale(Image.fromarray(pixels)), float)[..., None]).max() < 1
    assert np.ptp(made, axis=-1).max() == 0
    made = levels(recoloured(image(pixels), [Change(factors=(1.0, 1.0, 1.0, 0.0), gamma=1.7)]))
    assert np.abs(made - 255 * (pixels / 255) ** 1.7).max() < 0.01
    made = levels(recoloured(image(pixels), [Change(solarised=True)]))
    assert np.abs(made - np.asarray(ImageOps.solarize(Image.fromarray(pixels), 128), float)).max() < 0.01
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, -1).repeat(2, 0)
    made = levels(recoloured(image(ramp), [Change(solarised=True)]))[0, :, 0].round()
    assert made.tolist() == [level if level < 128 else 255 - level for level in range(256)]


@pytest.mark.parametrize("sigma", [0.1, 0.8, 5.0])
def test_the_blur_is_a_gaussian_of_nine_taps(sigma):
    import cv2

    pixels = picture()
    made = levels(recoloured(image(pixels), [Change(sigma=sigma)]))
    assert np.abs(made - cv2.GaussianBlur(pixels.astype(np.float32), (9, 9), sigma)).max() < 0.05
    two = blurred(torch.cat([image(pixels)] * 2), torch.tensor([sigma, 3.0]))
    assert np.abs(levels(two[:1]) - made).max() < 1e-3
    if sigma > 1:
        soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)), float)
        assert np.abs(made - soft).mean() < np.abs(made - pixels).mean()


def test_colours_are_applied_in_the_drawn_order_and_only_where_they_are_drawn():
    pixels = picture()
    factors = (0.7, 1.4, 0.8, 0.05)
    orders = {tuple(np.random.default_rng(seed).permutation(4).tolist()) for seed in range(60)}
    results = [recoloured(image(pixels), [Change(factors=factors, order=order)]) for order in orders]
    assert len(orders) > 15
    assert all(not torch.equal(results[0], other) for other in results[1:])
    brightened = Image.fromarray(pixels)
    brightened = ImageEnhance.Brightness(brightened).enhance(0.7)
    brightened = ImageEnhance.Contrast(brightened).enhance(1.4)
    brightened = ImageEnhance.Color(brightened).enhance(0.8)
    made = levels(recoloured(image(pixels), [Change(factors=(0.7, 1.4, 0.8, 0.0))]))
    assert np.abs(made - np.asarray(brightened, float)).max() < 4
    both = recoloured(torch.cat([image(pixels)] * 2), [Change(), Change(factors=factors, sigma=2.0)])
    assert torch.equal(both[0], image(pixels)[0])
    assert torch.equal(both[1], recoloured(image(pixels), [Change(factors=factors, sigma=2.0)])[0])


def drawn(config: Augmentation, count: int = 3000, source=(90, 96), size=(32, 32)) -> list[Change]:
    return [draw_change(config, source, size, np.random.default_rng([1, i])) for i in range(count)]


def test_ranges_and_probabilities_are_the_config_s():
    config = Augmentation()
    changes = drawn(config)
    shares = np.array([(c.box[2] - c.box[0]) * (c.box[3] - c.box[1]) for c in changes])
    ratios = np.array([(c.box[2] - c.box[0]) * 96 / ((c.box[3] - c.box[1]) * 90) for c in changes])
    assert 0.4 <= shares.min() < 0.42
    assert 0.95 < shares.max() <= 1.0001
    assert 0.749 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.334
    assert min(min(c.box) for c in changes) >= 0
    assert max(max(c.box) for c in changes) <= 1.0001
    for name, expected in {"mirrored": 0.5, "grey": 0.2, "solarised": 0.2}.items():
        assert np.mean([getattr(c, name) for c in changes]) == pytest.approx(expected, abs=0.03), name
    sigmas = np.array([c.sigma for c in changes if c.sigma])
    assert len(sigmas) / 3000 == pytest.approx(0.2, abs=0.03)
    assert (sigmas >= 0.1).all()
    assert (sigmas <= 5).all()
    assert sigmas.mean() == pytest.approx(2.55, abs=0.3)
    factors = np.array([c.factors for c in changes if c.factors])
    assert len(factors) / 3000 == pytest.approx(0.8, abs=0.03)
    assert np.abs(factors - [1, 1, 1, 0]).max(0) == pytest.approx([0.4, 0.4, 0.2, 0.1], rel=0.02)
    assert {c.gamma for c in changes} == {1.0}


def test_each_change_can_be_switched_off_and_on():
    assert set(drawn(NONE, 20, source=(40, 40))) == {Change()}
    assert all(c.mirrored for c in drawn(replace(NONE, flip=1), 20))
    assert all(c.grey for c in drawn(replace(NONE, grey=1), 20))
    assert all(c.sigma for c in drawn(replace(NONE, blur=1), 20))
    assert all(c.solarised for c in drawn(replace(NONE, solarise=1), 20))
    assert all(c.factors for c in drawn(replace(NONE, jitter=1), 20))
    colours = drawn(only_colours(0.5, hue=0.1, gamma=0.5), 500)
    assert all(not (c.grey or c.sigma or c.solarised or c.mirrored) for c in colours)
    assert 0.45 < max(np.log(c.gamma) for c in colours) <= 0.5
    assert 0.45 < max(abs(c.factors[0] - 1) for c in colours) <= 0.5


def test_a_picture_too_narrow_for_any_crop_gives_its_largest_centred_part():
    changes = drawn(Augmentation(scale=(0.9, 1.0)), 20, source=(20, 400), size=(32, 64))
    for change in changes:
        assert change.box == pytest.approx((0.45, 0.0, 0.55, 1.0))
