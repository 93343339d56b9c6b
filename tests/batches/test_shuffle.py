"""Orders that are computed: permutations, unlike each other, even, and as fast for twenty million as for twenty."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import numpy as np
import pytest

from manyview.batches.shuffle import Mixture, Passes, Shuffled


@pytest.mark.parametrize("count", [*range(1, 40), 63, 64, 65, 1000, 4097])
def test_every_item_comes_once(count):
    assert sorted(Shuffled(count, 7)[i] for i in range(count)) == list(range(count))


def test_orders_differ_by_key_and_look_random():
    orders = [[Shuffled(1000, seed, 3)[i] for i in range(1000)] for seed in range(30)]
    assert len({tuple(order) for order in orders}) == 30
    assert orders[0] == [Shuffled(1000, 0, 3)[i] for i in range(1000)]
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.12
        assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(order)) < 15  # about 2 by chance


def test_every_item_is_as_likely_in_every_place():
    """Chi-squared of 11 x 11 cells over 4000 orders, against numpy's own permutations as a yardstick."""

    def spread(order_of) -> float:
        cells = np.zeros((11, 11))
        for seed in range(4000):
            cells[np.arange(11), order_of(seed)] += 1
        return float(((cells - 4000 / 11) ** 2 / (4000 / 11)).sum())

    naive = spread(lambda seed: np.random.default_rng(seed).permutation(11))
    assert naive < 160  # 100 degrees of freedom
    assert spread(lambda seed: [Shuffled(11, seed)[i] for i in range(11)]) < 160


def test_a_draw_of_twenty_million_takes_microseconds():
    order = Shuffled(20_000_000, 1)
    started = time.perf_counter()
    drawn = {order[place] for place in range(0, 20_000_000, 20_000)}
    assert time.perf_counter() - started < 0.5  # 1000 draws; about 10 ms
    assert len(drawn) == 1000
    with pytest.raises(IndexError):
        order[20_000_000]


def test_passes_show_everything_before_anything_again():
    passes = Passes(13, 5)
    drawn = [passes[draw] for draw in range(13 * 4)]
    assert [number for _, number in drawn] == [draw // 13 for draw in range(13 * 4)]
    each = [tuple(item for item, number in drawn if number == p) for p in range(4)]
    assert all(sorted(items) == list(range(13)) for items in each)
    assert len(set(each)) == 4
    assert passes[3] == drawn[3]  # whatever was asked before


def test_a_mixture_keeps_its_shares_and_counts_every_source_without_gaps():
    mixture = Mixture([1.0, 3.0, 0.0], 2)
    numbers: dict[int, list[int]] = {}
    for draw in range(4000):
        source, number = mixture[draw]
        numbers.setdefault(source, []).append(number)
    assert {source: len(given) for source, given in numbers.items()} == {0: 1000, 1: 3000}
    assert all(sorted(given) == list(range(len(given))) for given in numbers.values())
    first = Counter(mixture[draw][0] for draw in range(200))
    assert first[1] / 200 == pytest.approx(0.75, abs=0.1)  # mixed throughout, not block by block
    assert Mixture([1e-6, 1.0]).counts[0] == 1
    with pytest.raises(ValueError, match="no mixture"):
        Mixture([0.0, 0.0])
