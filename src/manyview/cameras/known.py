"""Cameras that are known beforehand: photos brought into their frame, and whether the matches deny them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manyview.cameras import bundle
from manyview.cameras.keypoints import Keypoints
from manyview.cameras.links import Link, Photo, rays

DENIED_PX, DENIED_SHARE = 6.0, 0.5
"""Matches that lie further than so many pixels (as looked at) from the epipolar line of the given cameras deny them; a
link does so when this share of its matches does."""
ZOOMS = np.geomspace(0.6, 1.67, 13)
"""What focal lengths that are not given may be off by, where given poses are held against the matches."""

MISTAKES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "they fit as world-to-camera poses: give their inverses": np.linalg.inv,
    "they fit with OpenGL axes (y up, z backward): turn y and z of each camera over": lambda pose: (
        pose @ np.diag([1.0, -1.0, -1.0, 1.0])
    ),
}
"""What poses are often given as instead, and the mend."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: np.ndarray  # (3, 3)
    translation: np.ndarray  # (3,)

    def poses(self, cam2world: np.ndarray) -> np.ndarray:
        """Poses (V, 4, 4) moved by it."""
        moved = cam2world.copy()
        moved[:, :3, :3] = self.rotation @ cam2world[:, :3, :3]
        moved[:, :3, 3] = self.scale * cam2world[:, :3, 3] @ self.rotation.T + self.translation
        return moved

    def solution(self, at: bundle.Solution) -> bundle.Solution:
        """A solution moved by it; depth grows with the rest."""
        rotation = at.rotation @ self.rotation.T
        return replace(
            at,
            rotation=rotation,
            translation=self.scale * at.translation - rotation @ self.translation,
            points=self.scale * at.points @ self.rotation.T + self.translation,
            log_scale=at.log_scale + np.log(self.scale),
        )


def towards(cam2world: np.ndarray, known: Sequence[np.ndarray | None]) -> Similarity:
    """What brings poses (V, 4, 4) nearest to the known ones of them.

    Rotation from the cameras' own, scale from the distances between them (1 where there is none), one known pose being
    met exactly.
    """
    rows = [row for row, pose in enumerate(known) if pose is not None]
    true = np.stack([pose for pose in known if pose is not None])
    ours = cam2world[rows]
    left, _, right = np.linalg.svd(np.einsum("vij,vkj->ik", true[:, :3, :3], ours[:, :3, :3]))
    rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    first, second = np.triu_indices(len(rows), 1)
    lengths = [np.linalg.norm(p[first, :3, 3] - p[second, :3, 3], axis=1) for p in (true, ours)]
    apart = (lengths[0] > 1e-9) & (lengths[1] > 1e-9)
    scale = float(np.exp(np.median(np.log(lengths[0][apart] / lengths[1][apart])))) if apart.any() else 1.0
    shift = np.median(true[:, :3, 3] - scale * ours[:, :3, 3] @ rotation.T, axis=0)
    return Similarity(scale, rotation, shift)


def squared(keypoints: Keypoints, intrinsics: np.ndarray | None, *, back: bool = False) -> Keypoints:
    """Keypoints as a camera with fy = fx would see them (`back`: of such a camera, as they are in the photo)."""
    return keypoints if intrinsics is None else replace(keypoints, uv=stretched(keypoints.uv, intrinsics, back=back))


def stretched(uv: np.ndarray, intrinsics: np.ndarray, *, back: bool = False) -> np.ndarray:
    """Pixels (N, 2) with y moved about the principal point so that fy becomes fx (`back`: the other way)."""
    ratio = intrinsics[0, 0] / intrinsics[1, 1]
    middle = intrinsics[1, 2]
    return np.stack([uv[:, 0], middle + (uv[:, 1] - middle) * (1 / ratio if back else ratio)], 1)


def denied(
    photos: Sequence[Photo],
    links: Sequence[Link],
    focals: Sequence[float],
    known: Sequence[np.ndarray | None],
    *,
    zoom: bool,
) -> list[int]:
    """Photos whose given pose more than half of their matches with other given ones contradict.

    `zoom`: focal lengths are guesses, which may all be off by one of ZOOMS.
    """
    both = [one for one in links if known[one.i] is not None and known[one.j] is not None]
    answers = []
    for factor in ZOOMS if zoom else [1.0]:
        denying = [_denies(one, photos, factor * np.asarray(focals), known) for one in both]
        answers.append(_outvoted(len(photos), both, np.array(denying, bool)))
    return min(answers, key=len)


def mistake(
    photos: Sequence[Photo],
    links: Sequence[Link],
    focals: Sequence[float],
    known: Sequence[np.ndarray | None],
    *,
    zoom: bool,
) -> str | None:
    """How given poses that the matches deny would fit, if there is a usual mistake that explains it."""
    for mend, changed in MISTAKES.items():
        tried = [None if pose is None else changed(pose) for pose in known]
        if not denied(photos, links, focals, tried, zoom=zoom):
            return mend
    return None


def _outvoted(count: int, links: Sequence[Link], denying: np.ndarray) -> list[int]:
    """Photos that most of their matches deny, the worst ones first, each without the links of worse ones."""
    ends = np.array([(one.i, one.j) for one in links], int).reshape(-1, 2)
    weight = np.array([len(one.matches) for one in links], float)
    out: list[int] = []
    while True:
        left = ~np.isin(ends, out).any(1)
        asked, against = (
            sum(np.bincount(ends[rows, side], weight[rows], count) for side in (0, 1))
            for rows in (left, left & denying)
        )
        share = against / np.maximum(asked, 1)
        if share.max(initial=0) <= 0.5:
            return sorted(out)
        out += np.flatnonzero(share == share.max()).tolist()


def _denies(one: Link, photos: Sequence[Photo], focals: np.ndarray, known: Sequence[np.ndarray | None]) -> bool:
    pair = photos[one.i], photos[one.j]
    here, there = (
        rays(photo, chosen, focal)
        for photo, chosen, focal in zip(pair, one.matches.T, focals[[one.i, one.j]], strict=True)
    )
    j_from_i = np.linalg.inv(np.asarray(known[one.j])) @ np.asarray(known[one.i])
    turned, shift = here @ j_from_i[:3, :3].T, j_from_i[:3, 3]
    if np.linalg.norm(shift) < 1e-9:  # from one place: rays are the same
        off = np.linalg.norm(turned[:, :2] / np.maximum(turned[:, 2:], 1e-6) - there[:, :2], axis=1)
    else:
        lines = np.cross(shift, turned)  # epipolar lines in the second photo, and in the first
        back = there @ np.cross(shift, np.eye(3)).T @ j_from_i[:3, :3]
        length = np.sqrt((lines[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1))
        off = np.abs((lines * there).sum(1)) / np.maximum(length, 1e-12)
    pixel = (pair[0].keypoints.pixel + pair[1].keypoints.pixel) / 2
    return bool((focals[one.j] * off > DENIED_PX * pixel).mean() > DENIED_SHARE)
