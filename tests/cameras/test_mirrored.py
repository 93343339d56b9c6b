"""A mirrored photo of something symmetric matches, and is refused for matching better when it is turned over."""

from __future__ import annotations

import numpy as np
import pytest

from manyview.cameras import solve as solving
from manyview.cameras.keypoints import detect, match, mirrored
from manyview.cameras.links import TILTED_LEAST, Link, Unlinked
from manyview.cameras.place import View
from manyview.cameras.solve import solve
from symmetric_wall import FOCAL, SIZE, symmetric_wall, wall_seen


def photos_and_views(turned: int | None) -> tuple[list[np.ndarray], list[View]]:
    """Four photos of a wall, one of them turned over."""
    photos = [wall_seen(symmetric_wall(), shift)[0] for shift in (-0.12, -0.04, 0.04, 0.12)]
    if turned is not None:
        photos[turned] = np.ascontiguousarray(photos[turned][:, ::-1])
    return photos, [View(SIZE, np.ones(SIZE), np.eye(3), FOCAL / max(SIZE), focal_known=True)] * 4


def test_keypoints_of_a_mirrored_photo_are_those_of_the_photo_turned_over():
    photo, _ = wall_seen(symmetric_wall(), 0.05)
    turned = detect(np.ascontiguousarray(photo[:, ::-1]))
    ours = mirrored(detect(photo), SIZE[1])
    pairs = match(ours, turned)
    near = np.linalg.norm(ours.uv[pairs[:, 0]] - turned.uv[pairs[:, 1]], axis=1) < 1
    assert near.sum() > 0.8 * len(turned)
    assert len(match(detect(photo), turned)) < 0.8 * near.sum()


def test_a_mirrored_photo_of_a_symmetric_wall_is_placed_nowhere(monkeypatch):
    photos, views = photos_and_views(turned=2)
    solved = solve(views, lambda: photos)
    assert [camera.registered for camera in solved.cameras] == [True, True, False, True]
    over = [one for one in solved.unlinked if one.why == "mirrored"]
    assert {(one.i, one.j) for one in over} == {(0, 2), (1, 2), (2, 3)}
    assert min(one.agreeing for one in over) >= 15
    monkeypatch.setattr(solving, "unless_mirrored", lambda one, *_, **__: one)
    assert solve(views, lambda: photos).cameras[2].registered  # it fits by what is symmetric


def test_true_photos_of_a_symmetric_wall_keep_their_links():
    photos, views = photos_and_views(turned=None)
    solved = solve(views, lambda: photos)
    assert all(camera.registered for camera in solved.cameras)
    assert not [one for one in solved.unlinked if one.why == "mirrored"]


@pytest.mark.parametrize("turned", [None, 1])
def test_links_of_photos_as_seen_from_aside_are_held_against_their_mirror_images(turned):
    photos, views = photos_and_views(turned)
    aside = [detect(photo, tilted=150) for photo in photos[:2]]
    seen = [solving._photo(view, points, True) for view, points in zip(views, aside, strict=False)]
    look = solving.Look(seen, {(0, 1): match(*aside, tilted=True)}, TILTED_LEAST, aside, tilted=True)
    (found,) = solving._links(look, views, [FOCAL] * 2)
    if turned is None:
        assert isinstance(found, Link)
    else:
        assert isinstance(found, Unlinked)
        assert found.why == "mirrored"
        assert found.agreeing >= TILTED_LEAST
