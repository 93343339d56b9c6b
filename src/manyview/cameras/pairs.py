"""Which of many photos are matched: those next to each other in order, and those that look alike.

Photos are compared by how their SIFT descriptors deviate from the words of a small vocabulary, made of the photos' own
descriptors (VLAD; Jegou et al., 2010, normalised by word as Arandjelovic and Zisserman, 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from manyview.cameras.cores import each
from manyview.cameras.keypoints import Keypoints, of_unit_length

ALL_PAIRS = 40
"""Up to so many photos every pair is matched."""
NEIGHBOURS, ALIKE = 6, 10
"""Of more photos each is matched with so many next in order, and so many that look alike."""
WORDS, SAMPLE, ROUNDS = 64, 20_000, 8
"""Words of the vocabulary, descriptors that it is made from, rounds of k-means."""


def pairs_to_match(keypoints: Sequence[Keypoints]) -> list[tuple[int, int]]:
    """Pairs i < j; their number grows with the photos, not with its square."""
    count = len(keypoints)
    if count <= ALL_PAIRS:
        return list(combinations(range(count), 2))
    near = {(i, j) for i in range(count) for j in range(i + 1, min(count, i + 1 + NEIGHBOURS))}
    similarity = alike(keypoints)
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    similarity[distance <= NEIGHBOURS] = -np.inf  # those are matched already
    for i, row in enumerate(similarity):
        best = np.argpartition(-row, min(ALIKE, count - 1))[:ALIKE]
        near |= {(min(i, j), max(i, j)) for j in best[np.isfinite(row[best])].tolist()}
    return sorted(near)


def alike(keypoints: Sequence[Keypoints]) -> np.ndarray:
    """(V, V) how alike photos are, 1 at most; 0 for photos without keypoints."""
    vocabulary = _words(keypoints)
    vectors = torch.stack(list(each(lambda k: _vlad(k, vocabulary), keypoints, label="comparing", unit="photo")))
    return (vectors @ vectors.T).numpy()


def _words(keypoints: Sequence[Keypoints]) -> torch.Tensor:
    """(W, 128) means of clusters of descriptors of all photos, by k-means."""
    total = sum(len(k) for k in keypoints)
    every = max(1, total // SAMPLE)
    sample = of_unit_length(torch.cat([k.descriptors[::every] for k in keypoints]))
    order = torch.randperm(len(sample), generator=torch.Generator().manual_seed(0))
    words = sample[order[:WORDS]]
    for _ in range(ROUNDS if len(words) == WORDS else 0):
        nearest = (sample @ words.T - words.square().sum(1) / 2).argmax(1)
        sums = torch.zeros_like(words).index_add_(0, nearest, sample)
        counts = nearest.bincount(minlength=WORDS)[:, None]
        words = torch.where(counts > 0, sums / counts.clamp(min=1), words)
    return words


def _vlad(keypoints: Keypoints, words: torch.Tensor) -> torch.Tensor:
    """(W * 128,) of unit length: what descriptors differ from their nearest words, summed and normalised by word."""
    descriptors = of_unit_length(keypoints.descriptors)
    if not len(descriptors):
        return torch.zeros(words.numel())
    nearest = (descriptors @ words.T - words.square().sum(1) / 2).argmax(1)
    sums = torch.zeros_like(words).index_add_(0, nearest, descriptors - words[nearest])
    return torch.nn.functional.normalize(torch.nn.functional.normalize(sums, dim=1).flatten(), dim=0)
