"""The second look at photos that nothing links, as seen from aside: what it finds, at which cost of memory."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from manyview.cameras import keypoints
from manyview.cameras.keypoints import detect, match

SQUEEZE = 2.6
"""How much narrower the second photo shows the wall."""


@pytest.fixture(scope="module")
def wall() -> tuple[np.ndarray, np.ndarray]:
    """A wall of spots from the front, and from far aside."""
    rng = np.random.default_rng(3)
    noise = rng.uniform(0, 255, (60, 90, 3)).astype(np.uint8)
    front = cv2.GaussianBlur(cv2.resize(noise, (720, 480), interpolation=cv2.INTER_CUBIC), (0, 0), 1.5)
    aside = cv2.resize(cv2.GaussianBlur(front, (0, 0), 0.5 * SQUEEZE, sigmaY=0.01), (int(720 / SQUEEZE), 480))
    return front, aside


def right(one: keypoints.Keypoints, two: keypoints.Keypoints, pairs: np.ndarray) -> int:
    """Matches within 4 pixels of the truth."""
    off = one.uv[pairs[:, 0]] * [int(720 / SQUEEZE) / 720, 1] - two.uv[pairs[:, 1]]
    return int((np.linalg.norm(off, axis=1) < 4).sum())


def test_seen_from_aside_finds_what_the_first_look_does_not(wall):
    first = [detect(photo) for photo in wall]
    second = [detect(photo, tilted=150) for photo in wall]
    assert all(len(one) <= 10 * 160 for one in second)
    before, after = (match(*pair, tilted=tilted) for pair, tilted in ((first, False), (second, True)))
    assert right(*second, after) > 30 > 2 * right(*first, before)
    assert right(*second, after) > 0.8 * len(after)


def test_blocks_bound_memory_and_change_nothing(wall, monkeypatch):
    pair = [detect(photo, tilted=60) for photo in wall]
    whole = match(*pair, tilted=True)
    monkeypatch.setattr(keypoints, "BLOCK", 7)
    sizes = []
    nearest = keypoints._nearest
    monkeypatch.setattr(keypoints, "_nearest", lambda one, two, few: sizes.append(len(one)) or nearest(one, two, few))
    assert np.array_equal(match(*pair, tilted=True), whole)
    assert len(whole)
    assert sizes[0] % 7  # the last block is a smaller one
    few = detect(np.zeros((60, 80, 3), np.uint8), tilted=60)
    assert match(pair[0], few, tilted=True).shape == (0, 2)
