"""What can be said of a scene's cameras in plain sentences, and the colour of each kind of trust."""

from __future__ import annotations

from collections import Counter

import numpy as np

from manyview.cameras.tracks import RestsOn
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView

COLOURS: dict[RestsOn, str] = {
    "matches": "#2e9e5b",
    "given": "#2d6cdf",
    "depth": "#e0a100",
    "model": "#d1495b",
    "nothing": "#8a8a8a",
}
MEANING: dict[RestsOn, str] = {
    "matches": "verified matches with parallax",
    "given": "the camera that was given",
    "depth": "verified matches and predicted depth, without parallax",
    "model": "the network's word, unchecked",
    "nothing": "no evidence: placed nowhere",
}
FEW = 30
"""Observations below which a registered photo is said to hang on few."""


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of `#rrggbb`."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def trust(scene: Scene) -> list[RestsOn]:
    """What each view's place in the scene rests on; nothing for one that shares its frame with no other view."""
    sizes = Counter(view.component for view in scene.views)
    lone = [len(scene) > 1 and not view.registered and sizes[view.component] == 1 for view in scene.views]
    return ["nothing" if alone else view.rests_on for view, alone in zip(scene.views, lone, strict=True)]


def parts(scene: Scene) -> dict[int, list[int]]:
    """The views (by index) of each component with a place to show (several views, or the only one), most first."""
    worth = trust(scene)
    members: dict[int, list[int]] = {}
    for index, view in enumerate(scene.views):
        if worth[index] != "nothing" and view.cam2world is not None:
            members.setdefault(view.component, []).append(index)
    return dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))


def verdict(scene: Scene) -> str:
    """What the cameras are worth, in one to three sentences; the first says it when there are none."""
    count, worth = len(scene), trust(scene)
    registered = [view for view in scene.views if view.registered]
    if count == 1 and not registered:
        return "One photo: its depth and its points are the network's guess, and no second photo checks them."
    if not registered and "model" not in worth:
        return f"This scene has no cameras: none of its {count} photos could be tied to another one."
    if not registered:
        return f"No camera of this scene is checked: where its {count} photos stand is the network's word alone."
    sizes = Counter(view.component for view in registered)
    if len(registered) < count:
        first = f"{len(registered)} of {count} photos are registered"
    else:
        first = "Both photos are registered" if count == 2 else f"All {count} photos are registered"
    if len(sizes) > 1:
        first += f", in {len(sizes)} scenes of {_sum(sizes)} photos that nothing joins"
    kinds = Counter(view.rests_on for view in registered)
    basis = "; ".join(f"{number} on {MEANING[kind]}" for kind, number in kinds.most_common())
    return f"{first}. Their cameras rest: {basis}. {_error(registered)}"


def _sum(sizes: Counter[int]) -> str:
    return " + ".join(str(size) for _, size in sizes.most_common())


def _error(registered: list[SceneView]) -> str:
    errors = [view.error_px for view in registered if view.error_px is not None]
    if not errors:
        return "No match between photos measures their error."
    seen = sum(view.inliers for view in registered)
    return f"Median reprojection error: {np.median(errors):.2f} px of the originals over {seen:,} observations."


def failures(scene: Scene) -> list[str]:
    """What did not work and why, a sentence each; empty when nothing is known to have failed."""
    found = [f"Left out: {line}." for line in scene.info.get("skipped", [])]
    found += [_sentence(line) for line in scene.info.get("warnings", [])]
    worth = trust(scene)
    said = " ".join(found)
    nowhere = [
        f"{index} ({view.name})"
        for index, view in enumerate(scene.views)
        if worth[index] == "nothing" and view.name not in said
    ]
    if nowhere:
        found.append(f"Without a place, for lack of verified matches with other photos: {_listed(nowhere)}.")
    weak = [
        f"{index} ({view.name}, {view.inliers})"
        for index, view in enumerate(scene.views)
        if view.registered and view.rests_on != "given" and view.inliers < FEW
    ]
    if weak:
        found.append(f"In doubtful places, for they hang on fewer than {FEW} observations: {_listed(weak)}.")
    if "model" in worth and len(scene) > 1:
        found.append("Photos that rest on the network's word were not compared with each other: distrust their cloud.")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")


def _sentence(line: str) -> str:
    text = line[:1].upper() + line[1:]
    return text if text.endswith(".") else f"{text}."


def shared_points(scene: Scene) -> np.ndarray:
    """(V, V) int: how many points of verified matches two views both show; the diagonal is what one shows."""
    from scipy.sparse import coo_array

    count = len(scene)
    if scene.tracks is None or not len(scene.tracks.view):
        return np.zeros((count, count), int)
    tracks = scene.tracks
    shape = (count, len(tracks.points))
    shows = coo_array((np.ones(len(tracks.view), int), (tracks.view, tracks.point)), shape=shape).tocsr()
    shows.data[:] = 1
    return (shows @ shows.T).toarray()
