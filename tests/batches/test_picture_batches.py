"""Balanced batches of pictures from domains of any size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.batches.pictures import DOMAIN, PictureBatches, PictureWish
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError


def manifest(folder, count: int, seed: int = 0) -> Manifest:
    folder.mkdir()
    rng, frames = np.random.default_rng(seed), []
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        frames.append(
            Frame(dataset="d", scene=f"{index}", frame="0", split="", image=f"{index}.png", width=30, height=20)
        )
    return Manifest(frames, folder)


@pytest.fixture
def domains(tmp_path) -> list[list[Manifest]]:
    return [[manifest(tmp_path / "a", 3)], [manifest(tmp_path / "b", 5, 1), manifest(tmp_path / "c", 2, 2)]]


def pictures(domains: list[list[Manifest]], **wish) -> PictureBatches:
    data = [m for manifests in domains for m in manifests]
    owners = [number for number, manifests in enumerate(domains) for _ in manifests]
    return PictureBatches(data, PictureWish(size=(16, 16), **wish), domains=owners)


def names(batches: PictureBatches, indices: range) -> list[str]:
    return [name for index in indices for [name] in batches(index).names]


def test_every_domain_gives_as_many_and_each_pass_shows_every_picture_once(domains):
    batches = pictures(domains, batch=4)
    owners = torch.cat([batches(step).signals[DOMAIN].value for step in range(21)])
    assert torch.equal(owners.bincount(), torch.tensor([42, 42]))
    seen = Counter(names(batches, range(21)))
    assert {seen[name] for name in seen if name.startswith("0/")} == {14}
    assert sum(n for name, n in seen.items() if name.startswith("1/")) == 42


def test_a_crop_is_decided_by_its_name(domains):
    batches = pictures(domains, batch=2, crops=2)
    known: dict[str, torch.Tensor] = {}
    for step in range(60):
        views = batches(step)
        for [name], image in zip(views.names, views.images, strict=True):
            assert torch.equal(known.setdefault(name, image), image)
    assert len({name for name in known if name.startswith("0/")}) == 6
    other = pictures(domains, batch=2, crops=2, seed=1)(0)
    assert not torch.equal(known[other.names[0][0]], other.images[0])


def test_free_crops_do_not_come_again(domains):
    batches = pictures(domains[:1], batch=3)
    images = torch.cat([batches(step).images for step in range(4)]).flatten(1)
    assert len(images.unique(dim=0)) == 12


def test_the_memory_is_bounded_and_changes_nothing(domains):
    small = pictures(domains, batch=4, memory_mb=0.001)
    large = pictures(domains, batch=4)
    assert all(torch.equal(small(step).images, large(step).images) for step in range(4))
    assert len(small.memory) == 0
    assert len(large.memory) == 10


def test_domains_without_pictures_and_batches_too_small(domains, tmp_path):
    with pytest.raises(UserError, match="domain 1 has no picture"):
        pictures([domains[0], [Manifest([], tmp_path)]], batch=4)
    with pytest.raises(UserError, match=r"raise run\.batch"):
        pictures(domains, batch=1)


def test_a_domain_of_unreadable_pictures_is_named(tmp_path):
    bad = manifest(tmp_path / "bad", 2)
    for file in (tmp_path / "bad").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="no picture of domain 0 can be read"):
        pictures([[bad]], batch=1)(0)
