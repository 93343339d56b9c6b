"""Pairs of posed depth frames to judge on, spread evenly over scenes, and scenes shared out to learn from and to test.

No room of the test was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from manyview.data.manifest import Manifest
from manyview.data.pairs import Choice, DepthReader, Pair, measured_pairs
from manyview.errors import UserError
from manyview.evaluation.work import Item
from manyview.progress import track

CANDIDATES = 8  # pairs measured per scene and wanted pair, at least
SPLITS = ("train", "val", "test")


def choose_pairs(reader: DepthReader, count: int, choice: Choice, *, scenes: Sequence[str] | None = None) -> list[Pair]:
    """At most `count` pairs, spread evenly over as many scenes as that takes, the same for the same seed.

    The reader's size decides what frames show. Frames that cannot be read, or lack depth, pose or intrinsics, take no
    part. Raises UserError when no pair is left.
    """
    groups = reader.data.scenes()
    names = list(groups if scenes is None else scenes)
    np.random.default_rng([choice.seed, 1]).shuffle(names)
    most = max(choice.per_scene, math.ceil(count / max(1, len(names))))
    chosen: list[Pair] = []
    spare: list[Pair] = []
    for number, scene in enumerate(track(names, label="pairs", unit="scene")):
        rng = np.random.default_rng([choice.seed, 2, number])
        measured = measured_pairs(reader, scene, groups[scene], most * CANDIDATES, rng)
        accepted = [pair for pair in measured if choice.accepts(pair)]
        chosen += accepted[:most]
        spare += accepted[most:]
        if len(chosen) >= count:
            break
    if not chosen:
        raise UserError(
            f"no pair of {len(reader.data)} frames has depth, poses, an overlap of {choice.overlap[0]:g} to "
            f"{choice.overlap[1]:g} and a motion of at least {choice.motion:g}; widen overlap or lower motion"
        )
    return sorted([*chosen, *spare][:count], key=lambda pair: (pair.scene, pair.a, pair.b))


def pair_item(pair: Pair, data: Manifest, **names: float) -> Item:
    """A pair as an item of an evaluation; `names` is what results say beside the names of its images."""
    images = {"frame_a": data[pair.a].image, "frame_b": data[pair.b].image}
    return Item(key_of(pair), pair.scene, {**images, **names}, asdict(pair))


def key_of(pair: Pair) -> str:
    """Names the files of a pair."""
    return f"{pair.a:06d}_{pair.b:06d}"


def share_out(
    scenes: Sequence[str] | Mapping[str, int], shares: Mapping[str, float], seed: int | None
) -> dict[str, list[str]]:
    """Whole scenes, in random order, for every part in turn: its share, but one at least; the last part gets the rest.

    scenes: names, or how many items each has, so that shares are of items. seed: None for the order they have. Raises
    UserError for fewer scenes than parts.
    """
    sizes = scenes if isinstance(scenes, Mapping) else dict.fromkeys(scenes, 1)
    if len(sizes) < len(shares):
        raise UserError(
            f"{len(sizes)} scene{'s' * (len(sizes) != 1)} cannot be split into {' and '.join(shares)}; give the "
            "probe's training scenes with --train TRAIN.parquet"
        )
    names, total, chosen = list(sizes), sum(sizes.values()), {}
    if seed is not None:
        np.random.default_rng([seed, 3]).shuffle(names)
    for place, (part, share) in enumerate(shares.items(), start=1):
        wanted, chosen[part] = max(1, round(share * total)), list[str]()
        while len(names) > len(shares) - place and (
            place == len(shares) or sum(sizes[name] for name in chosen[part]) < wanted
        ):
            chosen[part].append(names.pop(0))
    return chosen


def split_scenes(data: Manifest, *, seed: int, shares: Sequence[float]) -> dict[str, list[str]]:
    """Scene names for train, val and test: by the manifest's own splits where it has all three, else at random.

    Raises UserError with fewer than three scenes.
    """
    own: dict[str, list[str]] = {split: [] for split in SPLITS}
    for scene, indices in data.scenes().items():
        split = data[indices[0]].split
        if split in own:
            own[split].append(scene)
    if all(own.values()):
        return own
    return share_out(list(data.scenes()), {"test": shares[2], "val": shares[1], "train": shares[0]}, seed)
