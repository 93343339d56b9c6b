"""Depth tied to shared points: a known bend is taken out, and wrong or few points do no harm."""

from __future__ import annotations

import numpy as np
import pytest

from manyview.cameras.fit import fitted

HEIGHT, WIDTH = 60, 80


def wall(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True depth (H, W), the same bent as networks bend it, and pixels of points on it."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    true = 2 + 0.5 * np.sin(u / 15) + v / HEIGHT
    bent = true * np.exp(0.3 * (u / WIDTH - 0.5) + 0.15 * np.cos(v / 12))
    return true, bent, rng.uniform((0, 0), (WIDTH, HEIGHT), (200, 2))


def error(depth: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean(np.abs(depth / true - 1)))


def at(depth: np.ndarray, uv: np.ndarray) -> np.ndarray:
    column, row = uv.astype(int).T
    return depth[row, column]


@pytest.mark.parametrize("wrong", [0, 30])
def test_a_bend_is_taken_out_though_some_points_are_wrong(wrong):
    rng = np.random.default_rng(0)
    true, bent, uv = wall(rng)
    points = at(true, uv)
    points[:wrong] *= rng.uniform(0.3, 3, wrong)
    assert error(bent, true) > 0.1
    assert error(fitted(bent, uv, points), true) < (0.07 if wrong else 0.04)


def test_points_of_another_place_bend_nothing_far():
    true, _, uv = wall(np.random.default_rng(0))
    shuffled = np.random.default_rng(1).permutation(at(true, uv))
    assert error(fitted(true, uv, shuffled), true) < 0.25


def test_few_points_change_nothing_and_holes_stay():
    true, bent, uv = wall(np.random.default_rng(0))
    assert fitted(bent, uv[:19], at(true, uv[:19])) is bent
    bent[:10, :10] = 0
    found = fitted(bent, uv, at(true, uv))
    assert (found[:10, :10] == 0).all()
    assert (found[10:] > 0).all()
