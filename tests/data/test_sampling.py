"""Windows of consecutive frames of one scene."""

from __future__ import annotations

import pytest

from manyview.data.manifest import Frame, Manifest
from manyview.data.sampling import windows
from manyview.errors import UserError


def manifest(**scenes: int) -> Manifest:
    frames = [
        Frame("set", scene, f"img{i}", "", f"{scene}/img{i}.png", 8, 8)
        for scene, count in scenes.items()
        for i in range(count)
    ]
    return Manifest(reversed(frames), ".")


@pytest.mark.parametrize(("count", "views", "step"), [(10, 4, 2), (10, 4, 4), (12, 3, 1), (11, 20, 5), (4, 4, 9)])
def test_windows_are_consecutive_and_equal_to_naive_counting(count, views, step):
    m = manifest(room=count)
    names = [[m[i].frame for i in window] for window in windows(m, views, step)]
    every = [f"img{i}" for i in range(count)]
    starts = [s for s in range(0, count, step) if s + views <= count] or [0]
    assert names == [every[s : s + views] for s in starts]


def test_windows_never_mix_scenes():
    m = manifest(a=5, b=2, c=7)
    found = windows(m, 3, 2)
    assert all(len({m[i].scene for i in window}) == 1 for window in found)
    assert [len(window) for window in found] == [3, 3, 2, 3, 3, 3]


def test_one_frame_gives_one_window_of_one():
    assert windows(manifest(a=1), 20, 10) == [[0]]
    assert windows(manifest(), 4, 1) == []


@pytest.mark.parametrize(("views", "step"), [(0, 1), (3, 0), (-1, 1)])
def test_nonsense_is_refused(views, step):
    with pytest.raises(UserError, match="at least 1"):
        windows(manifest(a=3), views, step)
