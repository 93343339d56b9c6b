"""Distill3R tells its student's views apart by rows of the view table: the first is the reference, none comes twice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from manyview.recipes.base import preset
from manyview.recipes.distill3r import Distill3R
from manyview.types import Views

ROWS = 1000  # of the published view table


class AskedError(Exception):
    """Carries what the student was asked, so that nothing has to be computed."""


class Student(torch.nn.Module):
    """Stands where the student stands and says which views it was given."""

    def forward(self, images: torch.Tensor, view_ids: Any = None, **_: Any) -> None:
        raise AskedError(view_ids)


@cache
def recipe_with(random_view_ids: bool) -> Distill3R:
    """A recipe whose student only says what it was asked."""
    config = replace(preset(Distill3R, "debug")[1].method, random_view_ids=random_view_ids)
    recipe = Distill3R.build(config)
    recipe.student = Student()
    return recipe


def asked(views: int, *, seed: int = 0, training: bool = True, random_view_ids: bool = True) -> torch.Tensor | None:
    """The view ids (B, V) of one step on two scenes of so many views."""
    recipe = recipe_with(random_view_ids)
    recipe.train(training)
    batch = Views(torch.zeros(2, views, 3, 14, 14))
    with pytest.raises(AskedError) as error:
        recipe.step(batch, progress=0.0, generator=torch.Generator().manual_seed(seed))
    return error.value.args[0]


def test_as_many_views_as_rows_get_every_row_once():
    ids = asked(ROWS)
    assert ids.shape == (2, ROWS)
    for scene in ids.tolist():
        assert scene[0] == 0
        assert sorted(scene) == list(range(ROWS))
    assert ids[0].tolist() != ids[1].tolist()


def test_rows_are_drawn_from_the_whole_table_by_the_generator():
    drawn = torch.stack([asked(3, seed=seed) for seed in range(40)])
    assert (drawn[..., 0] == 0).all()
    assert (drawn[..., 1:] > 0).all()
    assert drawn.min() < ROWS / 10
    assert drawn[..., 1:].min() < ROWS / 10
    assert drawn.max() > ROWS * 9 / 10
    assert torch.equal(asked(3, seed=7), drawn[7])


def test_views_are_in_order_where_nothing_is_drawn():
    assert asked(4, random_view_ids=False) is None
    assert asked(4, training=False) is None
