"""Cameras of photos from verified matches and predicted depth: links, a tree over them, then bundle adjustment.

Photos that no chain of links joins are scenes of their own. What a camera rests on is said for every photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from manyview.cameras.graph import connected
from manyview.cameras.keypoints import Keypoints, detect, match
from manyview.cameras.lens import focal_from_matches
from manyview.cameras.links import LEAST, TILTED_LEAST, Link, Photo, link
from manyview.cameras.place import Camera, View, place
from manyview.cameras.tracks import RestsOn, Tracks, no_tracks

ALL_PAIRS = 40
"""Up to so many photos every pair is matched; of more, each with its NEIGHBOURS in order and those that look alike."""
NEIGHBOURS, ALIKE = 6, 8
TILTED_PAIRS = 66
"""Up to so many pairs of photos that no link joins are looked at again as seen from aside."""


@dataclass(frozen=True)
class Solved:
    """All cameras, and the points that tie them."""

    cameras: list[Camera]
    tracks: Tracks


def solve(
    views: Sequence[View], photos: Callable[[], Iterable[np.ndarray]], *, use_depth: bool = True, adjust: bool = True
) -> Solved:
    """The cameras of photos; `photos` gives their pixels (H, W, 3) uint8 in order, and is called once or twice.

    `use_depth`, `adjust`: false leaves out the predicted depth, or the bundle adjustment (to compare with).
    """
    keypoints = [detect(pixels) for pixels in photos()]
    matches = _matched(keypoints, _pairs(keypoints))
    lens = _lenses(views)
    focals = _focals(views, keypoints, matches, lens)
    looks = [_photo(view, points, use_depth) for view, points in zip(views, keypoints, strict=True)]
    links = _links(looks, matches, focals)
    component = connected(len(views), [(one.i, one.j) for one in links])
    apart = [(i, j) for i, j in combinations(range(len(views)), 2) if component[i] != component[j]]
    if 0 < len(apart) <= TILTED_PAIRS:
        aside = [detect(pixels, tilted=True) for pixels in photos()]
        tilted = [_photo(view, points, use_depth) for view, points in zip(views, aside, strict=True)]
        new = _links(tilted, _matched(aside, apart, tilted=True), focals, TILTED_LEAST)
        looks, links = _together(looks, links, tilted, new)
    component = connected(len(views), [(one.i, one.j) for one in links])
    cameras: list[Camera | None] = [None] * len(views)
    tracks: list[Tracks] = []
    for number in range(component.max(initial=-1) + 1):
        members = np.flatnonzero(component == number)
        if len(members) > 1:
            for placed, seen in place(looks, views, members, links, focals, lens, adjust=adjust):
                tracks.append(seen)
                for index, camera in placed.items():
                    cameras[index] = camera
    alone = [_alone(view, focal, of=len(views)) for view, focal in zip(views, focals, strict=True)]
    return _numbered([camera or lone for camera, lone in zip(cameras, alone, strict=True)], tracks)


def _pairs(keypoints: Sequence[Keypoints]) -> list[tuple[int, int]]:
    """Pairs of photos that are matched."""
    count = len(keypoints)
    if count <= ALL_PAIRS:
        return list(combinations(range(count), 2))
    near = {(i, j) for i in range(count) for j in range(i + 1, min(count, i + 1 + NEIGHBOURS))}
    few = [replace(k, uv=k.uv[::8], descriptors=k.descriptors[::8]) for k in keypoints]
    for i in range(count):
        votes = np.array([len(match(few[i], few[j])) if j != i else -1 for j in range(count)])
        near |= {(min(i, j), max(i, j)) for j in np.argsort(-votes, kind="stable")[:ALIKE].tolist()}
    return sorted(near)


def _matched(
    keypoints: Sequence[Keypoints], pairs: Iterable[tuple[int, int]], *, tilted: bool = False
) -> dict[tuple[int, int], np.ndarray]:
    every = {(i, j): match(keypoints[i], keypoints[j], tilted=tilted) for i, j in pairs}
    return {pair: found for pair, found in every.items() if len(found) >= LEAST}


def _lenses(views: Sequence[View]) -> np.ndarray:
    """(V,) number of each photo's lens: photos of one size, either way up, and one stated focal length share it."""
    kinds = [
        (index,) if v.intrinsics is not None else (*sorted(v.size), v.focal if v.focal_known else None)
        for index, v in enumerate(views)
    ]
    return np.array([kinds.index(kind) for kind in kinds])


