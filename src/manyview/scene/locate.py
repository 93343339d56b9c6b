"""Words in, places out: which points of a scene a query means, in boxes, with confidences, or that it is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from manyview.errors import UserError
from manyview.scene.meaning import EVERYDAY, Embed, Words, phrases_of, space_of, spoken
from manyview.scene.options import LocateOptions
from manyview.scene.views import SceneView, level_from_scene

if TYPE_CHECKING:
    from manyview.scene.scene import Cloud, Scene

BOX_EDGES = tuple((a, a ^ bit) for a in range(8) for bit in (1, 2, 4) if not a & bit)
"""Pairs of a box's corners that an edge joins."""
Hits = tuple[np.ndarray, np.ndarray]
"""Pixels of a photo, row by row, that a query means, and their probabilities."""
LEAST_CELLS, LEAST_PIXELS = 2, 20
"""A thing covers at least so many cells of the feature map, and pixels, in one photo: single cells are noise."""
REACH = 0.03
"""Points nearer than this share of the scene's median depth are of one object."""
LONGEST = 40
"""Characters of a query in tables and notes."""
TRIM = 2.0
"""Percent of an object's points that a box leaves out on either side: depth frays at edges."""


@dataclass(frozen=True)
class Box:
    """A box that stands upright: `axes` (3, 3) has its directions in rows, the third up, in the scene's frame."""

    centre: np.ndarray
    size: np.ndarray
    axes: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """(8, 3)."""
        signs = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij"), -1).reshape(8, 3)
        return self.centre + signs * self.size @ self.axes


@dataclass(frozen=True)
class Place:
    """One object: a connected set of points."""

    position: np.ndarray
    """(3,) the median of its points."""
    box: Box
    confidence: float
    """The mean probability of its points."""
    component: int
    points: np.ndarray
    """(N, 3) in the frame of its component."""
    views: list[int]
    """Photos that show it."""


@dataclass(frozen=True)
class Sight:
    """A query in one photo."""

    view: int
    pixels: int
    confidence: float
    box: tuple[int, int, int, int]
    """Left, top, right, bottom, in pixels of the original photo."""


@dataclass(frozen=True)
class Found:
    """What is known of one query."""

    query: str
    phrases: tuple[str, ...]
    confidence: float
    """That of its surest place or sight; without one, the largest probability of any pixel."""
    places: list[Place]
    """Objects in space, the surest first; empty where no photo that shows it has a camera."""
    sights: list[Sight]

    @property
    def there(self) -> bool:
        return bool(self.sights)

    @property
    def short(self) -> str:
        """The query as a table shows it."""
        return self.query if len(self.query) <= LONGEST else f"{self.query[: LONGEST - 1]}…"


