"""k-medoids: the optimum of small sets by brute force, the definition of PAM's end, ties without chance."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from manyview.pipelines.medoids import euclidean, k_medoids


def cost(distances, chosen):
    return distances[:, list(chosen)].min(1).sum()


@pytest.mark.parametrize("seed", range(6))
def test_groups_that_are_there_are_found_as_brute_force_finds_them(seed):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(4, 3)) * 20
    sizes = (7, 5, 4, 3)  # of two things, either is the medoid
    label = np.repeat(np.arange(4), sizes)
    rows = centres[label] + generator.normal(size=(19, 3))
    shuffled = generator.permutation(19)
    distances = euclidean(rows[shuffled])
    found = k_medoids(distances, 4)
    best = min(combinations(range(19), 4), key=lambda chosen: cost(distances, chosen))
    assert sorted(found.indices) == list(best)
    assert found.cost == pytest.approx(cost(distances, best))
    assert np.bincount(found.labels).tolist() == list(sizes)  # the largest first
    assert (label[shuffled][found.indices] == [0, 1, 2, 3]).all()
    assert (label[shuffled] == found.labels).all()


@pytest.mark.parametrize("seed", range(4))
def test_no_exchange_of_one_medoid_helps(seed):
    """On a cloud without groups, where BUILD alone is not enough."""
    rows = np.random.default_rng(seed).normal(size=(40, 2))
    distances = euclidean(rows)
    found = k_medoids(distances, 5)
    chosen = found.indices.tolist()
    assert found.cost == pytest.approx(cost(distances, chosen))
    for out in chosen:
        for candidate in set(range(40)) - set(chosen):
            assert cost(distances, [candidate, *(i for i in chosen if i != out)]) >= found.cost - 1e-9


def test_swaps_lower_what_build_leaves():
    """BUILD's first choice is the middle of a line, which is no medoid of its two halves."""
    distances = euclidean(np.array([[0.0], [1], [2], [10], [18], [19], [20]]))
    found = k_medoids(distances, 2)
    best = min(cost(distances, chosen) for chosen in combinations(range(7), 2))
    assert found.cost == pytest.approx(best)
    assert 3 not in found.indices
    assert min(cost(distances, (3, other)) for other in range(7)) > 2 * best


def test_equal_things_and_as_many_medoids_as_things():
    same = k_medoids(np.zeros((5, 5)), 3)
    assert sorted(same.indices) == [0, 1, 2]
    assert same.cost == 0
    assert same.labels[same.indices].tolist() == [0, 1, 2]
    everyone = k_medoids(euclidean(np.arange(4.0)[:, None]), 4)
    assert sorted(everyone.indices) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="5 medoids of 4 things"):
        k_medoids(np.zeros((4, 4)), 5)


def test_distances_are_euclidean_also_far_from_the_origin():
    rows = np.random.default_rng(0).normal(size=(6, 3)) + 1e4
    naive = np.linalg.norm(rows[:, None] - rows, axis=-1)
    np.testing.assert_allclose(euclidean(rows), naive, atol=1e-8)
