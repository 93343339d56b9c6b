"""Colours of a distillation picture: highlights inverted above half, hues turned by up to a tenth of the wheel."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch

from manyview.batches import augment
from manyview.batches.augment import Augmentation, draw_change

OFF: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarise": 0.0}


def recoloured(pixels: np.ndarray, *, seed: int = 0, **settings: Any) -> np.ndarray:
    """(H, W, 3) uint8 after the colour changes that are asked for and no other."""
    config = Augmentation(**{**OFF, **settings})
    change = draw_change(config, pixels.shape[:2], pixels.shape[:2], np.random.default_rng(seed))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    changed = augment.recoloured(images, [change])[0].permute(1, 2, 0)
    return (255 * changed).round().byte().numpy()


def flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((4, 5, 3), (red, green, blue), np.uint8)


def hue(pixels: np.ndarray) -> float:
    """Of a flat picture, in turns of the wheel in [-0.5, 0.5)."""
    red, green, blue = pixels.reshape(-1, 3)[0] / 255
    return (colorsys.rgb_to_hsv(red, green, blue)[0] + 0.5) % 1 - 0.5


def test_without_any_change_the_picture_stays():
    picture = np.random.default_rng(1).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert np.array_equal(recoloured(picture), picture)


def test_what_is_brighter_than_half_is_inverted():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    expected = [value if value < 128 else 255 - value for value in range(256)]
    assert recoloured(ramp, solarise=1.0)[0, :, 1].tolist() == expected


def test_hues_turn_by_up_to_a_tenth_of_the_wheel_both_ways():
    turns = [hue(recoloured(flat(200, 40, 40), seed=seed, jitter=1.0, strength=(0, 0, 0, 0.1))) for seed in range(300)]
    assert max(map(abs, turns)) < 0.1 + 0.01  # a step of eight bits
    assert max(turns) > 0.09
    assert min(turns) < -0.09
    assert np.std(turns) == pytest.approx(0.2 / 12**0.5, rel=0.1)  # uniform
    assert np.mean(turns) == pytest.approx(0, abs=0.01)


def test_a_hue_turns_alike_wherever_it_is_on_the_wheel():
    for seed in range(20):
        change = {"seed": seed, "jitter": 1.0, "strength": (0, 0, 0, 0.1)}
        turn = hue(recoloured(flat(200, 40, 40), **change))
        green = recoloured(flat(40, 200, 40), **change).reshape(-1, 3)[0] / 255
        assert colorsys.rgb_to_hsv(*green)[0] - 1 / 3 == pytest.approx(turn, abs=0.012)


@pytest.mark.parametrize(("place", "most"), [(0, 0.4), (1, 0.4), (2, 0.2)])
def test_brightness_contrast_and_saturation_change_by_their_strengths(place, most):
    """Brightness scales everything, contrast the distance from the mean grey, saturation that from the pixel's grey."""
    picture = flat(120, 90, 60)
    picture[2:] = (60, 90, 120)
    grey = 0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]
    still = [0, round(grey.mean()), grey[0, 0]][place]
    strength = tuple(0.4 * (i == place) if place < 2 else 0.2 * (i == place) for i in range(4))
    factors = []
    for seed in range(200):
        changed = recoloured(picture, seed=seed, jitter=1.0, strength=strength)
        factors.append((float(changed[0, 0, 0]) - still) / (float(picture[0, 0, 0]) - still))
    assert min(factors) == pytest.approx(1 - most, abs=0.06)
    assert max(factors) == pytest.approx(1 + most, abs=0.06)
    assert np.std(factors) == pytest.approx(2 * most / 12**0.5, rel=0.15)


def test_each_change_has_its_own_probability():
    picture = np.random.default_rng(2).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for name, most in (("grey", 0.2), ("solarise", 0.2), ("blur", 0.2), ("jitter", 0.8)):
        changed = [not np.array_equal(recoloured(picture, seed=seed, **{name: most}), picture) for seed in range(400)]
        assert np.mean(changed) == pytest.approx(most, abs=0.06), name


def test_grey_is_grey_and_keeps_the_brightness():
    changed = recoloured(flat(200, 100, 50), grey=1.0).reshape(-1, 3)[0].astype(float)
    assert changed[0] == changed[1] == changed[2] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)