@dataclass(frozen=True)
class Located:
    """The answers about a scene, which it carries as labels: each pixel's most probable query, -1 for none."""

    scene: Scene
    found: list[Found]
    threshold: float
    space: str
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, query: int | str) -> Found:
        """By number, or by the query's text. Raises KeyError."""
        if isinstance(query, int):
            return self.found[query]
        return {one.query: one for one in self.found}[query]

    @property
    def unit(self) -> str:
        return "metres" if self.scene.scale == "metric" else "scene units"

    def to_json(self) -> dict[str, Any]:
        """Everything but the points, as plain values."""
        names = [view.name for view in self.scene.views]
        return {
            "unit": self.unit,
            "frame": self.scene.frame,
            "space": self.space,
            "threshold": self.threshold,
            "queries": [
                {
                    "query": one.query,
                    "phrases": list(one.phrases),
                    "colour": "#" + bytes(colour.tolist()).hex(),
                    "there": one.there,
                    "confidence": round(one.confidence, 4),
                    "places": [_plain(place, names) for place in one.places],
                    "photos": [
                        {"photo": names[s.view], "pixels": s.pixels, "confidence": round(s.confidence, 4), "box": s.box}
                        for s in one.sights
                    ],
                }
                for one, colour in zip(self.found, colours(len(self.found)), strict=True)
            ],
            "notes": self.notes,
        }

    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Every query that has a pixel, with its colour in `coloured`."""
        seen = {
            int(number) for view in self.scene.views if view.labels is not None for number in np.unique(view.labels)
        }
        palette = colours(len(self.found)).tolist()
        return [(one.query, tuple(palette[n])) for n, one in enumerate(self.found) if n in seen]

    def coloured(self) -> Scene:
        """The scene with photos in the colours of the queries, for exports and pictures."""
        palette = colours(len(self.found))
        views = [replace(view, image=overlay(view, palette)) for view in self.scene.views]
        return replace(self.scene, views=views)


def locate(
    scene: Scene,
    queries: Sequence[str | Sequence[str]],
    *,
    options: LocateOptions | None = None,
    encoder: Embed | None = None,
) -> Located:
    """Look for things by their names; see `Scene.locate`."""
    options = options or LocateOptions()
    if not 0 < options.threshold < 1:
        raise UserError(f"threshold is {options.threshold}; it is a probability, above 0 and below 1")
    phrases = phrases_of(queries)
    space = space_of(next((list(view.features) for view in scene.views if view.features), []), options.space)
    background = tuple(word.strip() for word in options.background.split(",")) if options.background else EVERYDAY
    words = Words(phrases, space, encoder or spoken(scene, space), background)
    views, largest = [], np.zeros(len(phrases))
    sights: list[list[Sight]] = [[] for _ in phrases]
    hits: list[dict[int, Hits]] = [{} for _ in phrases]
    for index, view in enumerate(scene.views):
        if space not in view.features:
            views.append(replace(view, labels=None, scores=None))  # those of earlier queries
            continue
        chances = words.on_pixels(view.features[space], view.depth.shape)
        kept = np.zeros(chances.shape, bool)
        for number, chance in enumerate(chances):
            largest[number] = max(largest[number], float(chance.max(initial=0)))
            kept[number] = _regions(chance >= options.threshold, view.features[space].shape[:2])
            if kept[number].any():
                sights[number].append(_sight(view, index, kept[number], chance))
                pixels = np.flatnonzero(kept[number])
                hits[number][index] = pixels, chance.ravel()[pixels].astype(np.float16)
        best = np.where(kept, chances, 0).argmax(0)
        top = np.take_along_axis(np.where(kept, chances, 0), best[None], 0)[0]
        views.append(replace(view, labels=np.where(top > 0, best, -1).astype(np.int16), scores=top.astype(np.float16)))
    names = [each[0] for each in phrases]
    info = {**scene.info, "labels": names, "labels_threshold": options.threshold}
    scene = replace(scene, views=views, info=info)
    places = _places(scene, hits, options.quantile)
    found = [
        Found(name, each, _surest(places[q], sights[q], largest[q]), places[q], sights[q])
        for q, (name, each) in enumerate(zip(names, phrases, strict=True))
    ]
    return Located(scene, found, options.threshold, space, _notes(scene, found, words))


def _surest(places: Sequence[Place], sights: Sequence[Sight], largest: float) -> float:
    return max([*(one.confidence for one in places), *(one.confidence for one in sights)], default=float(largest))


def _regions(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The mask without its regions that are smaller than a few cells."""
    if not mask.any():
        return mask
    from scipy.ndimage import label

    numbers, _ = label(mask, np.ones((3, 3)))
    least = max(LEAST_PIXELS, LEAST_CELLS * mask.size / (grid[0] * grid[1]))
    large = np.bincount(numbers.ravel()) >= least
    large[0] = False
    return large[numbers]


def _sight(view: SceneView, index: int, mask: np.ndarray, chance: np.ndarray) -> Sight:
    rows, columns = np.nonzero(mask)
    corners = np.array([[columns.min(), rows.min(), 1], [columns.max() + 1, rows.max() + 1, 1]], np.float64)
    (left, top), (right, bottom) = (corners @ np.linalg.inv(view.source.affine).T)[:, :2].round().astype(int).tolist()
    height, width = view.source.size
    box = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    return Sight(index, int(mask.sum()), float(chance[mask].mean()), box)


def _places(scene: Scene, hits: Sequence[Mapping[int, Hits]], quantile: float) -> list[list[Place]]:
    """Objects of every query by itself, in every component that has cameras, the largest and surest first."""
    places: list[list[Place]] = [[] for _ in hits]
    for component in sorted({view.component for view in scene.views if view.cam2world is not None}):
        cloud = scene.cloud(quantile=quantile, component=component)
        if not len(cloud):
            continue
        members = [view for view in scene.views if view.component == component and view.cam2world is not None]
        level = level_from_scene(members)
        reach = REACH * float(np.median(np.concatenate([view.depth[view.valid] for view in members])))
        for mine, of_query in zip(places, hits, strict=True):
            rows, scores = _meant(scene, cloud, of_query)
            for group in _groups(cloud.xyz[rows], reach):
                if len(group) >= LEAST_PIXELS:
                    points, shown = cloud.xyz[rows[group]], np.unique(cloud.view[rows[group]]).tolist()
                    box, sure = upright_box(points, level), float(scores[group].mean())
                    mine.append(Place(np.median(points, 0), box, sure, component, points, shown))
    return [sorted(each, key=lambda place: -place.confidence * len(place.points)) for each in places]


