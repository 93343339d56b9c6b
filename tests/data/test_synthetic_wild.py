"""Worlds beyond rooms: full of things of every size, the same for a seed, cameras in the open, exact like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.data.synthetic.furnishing import build
from manyview.data.synthetic.photographs import read_photographs
from manyview.data.synthetic.scene import render_scene
from manyview.data.synthetic.streams import scene_of
from manyview.data.synthetic.wild import KINDS
from manyview.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_world_and_another_one_another(kind):
    first, again, other = (render_scene(seed, views=2, size=(24, 32), kind=kind) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.depth, again.depth)
    assert not torch.equal(first.depth, other.depth)


@pytest.mark.parametrize("kind", KINDS)
def test_things_have_every_size_and_cameras_see_several(kind):
    world = build(11, kind)
    spans = sorted(max(abs(s.matrix[:, :3]).sum(1)) for s in world.parts)
    assert spans[-1] > 5 * spans[0]
    counts, near = [], []
    for seed in range(8):
        scene = render_scene(seed, views=3, size=(48, 64), kind=kind)
        counts.append(len(scene.depth.flatten().log2().floor().unique()))
        near.append(float((scene.depth < 0.1).float().mean()))
        assert scene.depth.isfinite().all()
        assert scene.images.std() > 0.03
    assert sum(counts) / 8 > 2.5  # octaves of depth
    assert sum(near) / 8 < 0.05


def test_streams_of_different_seeds_and_numbers_are_different_scenes():
    asked = [(seed, number) for seed in (0, 1) for number in (0, 1)]
    pictures = [scene_of("abstract", *which, views=1, size=(16, 16)).images for which in asked]
    for i, a in enumerate(pictures):
        assert all(not torch.equal(a, b) for b in pictures[:i])


def test_the_users_pictures_are_on_the_surfaces(tmp_path):
    """Three flat pictures: their colours, and no others, are on what is covered; geometry stays."""
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (90, 70), colour).save(tmp_path / f"{name}.png")
    shown = read_photographs(str(tmp_path))
    places = torch.rand(3, 500) * 6 - 3
    colours = shown.colour(places[0], places[1], torch.ones(500), torch.rand(500), torch.rand(500) * 2)
    assert torch.allclose(colours.sum(0), torch.ones(500), atol=1e-4)
    assert (colours.amax(0) > 0.99).all()
    assert (colours.argmax(0).bincount(minlength=3) > 50).all()
    plain, covered = (
        render_scene(2, views=2, size=(32, 48), kind="abstract", textures=folder) for folder in (None, str(tmp_path))
    )
    assert torch.equal(plain.depth, covered.depth)
    assert (plain.images - covered.images).abs().mean() > 0.03


def test_a_picture_seen_from_afar_is_its_mean(tmp_path):
    pixels = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(np.repeat(pixels[..., None], 3, -1)).save(tmp_path / "checks.png")
    shown, places = read_photographs(str(tmp_path)), torch.rand(2, 200)
    near, far = (shown.colour(*places, torch.ones(200), torch.zeros(200), torch.full((200,), b)) for b in (0.0, 1.0))
    assert near.std() > 0.1
    assert torch.allclose(far, torch.full_like(far, 0.5), atol=0.01)


def test_a_folder_without_pictures_is_said(tmp_path):
    with pytest.raises(UserError, match="name a folder with photos"):
        render_scene(1, views=1, size=(16, 16), kind="abstract", textures=str(tmp_path))
