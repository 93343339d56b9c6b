"""Pairs of posed depth frames to judge on, spread evenly over scenes, and splits by scene.

No room of the test was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader, Pair, measured_pairs, stack
from manyview.errors import UserError
from manyview.progress import track

__all__ = ["Choice", "DepthReader", "Pair", "choose_pairs", "measured_pairs", "split_scenes", "stack"]

CANDIDATES = 8  # pairs measured per scene and wanted pair, at least
SPLITS = ("train", "val", "test")


def choose_pairs(
    reader: DepthReader, count: int, choice: Choice, *, scenes: Sequence[str] | None = None
) -> list[Pair]:
    """At most `count` pairs, spread evenly over as many scenes as that takes, the same for the same seed.

    The reader's size decides what frames show. Frames that cannot be read, or lack depth, pose or intrinsics, take no
    part. Raises UserError when no pair is left.
    """
    groups = reader.data.scenes()
    names = list(groups if scenes is None else scenes)
    np.random.default_rng([choice.seed, 1]).shuffle(names)
    most = max(choice.per_scene, math.ceil(count / max(1, len(names))))
    found, spare = [], []
    for number, scene in enumerate(track(names, label="pairs", unit="scene")):
        rng = np.random.default_rng([choice.seed, 2, number])
        measured = measured_pairs(reader, scene, groups[scene], most * CANDIDATES, rng)
        here = [pair for pair in measured if choice.accepts(pair)]
        found += here[:most]
        spare += here[most:]
        if len(found) >= count:
            break
    if not found:
        raise UserError(
            f"no pair of {len(reader.data)} frames has depth, poses, an overlap of {choice.overlap[0]:g} to "
            f"{choice.overlap[1]:g} and a motion of at least {choice.motion:g}; widen overlap or lower motion"
        )
    return sorted([*found, *spare][:count], key=lambda pair: (pair.scene, pair.a, pair.b))


def split_scenes(data: Manifest, *, seed: int, shares: Sequence[float]) -> dict[str, list[str]]:
    """Scene names for train, val and test: by the manifest's own splits where it has all three, else at random.

    Raises UserError with fewer than three scenes.
    """
    groups = data.scenes()
    own: dict[str, list[str]] = {split: [] for split in SPLITS}
    for scene, indices in groups.items():
        split = data[indices[0]].split
        if split in own:
            own[split].append(scene)
    if all(own.values()):
        return own
    if len(groups) < 3:
        raise UserError(
            f"{len(groups)} scenes cannot be split into train, val and test; give the probe's training scenes "
            "with --train TRAIN.parquet"
        )
    names = list(groups)
    np.random.default_rng([seed, 3]).shuffle(names)
    test, val = (max(1, round(share * len(names))) for share in (shares[2], shares[1]))
    return {"train": names[test + val :], "val": names[test : test + val], "test": names[:test]}