def _meant(scene: Scene, cloud: Cloud, hits: Mapping[int, Hits]) -> tuple[np.ndarray, np.ndarray]:
    """Which points of a cloud are pixels of a query, as indices, and their probabilities."""
    rows, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    for index, (pixels, chances) in hits.items():
        first, last = np.searchsorted(cloud.view, [index, index + 1])
        column, row = cloud.uv[first:last].astype(np.int64).T
        flat = row * scene.views[index].depth.shape[1] + column
        _, of_cloud, of_hits = np.intersect1d(flat, pixels, assume_unique=True, return_indices=True)
        rows.append(first + of_cloud)
        scores.append(chances[of_hits].astype(np.float64))
    return np.concatenate(rows), np.concatenate(scores)


def _groups(points: np.ndarray, reach: float) -> list[np.ndarray]:
    """Indices of points that hang together: cells of edge `reach` that touch."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if not len(points):
        return []
    cells, of = np.unique(np.floor(points / max(reach, 1e-12)).astype(np.int64), axis=0, return_inverse=True)
    pairs = cKDTree(cells).query_pairs(1.8, output_type="ndarray")  # sqrt(3): corners touch
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(cells), len(cells)))
    count, numbers = connected_components(graph, directed=False)
    numbers = numbers[of.reshape(-1)]
    return [np.flatnonzero(numbers == number) for number in range(count)]


def upright_box(points: np.ndarray, level: np.ndarray) -> Box:
    """The smallest upright box around points (N, 3), less a few percent at every side.

    level: (3, 3) rotation to x right, y down, z forward.
    """
    import cv2

    local = points @ level.T
    (cx, cz), (width, depth), degrees = cv2.minAreaRect(_trimmed(local[:, [0, 2]]).astype(np.float32))
    turn = np.radians(degrees)
    across, along = np.array([np.cos(turn), 0, np.sin(turn)]), np.array([-np.sin(turn), 0, np.cos(turn)])
    low, high = np.percentile(local[:, 1], [TRIM, 100 - TRIM])
    centre = np.array([cx, (low + high) / 2, cz]) @ level
    return Box(centre, np.array([width, depth, high - low]), np.stack([across, along, [0.0, -1.0, 0.0]]) @ level)


def _trimmed(points: np.ndarray) -> np.ndarray:
    low, high = np.percentile(points, [TRIM, 100 - TRIM], axis=0)
    inside = ((points >= low) & (points <= high)).all(1)
    return points[inside] if inside.sum() > 2 else points


def _notes(scene: Scene, found: Sequence[Found], words: Words) -> list[str]:
    notes = []
    blind = [view.name for view in scene.views if words.space not in view.features]
    if blind:
        notes.append(f"no features of {words.space}, so not looked at: {', '.join(blind[:5])}")
    placeless = [one.short for one in found if one.there and not one.places]
    if placeless:
        notes.append(f"seen in photos, but in none whose points have a place: {', '.join(placeless)}")
    lost = [view.name for view in scene.views if view.cam2world is None]
    if lost:
        notes.append(f"no camera, so what these photos show has no place in space: {', '.join(lost[:5])}")
    if scene.components - len(lost) > 1:
        notes.append("the photos form several scenes that nothing joins; positions are in the frame of their component")
    if foreign := [one.short for one in found if not one.query.isascii()]:
        notes.append(f"the text encoders read English; ask in English instead of {foreign[0]!r}")
    strange = [one.short for one, known in zip(found, words.known, strict=True) if not known and one.query.isascii()]
    if strange:
        notes.append(
            f"the text encoder seems not to know {', '.join(map(repr, strange[:5]))}, so its answer says little; "
            "ask in other words, in English"
        )
    return notes


def _plain(place: Place, names: Sequence[str]) -> dict[str, Any]:
    box = {key: np.round(value, 5).tolist() for key, value in vars(place.box).items()}
    return {
        "position": np.round(place.position, 5).tolist(),
        "box": box,
        "confidence": round(place.confidence, 4),
        "points": len(place.points),
        "component": place.component,
        "photos": [names[index] for index in place.views],
    }


def colours(count: int) -> np.ndarray:
    """(count, 3) uint8 hues as different as so many can be."""
    import cv2

    hues = ((np.arange(count) * 0.618034) % 1 * 180).astype(np.uint8)
    strong = np.stack([hues, np.full(count, 230, np.uint8), np.full(count, 255, np.uint8)], -1)
    return cv2.cvtColor(strong[None], cv2.COLOR_HSV2RGB)[0] if count else np.zeros((0, 3), np.uint8)


def overlay(view: SceneView, palette: np.ndarray) -> np.ndarray:
    """The photo (H, W, 3) uint8 in grey, what carries a label in the label's colour."""
    grey = view.image.mean(-1, keepdims=True).repeat(3, -1) * 0.8
    if view.labels is None:
        return grey.astype(np.uint8)
    shades = palette[np.clip(view.labels, 0, None)] if len(palette) else grey
    return np.where(view.labels[..., None] >= 0, 0.4 * view.image + 0.6 * shades, grey).astype(np.uint8)
