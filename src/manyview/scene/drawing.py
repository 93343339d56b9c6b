"""Pictures of a scene: its cloud and cameras from two sides, and the matches of two views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyview.pages.pictures import PAPER, two_sides
from manyview.scene.scene import Cloud, Scene
from manyview.scene.trust import COLOURS, rgb, trust
from manyview.scene.views import SceneView, level_from_scene

EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
"""Of a camera's pyramid: its centre, then the corners of its picture clockwise from the upper left."""


def pyramid(view: SceneView, length: float) -> np.ndarray:
    """(5, 3) a camera's centre and the corners of its picture at `length`, in the scene's frame."""
    height, width = view.depth.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    local = np.concatenate([np.zeros((1, 3)), length * corners @ np.linalg.inv(view.intrinsics).T])
    return local @ view.pose[:3, :3].T + view.pose[:3, 3]


def pyramid_length(views: Sequence[SceneView]) -> float:
    """A length at which cameras can be told apart: of the distance between neighbours and the depth, the middle way."""
    depths = [float(np.median(view.depth[view.valid])) for view in views if view.valid.any()]
    depth = float(np.median(depths)) if depths else 1.0
    centres = np.array([view.pose[:3, 3] for view in views])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    step = float(np.median(steps)) if len(steps) else depth
    return float(np.clip(0.6 * step, 0.03 * depth, 0.2 * depth))


def cloud_and_cameras(
    scene: Scene, cloud: Cloud, members: Sequence[int], *, size: tuple[int, int] = (420, 560)
) -> list[np.ndarray]:
    """A cloud with the cameras of some views in the colours of trust, from the upper left and upper right."""
    views, worth = [scene.views[index] for index in members], trust(scene)
    length, along = pyramid_length(views), np.linspace(0, 1, 80)[:, None]
    points, colours = [cloud.xyz], [cloud.rgb]
    for index, view in zip(members, views, strict=True):
        corners = pyramid(view, length)
        drawn = [corners[a] + along * (corners[b] - corners[a]) for a, b in EDGES]
        points += drawn
        colours.append(np.tile(np.array(rgb(COLOURS[worth[index]]), np.uint8), (len(along) * len(drawn), 1)))
    level = level_from_scene(views).T
    drawn, ends = np.concatenate(points) @ level, np.concatenate(points[1:]) @ level
    return two_sides(drawn, np.concatenate(colours), size=size, within=ends)


def pair_picture(scene: Scene, i: int, j: int, *, most: int = 80, height: int = 260) -> tuple[np.ndarray, int]:
    """Two photos side by side, (H, W, 3) uint8, with lines between the points that both show, and how many there are.

    At most `most` lines are drawn, evenly chosen; their colours tell them apart and mean nothing.
    """
    import cv2

    _, ours, theirs = shared_observations(scene, i, j)
    pictures, places, start = [], [], 0
    for index, uv in ((i, ours), (j, theirs)):
        view = scene.views[index]
        affine, zoom = view.source.affine, height / view.image.shape[0]
        width = round(view.image.shape[1] * zoom)
        pictures.append(cv2.resize(view.image, (width, height), interpolation=cv2.INTER_AREA))
        places.append((uv @ affine[:2, :2].T + affine[:2, 2]) * zoom + (start, 0))
        start += width + 6
    gap = np.full((height, 6, 3), PAPER, np.uint8)
    picture = np.ascontiguousarray(np.concatenate([pictures[0], gap, pictures[1]], 1))
    chosen = np.unique(np.linspace(0, max(len(ours) - 1, 0), min(most, len(ours))).astype(int))
    hues = np.linspace(0, 255, max(len(chosen), 1)).astype(np.uint8)
    shades = cv2.applyColorMap(hues[:, None], cv2.COLORMAP_HSV)[:, 0, ::-1]
    for row, shade in zip(chosen, shades, strict=False):
        one, two = ((int(x), int(y)) for x, y in (places[0][row], places[1][row]))
        colour = tuple(int(value) for value in shade)
        cv2.line(picture, one, two, colour, 1, cv2.LINE_AA)
        for place in (one, two):
            cv2.circle(picture, place, 2, colour, -1, cv2.LINE_AA)
    return picture, len(ours)


def shared_observations(scene: Scene, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points (N,) that views i and j both show, and where: (N, 2) and (N, 2), pixels of the original photos."""
    tracks = scene.tracks
    if tracks is None:
        return np.empty(0, int), np.empty((0, 2)), np.empty((0, 2))
    rows = [np.flatnonzero(tracks.view == index) for index in (i, j)]
    points, ours, theirs = np.intersect1d(tracks.point[rows[0]], tracks.point[rows[1]], return_indices=True)
    return points, tracks.uv[rows[0][ours]], tracks.uv[rows[1][theirs]]
