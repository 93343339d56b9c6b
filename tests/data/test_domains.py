"""Balanced batches of pictures from domains of any size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.data.augment import Augmentation, augment
from manyview.data.domains import DOMAIN, DomainImages
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError


def manifest(folder, count: int, seed: int = 0) -> Manifest:
    folder.mkdir()
    rng, frames = np.random.default_rng(seed), []
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        frames.append(
            Frame(
                dataset="d", scene=f"{index}", frame="0", split="", image=f"{index}.png", width=30, height=20
            )
        )
    return Manifest(frames, folder)


@pytest.fixture
def domains(tmp_path) -> list[list[Manifest]]:
    return [[manifest(tmp_path / "a", 3)], [manifest(tmp_path / "b", 5, 1), manifest(tmp_path / "c", 2, 2)]]


def names(batches: DomainImages, steps: range, **ranks: int) -> list[str]:
    return [name for step in steps for [name] in batches(step, **ranks).names]


def test_every_domain_gives_as_many_and_each_pass_shows_every_picture_once(domains):
    batches = DomainImages(domains, batch=4, size=(16, 16))
    owners = torch.cat([batches(step).signals[DOMAIN].value for step in range(21)])
    assert torch.equal(owners.bincount(), torch.tensor([42, 42]))
    seen = Counter(names(batches, range(21)))
    assert {seen[name] for name in seen if name.startswith("0/")} == {14}
    assert sum(n for name, n in seen.items() if name.startswith("1/")) == 42


def test_ranks_share_the_pictures_of_a_step(domains):
    batches = DomainImages(domains, batch=2, size=(16, 16), crops=1)
    alone = names(batches, range(6))
    together = [
        name
        for step in range(3)
        for rank in (0, 1)
        for name in names(batches, range(step, step + 1), rank=rank, world=2)
    ]
    assert together == alone


def test_a_crop_is_decided_by_its_name(domains):
    batches = DomainImages(domains, batch=2, size=(16, 16), crops=2)
    known: dict[str, torch.Tensor] = {}
    for step in range(60):
        views = batches(step)
        for [name], image in zip(views.names, views.images, strict=True):
            assert torch.equal(known.setdefault(name, image), image)
    assert len({name for name in known if name.startswith("0/")}) == 6
    other = DomainImages(domains, batch=2, size=(16, 16), crops=2, seed=1)(0)
    assert not torch.equal(known[other.names[0][0]], other.images[0])


def test_free_crops_do_not_come_again(domains):
    batches = DomainImages(domains[:1], batch=3, size=(16, 16))
    images = torch.cat([batches(step).images for step in range(4)]).flatten(1)
    assert len(images.unique(dim=0)) == 12


def test_the_memory_is_bounded_and_changes_nothing(domains):
    small = DomainImages(domains, batch=4, size=(16, 16), memory_mb=0.001)
    large = DomainImages(domains, batch=4, size=(16, 16))
    assert all(torch.equal(small(step).images, large(step).images) for step in range(4))
    assert len(small._memory) <= 2


def test_domains_without_pictures_and_batches_too_small(domains, tmp_path):
    with pytest.raises(UserError, match="domain 1 has no picture"):
        DomainImages([domains[0], [Manifest([], tmp_path)]], batch=4, size=(16, 16))
    with pytest.raises(UserError, match=r"raise run\.batch"):
        DomainImages(domains, batch=1, size=(16, 16))


def test_a_domain_of_unreadable_pictures_is_named(tmp_path):
    bad = manifest(tmp_path / "bad", 2)
    for file in (tmp_path / "bad").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="no picture of domain 0 can be read"):
        DomainImages([[bad]], batch=1, size=(16, 16))(0)


def test_each_change_can_be_switched_off_and_on():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    none = {
        "scale": (1.0, 1.0),
        "ratio": (1.0, 1.0),
        "flip": 0,
        "jitter": 0,
        "grey": 0,
        "blur": 0,
        "solarise": 0,
    }

    def picture(**changes) -> np.ndarray:
        return augment(image, (40, 40), Augmentation(**{**none, **changes}), np.random.default_rng(1))

    assert np.array_equal(picture(), image)
    assert np.array_equal(picture(flip=1), image[:, ::-1])
    grey = picture(grey=1)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert np.array_equal(picture(solarise=1)[image >= 128], 255 - image[image >= 128])
    assert picture(blur=1).std() < image.std()
    assert not np.array_equal(picture(jitter=1), image)