def _focals(
    views: Sequence[View], keypoints: Sequence[Keypoints], matches: dict[tuple[int, int], np.ndarray], lens: np.ndarray
) -> list[float]:
    """Focal lengths in pixels: given, stated by EXIF, or from matches among the photos of a lens."""
    ratios = np.array([view.focal or 1.0 for view in views])
    for number in np.unique(lens):
        members = np.flatnonzero(lens == number)
        first = views[members[0]]
        guess = float(np.median(ratios[members]))
        own = {pair: found for pair, found in matches.items() if set(pair) <= set(members.tolist())}
        if first.intrinsics is None and not first.focal_known and own:
            guess = focal_from_matches(keypoints, [view.size for view in views], own, guess)
        ratios[members] = guess
    return [
        float(ratio * max(view.size)) if view.intrinsics is None else float(view.intrinsics[0, 0])
        for ratio, view in zip(ratios, views, strict=True)
    ]


def _photo(view: View, keypoints: Keypoints, use_depth: bool) -> Photo:
    principal = np.array(view.size[::-1]) / 2 if view.intrinsics is None else view.intrinsics[:2, 2]
    depth = np.full(len(keypoints), np.nan)
    if use_depth and view.depth is not None and view.affine is not None:
        place = keypoints.uv @ view.affine[:2, :2].T + view.affine[:2, 2]
        height, width = view.depth.shape
        inside = ((place >= 0) & (place < (width, height))).all(1)
        column, row = place[inside].astype(int).T
        value = view.depth[row, column]
        depth[inside] = np.where(value > 0, value, np.nan)
    return Photo(keypoints, view.size, principal, depth)


def _links(
    photos: Sequence[Photo], matches: dict[tuple[int, int], np.ndarray], focals: Sequence[float], least: int = LEAST
) -> list[Link]:
    every = (
        link(i, j, photos[i], photos[j], found, (focals[i], focals[j]), least) for (i, j), found in matches.items()
    )
    return [one for one in every if one is not None]


def _together(
    looks: Sequence[Photo], links: list[Link], tilted: Sequence[Photo], new: Sequence[Link]
) -> tuple[list[Photo], list[Link]]:
    """Photos with the keypoints of both looks, and the links of both."""
    start = [len(look.keypoints) for look in looks]
    moved = [replace(one, matches=one.matches + [start[one.i], start[one.j]]) for one in new]
    return [_joined(one, other) for one, other in zip(looks, tilted, strict=True)], [*links, *moved]


def _joined(one: Photo, other: Photo) -> Photo:
    uv = np.concatenate([one.keypoints.uv, other.keypoints.uv])
    keypoints = replace(one.keypoints, uv=uv)  # descriptors are no longer asked for
    return replace(one, keypoints=keypoints, depth=np.concatenate([one.depth, other.depth]))


def _alone(view: View, focal: float, of: int) -> Camera:
    """A photo that nothing ties to another: placed nowhere. The only photo is the frame, with the model's depth."""
    height, width = view.size
    matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    rests_on: RestsOn = "model" if of == 1 and view.depth is not None else "nothing"
    kept = matrix if view.intrinsics is None else np.array(view.intrinsics)
    return Camera(np.eye(4) if rests_on == "model" else None, kept, rests_on, 0, 0, None, 1.0)


def _numbered(cameras: list[Camera], tracks: Sequence[Tracks]) -> Solved:
    """Components numbered by their photos, most first, and then by their first one."""
    sets = [sorted(set(part.view.tolist())) for part in tracks]
    together = {index for members in sets for index in members}
    sets += [[index] for index in range(len(cameras)) if index not in together]
    order = sorted(range(len(sets)), key=lambda n: (-len(sets[n]), sets[n][:1]))
    for number, which in enumerate(order):
        for index in sets[which]:
            cameras[index] = replace(cameras[index], component=number)
    parts = []
    for part, members in zip(tracks, sets, strict=False):
        number = cameras[members[0]].component if members else 0
        parts.append(replace(part, component=np.full(len(part.points), number)))
    return Solved(cameras, _concatenated(parts))


def _concatenated(parts: Sequence[Tracks]) -> Tracks:
    if not parts:
        return no_tracks()
    offset = np.cumsum([0, *(len(part.points) for part in parts)])
    shifted = [replace(part, point=part.point + start) for part, start in zip(parts, offset, strict=False)]
    return Tracks(*(np.concatenate([vars(part)[name] for part in shifted]) for name in Tracks.__dataclass_fields__))
