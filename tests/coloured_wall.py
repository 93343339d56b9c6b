"""A scene made by hand to be looked at: a wall, red on its left and green on its right, and cameras of every trust."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyview.cameras.tracks import REGISTERED, RestsOn, Tracks, no_tracks
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source

HEIGHT, WIDTH, FOCAL, AWAY, BORDER = 48, 64, 60.0, 2.0, 0.3
RED, GREEN = (220, 20, 20), (20, 200, 20)
SURE = {RED: 1.0, GREEN: 5.0}
"""Confidence of each colour: of both halves only green is left when the less confident half goes."""


def coloured_wall(worth: Sequence[RestsOn] = ("matches", "matches", "depth", "nothing")) -> Scene:
    """Views 0.3 apart before one wall; those that rest on nothing are components of their own, without tracks."""
    source_k = np.array([[2 * FOCAL, 0, WIDTH], [0, 2 * FOCAL, HEIGHT], [0, 0, 1.0]])
    affine = np.diag([0.5, 0.5, 1])
    views, lone = [], 0
    for index, kind in enumerate(worth):
        lone += kind == "nothing"
        pose = np.eye(4)
        pose[0, 3] = 0.3 * index * (kind != "nothing")
        x = pose[0, 3] + (np.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL * AWAY
        left = np.tile(x < BORDER, (HEIGHT, 1))
        shared = kind in REGISTERED and kind != "given"
        views.append(
            SceneView(
                name=f"{index}.png",
                image=np.where(left[..., None], RED, GREEN).astype(np.uint8),
                depth=np.full((HEIGHT, WIDTH), AWAY, np.float32),
                confidence=np.where(left, SURE[RED], SURE[GREEN]).astype(np.float32),
                intrinsics=affine @ source_k,
                cam2world=pose,
                source=Source((2 * HEIGHT, 2 * WIDTH), affine, source_k),
                rests_on=kind,
                component=lone if kind == "nothing" else 0,
                inliers=60 if shared else 0,
                error_px=0.5 if shared else None,
            )
        )
    tied = [index for index, kind in enumerate(worth) if kind in ("matches", "depth")]
    return Scene(views, tracks=_tracks(views, tied), info={"made_by": "hand", "skipped": [], "warnings": []})


def _tracks(views: Sequence[SceneView], tied: Sequence[int]) -> Tracks:
    """60 places of the wall and where the tied views show them; the last 20 are shown by the first two alone."""
    if len(tied) < 2:
        return no_tracks()
    points = np.stack([*np.random.default_rng(0).uniform([-0.2, -0.5], [0.8, 0.5], (60, 2)).T, np.full(60, AWAY)], 1)
    view, point, uv = [], [], []
    for place in tied:
        for number in range(60 if place in tied[:2] else 40):
            local = views[place].source.intrinsics @ (points[number] - views[place].cam2world[:3, 3])
            view.append(place)
            point.append(number)
            uv.append(local[:2] / local[2])
    return Tracks(points, np.zeros(60, int), np.array(view), np.array(point), np.array(uv))


def near(picture: np.ndarray, colour: Sequence[int], within: int = 40) -> int:
    """How many pixels of a picture (H, W, 3) are of about that colour."""
    return int((np.abs(picture.astype(int) - np.array(colour)).max(-1) <= within).sum())
