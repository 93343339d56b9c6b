"""Cameras of photos from verified matches and predicted depth: links, a tree over them, then bundle adjustment.

Photos that no chain of links joins are scenes of their own. What a camera rests on is said for every photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from manyview.cameras.cores import each
from manyview.cameras.descriptors import OwnMatches
from manyview.cameras.graph import connected
from manyview.cameras.hypothesis import FEWEST, placed_by_network, relative
from manyview.cameras.keypoints import TILTED_MOST, Keypoints, detect, match
from manyview.cameras.known import denied, mistake, squared
from manyview.cameras.lens import focal_from_matches
from manyview.cameras.links import LEAST, TILTED_LEAST, Link, Photo, Unlinked, link
from manyview.cameras.mirror import unless_mirrored
from manyview.cameras.pairs import pairs_to_match
from manyview.cameras.place import Camera, View, place
from manyview.cameras.sharing import Placement, by_own_lenses
from manyview.cameras.tracks import RestsOn, Tracks, no_tracks
from manyview.errors import UserError

TILTED_PAIRS = 66
"""Up to so many pairs of photos that no chain of links joins are looked at again as seen from aside."""


@dataclass(frozen=True)
class Look:
    """Photos as looked at in one way, and their matches."""

    photos: list[Photo]
    matches: dict[tuple[int, int], np.ndarray]
    """(M, 2) indices of keypoints by pair of photos."""
    least: int = LEAST
    """Matches that must agree."""
    mirrors: Sequence[Keypoints] | None = None
    """SIFT keypoints of each photo, with which links are held against those of mirror images."""
    tilted: bool = False
    """Whether these are of photos as seen from aside."""


@dataclass(frozen=True)
class Solved:
    """All cameras, and the points that tie them."""

    cameras: list[Camera]
    tracks: Tracks
    denied: list[int] = field(default_factory=list)
    """Photos whose given pose the matches contradict."""
    unlinked: list[Unlinked] = field(default_factory=list)
    """Pairs whose matches tie nothing in the end, and why; those with most matches first."""


def solve(
    views: Sequence[View],
    photos: Callable[[], Iterable[np.ndarray]],
    *,
    own: OwnMatches | None = None,
    sift: bool = True,
    use_depth: bool = True,
    adjust: bool = True,
) -> Solved:
    """The cameras of photos; `photos` gives their pixels in order, and is called up to three times.

    Pixels are (h, w, 3) uint8, those of the original photo or of a smaller copy (LONG_SIDE is looked at).

    `own`: a model's own matches, for pairs that no keypoints link; without `sift` for all pairs. `use_depth`, `adjust`:
    false leaves out the predicted depth, or the bundle adjustment (to compare with).
    """
    keypoints = _keypoints(views, photos()) if sift or own is None else list(own.keypoints)
    pairs = pairs_to_match(keypoints) if sift or own is None else list(combinations(range(len(views)), 2))
    matches = _matched(keypoints, pairs) if sift or own is None else own.match(pairs)
    lens = _lenses(views)
    focals = _focals(views, keypoints, matches, lens)
    seen = [_photo(view, points, use_depth) for view, points in zip(views, keypoints, strict=True)]
    looks = [Look(seen, matches, mirrors=keypoints if sift or own is None else None)]
    links = [_links(looks[0], views, focals)]
    if own is not None and sift:
        done = {(one.i, one.j) for one in links[0] if isinstance(one, Link)} | _mirrored(links)
        places = [_photo(view, points, use_depth) for view, points in zip(views, own.keypoints, strict=True)]
        looks.append(Look(places, own.match([pair for pair in pairs if pair not in done])))
        links.append(_links(looks[-1], views, focals))
    for most in TILTED_MOST if sift else ():
        component = connected(len(views), [(one.i, one.j) for one in _those(links)])
        apart = [(i, j) for i, j in combinations(range(len(views)), 2) if component[i] != component[j]]
        apart = sorted(set(apart) - _mirrored(links))
        if not 0 < len(apart) <= TILTED_PAIRS:
            break
        aside = _keypoints(views, photos(), tilted=most)
        tilted = [_photo(view, points, use_depth) for view, points in zip(views, aside, strict=True)]
        looks.append(Look(tilted, _matched(aside, apart, tilted=True), TILTED_LEAST, aside, tilted=True))
        links.append(_links(looks[-1], views, focals))
    best = _placed(looks, links, views, focals, lens, adjust=adjust)
    if adjust:

        def again(focals: Sequence[float], lens: np.ndarray) -> Placement:
            return _placed(looks, [_links(look, views, focals) for look in looks], views, focals, lens)

        best = by_own_lenses(best, again, views)
    against = _contradicted(best.photos, best.links, best.focals, views)
    cameras: list[Camera | None] = [None] * len(views)
    for part, _ in best.sets:
        for index, camera in part.items():
            cameras[index] = camera
    alone = [_alone(view, focal, of=len(views)) for view, focal in zip(views, best.focals, strict=True)]
    every = [camera or lone for camera, lone in zip(cameras, alone, strict=True)]
    found = _numbered(every, [tracks for _, tracks in best.sets], views)
    beside = placed_by_network(found.cameras, views, best.photos, matches, best.focals)
    return replace(found, cameras=beside, denied=against, unlinked=_unlinked(best, found.tracks))


def _keypoints(views: Sequence[View], photos: Iterable[np.ndarray], *, tilted: int = 0) -> list[Keypoints]:
    def seen(photo: tuple[View, np.ndarray]) -> Keypoints:
        return detect(photo[1], photo[0].size, tilted=tilted)

    each_photo = zip(views, photos, strict=True)
    return list(each(seen, each_photo, label="looking again" if tilted else "looking", unit="photo", total=len(views)))


def _matched(
    keypoints: Sequence[Keypoints], pairs: Sequence[tuple[int, int]], *, tilted: bool = False
) -> dict[tuple[int, int], np.ndarray]:
    def matched(pair: tuple[int, int]) -> np.ndarray:
        return match(keypoints[pair[0]], keypoints[pair[1]], tilted=tilted)

    every = zip(pairs, each(matched, pairs, label="matching", unit="pair"), strict=True)
    return {pair: found for pair, found in every if len(found) >= FEWEST}


def _lenses(views: Sequence[View]) -> np.ndarray:
    """(V,) number of each photo's lens: photos of one size, either way up, and one stated focal length share it."""
    kinds = [
        (index if v.keep else v.intrinsics.tobytes(),)
        if v.intrinsics is not None
        else (*sorted(v.size), v.focal if v.focal_known else None)
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
        inside = set(members.tolist())
        own = {pair: found for pair, found in matches.items() if len(found) >= LEAST and set(pair) <= inside}
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
    places = squared(keypoints, view.intrinsics)
    return Photo(places, view.size, principal, depth, np.full(len(keypoints), keypoints.pixel))


def _links(look: Look, views: Sequence[View], focals: Sequence[float]) -> list[Link | Unlinked]:
    """Of every pair of photos with matches, the link or why there is none."""

    def linked(pair: tuple[int, int]) -> Link | Unlinked:
        i, j = pair
        said = relative(views, i, j)
        ends, matches = (look.photos[i], look.photos[j]), look.matches[pair]
        found = link(i, j, *ends, matches, (focals[i], focals[j]), look.least, said)
        if look.mirrors is None or isinstance(found, Unlinked):
            return found
        tried = len(matches)
        return unless_mirrored(found, look.photos, look.mirrors, focals, tried, look.least, tilted=look.tilted)

    return list(each(linked, look.matches, label="verifying", unit="pair"))


def _those(links: Sequence[Sequence[Link | Unlinked]]) -> list[Link]:
    return [one for some in links for one in some if isinstance(one, Link)]


def _mirrored(links: Sequence[Sequence[Link | Unlinked]]) -> set[tuple[int, int]]:
    """Pairs that a look found to be mirror images of each other."""
    return {(one.i, one.j) for some in links for one in some if isinstance(one, Unlinked) and one.why == "mirrored"}


def _placed(
    looks: Sequence[Look],
    links: Sequence[Sequence[Link | Unlinked]],
    views: Sequence[View],
    focals: Sequence[float],
    lens: np.ndarray,
    *,
    adjust: bool = True,
) -> Placement:
    """Cameras by the links of every look at the photos."""
    photos, every = list(looks[0].photos), _those(links[:1])
    for look, new in zip(looks[1:], links[1:], strict=True):
        start = [len(photo.keypoints) for photo in photos]
        every += [replace(one, matches=one.matches + [start[one.i], start[one.j]]) for one in _those([new])]
        photos = [_joined(one, other) for one, other in zip(photos, look.photos, strict=True)]
    unlinked: dict[tuple[int, int], Unlinked] = {}
    for one in (one for some in links for one in some if isinstance(one, Unlinked)):
        if (one.i, one.j) not in unlinked or unlinked[one.i, one.j].agreeing < one.agreeing:
            unlinked[one.i, one.j] = one
    component = connected(len(views), [(one.i, one.j) for one in every])
    sets = []
    for number in range(component.max(initial=-1) + 1):
        members = np.flatnonzero(component == number)
        if len(members) > 1:
            sets += place(photos, views, members, every, focals, lens, adjust=adjust)
    return Placement(photos, every, list(unlinked.values()), list(focals), lens, sets)


def _unlinked(placement: Placement, tracks: Tracks) -> list[Unlinked]:
    """Pairs that gave no link, and those whose link the others outvoted: photos that share no point in the end."""
    shown: dict[int, set[int]] = {}
    for view, point in zip(tracks.view.tolist(), tracks.point.tolist(), strict=True):
        shown.setdefault(view, set()).add(point)
    linked = {(one.i, one.j) for one in placement.links}
    found = [one for one in placement.unlinked if (one.i, one.j) not in linked]
    for one in placement.links:
        if not shown.get(one.i, set()) & shown.get(one.j, set()):
            found.append(Unlinked(one.i, one.j, len(one.matches), len(one.matches), "others"))
    return sorted(found, key=lambda one: (-one.matches, one.i, one.j))


def _joined(one: Photo, other: Photo) -> Photo:
    uv = np.concatenate([one.keypoints.uv, other.keypoints.uv])
    keypoints = replace(one.keypoints, uv=uv)  # descriptors are no longer asked for
    depth, pixel = (np.concatenate(both) for both in ((one.depth, other.depth), (one.pixel, other.pixel)))
    return replace(one, keypoints=keypoints, depth=depth, pixel=pixel)


def _contradicted(
    photos: Sequence[Photo], links: Sequence[Link], focals: Sequence[float], views: Sequence[View]
) -> list[int]:
    """Photos whose given pose the matches deny. Raises UserError when they deny most of them."""
    known = [view.cam2world for view in views]
    zoom = any(view.intrinsics is None for view in views if view.cam2world is not None)
    against = denied(photos, links, focals, known, zoom=zoom)
    asked = {end for one in links for end in (one.i, one.j) if known[one.i] is not None and known[one.j] is not None}
    if len(against) * 2 > len(asked):
        mend = mistake(photos, links, focals, known, zoom=zoom)
        raise UserError(
            f"the matches between the photos contradict the given cameras of {len(against)} of {len(asked)} photos: "
            + (mend or "check that each camera belongs to its photo, and its axes (OpenCV, camera to world)")
        )
    return against


def _alone(view: View, focal: float, of: int) -> Camera:
    """A photo that nothing ties to another: placed nowhere, but where it is given. The only photo is the frame."""
    height, width = view.size
    matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    rests_on: RestsOn = "model" if of == 1 and view.depth is not None else "nothing"
    kept = matrix if view.intrinsics is None else np.array(view.intrinsics)
    if view.cam2world is not None:
        return Camera(np.array(view.cam2world, np.float64), kept, "given", 0, 0, None, 1.0)
    return Camera(np.eye(4) if rests_on == "model" else None, kept, rests_on, 0, 0, None, 1.0)


def _numbered(cameras: list[Camera], tracks: Sequence[Tracks], views: Sequence[View]) -> Solved:
    """Components numbered by their photos, most first, and then by their first one; given poses share one."""
    sets = [sorted(set(part.view.tolist())) for part in tracks]
    together = {index for members in sets for index in members}
    sets += [[index] for index in range(len(cameras)) if index not in together]
    given = [members for members in sets if any(views[index].cam2world is not None for index in members)]
    frames = [members for members in sets if members not in given]
    if given:
        frames.append(sorted(index for members in given for index in members))
    for number, members in enumerate(sorted(frames, key=lambda members: (-len(members), members[:1]))):
        for index in members:
            cameras[index] = replace(cameras[index], component=number)
    parts = []
    for part in tracks:
        number = cameras[int(part.view[0])].component if len(part.view) else 0
        parts.append(replace(part, component=np.full(len(part.points), number)))
    return Solved(cameras, _concatenated(parts))


def _concatenated(parts: Sequence[Tracks]) -> Tracks:
    if not parts:
        return no_tracks()
    offset = np.cumsum([0, *(len(part.points) for part in parts)])
    shifted = [replace(part, point=part.point + start) for part, start in zip(parts, offset, strict=False)]
    return Tracks(*(np.concatenate([vars(part)[name] for part in shifted]) for name in Tracks.__dataclass_fields__))
