"""Exposure, white balance and gamma of frames: what a number means, on disk, in batches and before a probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.batches.augment import Change, recoloured
from manyview.batches.sequences import Sequences, SequenceWish
from manyview.data.manifest import Frame, Manifest
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.evaluation.tokens import from_colours, read_images
from manyview.images.exposure import Exposure, Exposures, exposed

GREY = (100, 100, 100)


def test_a_value_gets_its_exponent_and_then_its_gain():
    pixels = np.array([[[0, 128, 255], [255, 64, 32]]], np.uint8)
    assert (exposed(pixels, Exposure()) == pixels).all()
    changed = exposed(pixels, Exposure((1.5, 0.5, 1.0), 2.0))
    expected = np.clip(255 * np.array([1.5, 0.5, 1.0]) * (pixels / 255) ** 2, 0, 255)
    assert np.abs(changed - expected).max() <= 0.5
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    floats = recoloured(images, [Change(gains=(1.5, 0.5, 1.0), gamma=2.0)])[0].permute(1, 2, 0)  # as batches do it
    assert (floats * 255 - torch.from_numpy(expected)).abs().max() < 1e-3


def test_draws_fill_their_ranges_and_a_name_draws_the_same():
    exposures, rng = Exposures(0.35, 0.5), np.random.default_rng(0)
    drawn = [exposures.draw(rng) for _ in range(400)]
    gains, exponents = np.array([of.gains for of in drawn]), np.log([of.gamma for of in drawn])
    for values, centre, reach in ((gains, 1.0, 0.35), (exponents, 0.0, 0.5)):
        assert np.abs(values - centre).max() <= reach
        assert values.min() < centre - 0.9 * reach
        assert values.max() > centre + 0.9 * reach
    assert np.abs(np.corrcoef(gains.T)[0, 1]) < 0.2  # channels for themselves: white balance too
    assert exposures.of("a.png", 1) == exposures.of("a.png", 1) != exposures.of("b.png", 1)
    assert exposures.of("a.png", 1) != exposures.of("a.png", 2)
    assert not Exposures()
    for wrong in ({"gain": 1.0}, {"gain": -0.1}, {"gamma": -1.0}, {"gamma": float("nan")}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Exposures(**wrong)


@pytest.fixture
def greys(tmp_path) -> Manifest:
    for place in range(6):
        Image.new("RGB", (16, 16), GREY).save(tmp_path / f"{place}.png")
    return Manifest([Frame("x", "a", str(i), "train", f"{i}.png", 16, 16) for i in range(6)], tmp_path)


@pytest.mark.parametrize("crop", ["resize", "cover", "random"])
def test_every_frame_of_a_batch_has_its_own_light_or_none_has(greys, crop):
    wish = SequenceWish(size=(8, 8), frames=12, views=(4, 4), single=0.0, crop=crop, flip=False)
    plain, lit = (Sequences([greys], replace(wish, gain=gain, gamma=gamma)) for gain, gamma in ((0, 0), (0.35, 0.5)))
    assert (plain(0).images * 255 - 100).abs().max() < 0.5
    assert plain(0).names == lit(0).names
    colours = torch.cat([lit(index).images.mean((-1, -2)).flatten(0, 1) for index in range(20)]) * 255
    lowest, highest = (255 * factor * (100 / 255) ** gamma for factor, gamma in ((0.65, np.e**0.5), (1.35, np.e**-0.5)))
    assert lowest - 1 < colours.min() < 60
    assert 140 < colours.max() < highest + 1
    assert len({tuple(of.tolist()) for of in colours.round().int()}) > 0.9 * len(colours)


def test_rooms_are_written_in_other_light_and_nothing_else_of_them_changes(tmp_path):
    choices = {"scenes": 1, "views": 3, "size": (32, 44), "seed": 5}
    plain, lit = (
        Manifest.load(write_scenes(tmp_path / name, **choices, **more))
        for name, more in (("plain", {}), ("lit", {"gain": 0.35, "gamma": 0.5}))
    )
    for frame in range(3):
        (before, after), depths = (
            [np.asarray(Image.open(of.path(getattr(of[frame], field)))) for of in (plain, lit)]
            for field in ("image", "depth")
        )
        assert (depths[0] == depths[1]).all()
        assert (before != after).mean() > 0.5
        order = np.argsort(before[..., 0].ravel(), kind="stable")
        assert (np.diff(after[..., 0].ravel()[order].astype(int)) >= 0).all()  # one curve for the whole channel
    with pytest.raises(UserError, match=r"made with gain=None, not 0\.35"):
        write_scenes(tmp_path / "plain", **choices, gain=0.35)
    with pytest.raises(UserError, match="gain is 2"):
        write_scenes(tmp_path / "more", **choices, gain=2.0)


def test_frames_of_a_probe_change_always_in_the_same_way(greys):
    plain, _ = read_images(greys, (16, 16), range(6))
    lit, _ = read_images(greys, (16, 16), range(6), exposures=Exposures(0.35, 0.5))
    again, _ = read_images(greys, (16, 16), [3], exposures=Exposures(0.35, 0.5))
    assert (plain == 100).all()
    assert len({tuple(of[0, 0].tolist()) for of in lit}) == 6
    assert (lit[3] == again[0]).all()


def test_colours_and_positions_are_what_they_are_called_and_balanced_ones_do_not_mind_gains():
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 0.5
    tokens = from_colours(8)(images)
    assert tokens["colours"].shape == (2, 6, 5)
    torch.testing.assert_close(tokens["colours"][1, 4, :3], images[1, :, 8:, 8:16].mean((1, 2)))
    places = torch.tensor([[x, y] for y in (-0.5, 0.5) for x in (-2 / 3, 0.0, 2 / 3)])
    torch.testing.assert_close(tokens["colours"][0, :, 3:], places)
    lit = from_colours(8)(images * torch.tensor([1.9, 0.5, 1.2])[:, None, None])
    torch.testing.assert_close(lit["balanced"], tokens["balanced"])
    assert (lit["colours"] - tokens["colours"]).abs().max() > 0.1
