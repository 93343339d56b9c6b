"""Drawn people: the same seed, the same pixels; every part is drawn, and nothing is drawn twice."""

from __future__ import annotations

import numpy as np
import pytest

from manyview.data.manifest import Manifest
from manyview.data.synthetic.figures import PARTS, render_figures, write_figures
from manyview.errors import UserError
from manyview.images.maps import read_labels
from manyview.images.reading import read_image


def test_a_seed_is_a_picture():
    picture, parts = render_figures(3, (48, 64))
    again, _ = render_figures(3, (48, 64))
    assert picture.shape == (48, 64, 3)
    assert parts.shape == (48, 64)
    assert np.array_equal(picture, again)
    assert not np.array_equal(picture, render_figures(4, (48, 64))[0])


def test_every_part_is_somewhere_and_none_is_everything():
    parts = np.stack([render_figures(seed, (64, 64))[1] for seed in range(20)])
    shares = np.bincount(parts.flatten(), minlength=len(PARTS)) / parts.size
    assert len(shares) == len(PARTS)
    assert (shares > 0.001).all()
    assert 0.3 < shares[0] < 0.95


def test_colour_alone_does_not_tell_a_part():
    """The mean colours of two parts differ less between parts than one part's between pictures."""
    means = []
    for seed in range(20):
        picture, parts = render_figures(seed, (64, 64))
        means.append([picture[parts == p].mean(0) if (parts == p).any() else np.full(3, np.nan) for p in (2, 5)])
    torso, leg = np.array(means).transpose(1, 0, 2)
    assert np.abs(np.nanmean(torso, 0) - np.nanmean(leg, 0)).max() < np.nanstd(torso, 0).max()


def test_written_pictures_are_kept_and_added_to(tmp_path):
    Manifest.load(write_figures(tmp_path, count=2, size=(32, 32)))
    stamp = (tmp_path / "images" / "000000.png").stat().st_mtime_ns
    data = Manifest.load(write_figures(tmp_path, count=3, size=(32, 32)))
    assert (tmp_path / "images" / "000000.png").stat().st_mtime_ns == stamp
    assert data.info["classes"] == list(PARTS)
    assert len(data.scenes()) == 3
    picture, parts = render_figures(2, (32, 32))
    assert np.array_equal(read_image(data.path(data[2].image)), picture)
    assert np.array_equal(read_labels(data.path(data[2].labels)), parts)
    assert not list(tmp_path.rglob("*.partial"))


def test_other_seeds_are_other_pictures_and_none_is_no_data(tmp_path):
    one, two = (Manifest.load(write_figures(tmp_path / f"{s}", count=1, size=(32, 32), seed=s)) for s in (1, 2))
    assert not np.array_equal(*(read_image(data.path(data[0].image)) for data in (one, two)))
    with pytest.raises(UserError, match="at least one"):
        write_figures(tmp_path / "none", count=0)
