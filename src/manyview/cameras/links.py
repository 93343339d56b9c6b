"""What the matches of two photos say about their cameras, verified: a rotation, a direction, and with depth a distance.

With parallax the essential matrix gives the pose and depth only its length; without, the pose comes from the matches
and the depth of one of the photos (PnP, tried both ways).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import gammaln

from manyview.cameras.keypoints import Keypoints
from manyview.cameras.lens import camera
from manyview.cameras.turn import AS_WELL, PRECISE, off_by_turning

LEAST, TILTED_LEAST = 15, 30
"""Matches that must agree on one epipolar geometry; of tilted photos, where one place gives several."""
CHANCE = -8.0
"""Log10 of the number of false links that as many agreeing matches would give by chance: above it there is no link."""
EPIPOLAR, REPROJECTION = 1.5, 6.0
"""Largest errors of agreeing matches, in pixels as looked at: to the epipolar line, and of depth."""
WIDEST = 75.0
"""Median angle between the rays of matches past which no keypoint would be recognised: a chance geometry."""
DISPUTE = 0.35
"""Median spread of the logarithm of triangulated over predicted depth past which the two contradict each other."""
PARALLAX = 2.0
"""Median angle in degrees between the rays of matches from which on the essential matrix is trusted."""

POLISH = (16.0, 4.0, EPIPOLAR)
"""Distances to the epipolar line, in pixels as looked at, within which matches refine a network's relative pose."""

Evidence = Literal["matches", "depth"]


@dataclass(frozen=True)
class Photo:
    """What the cameras are found from, of one photo. Pixels are those of the original, centres at +0.5."""

    keypoints: Keypoints
    size: tuple[int, int]
    """(H, W)."""
    principal: np.ndarray
    """(2,) x, y."""
    depth: np.ndarray
    """(N,) predicted depth at the keypoints, NaN where there is none."""
    pixel: np.ndarray
    """(N,) how precise each keypoint is, in pixels of the original."""


@dataclass(frozen=True)
class Link:
    """Two photos i < j that see the same things."""

    i: int
    j: int
    matches: np.ndarray
    """(M, 2) indices of keypoints that agree."""
    j_from_i: np.ndarray
    """(4, 4) camera coordinates of i to those of j."""
    rests_on: Evidence
    parallax: float
    """Median angle in degrees between the rays of matches."""
    turned: bool = False
    """Whether a turn alone explains the matches: they show no baseline, and its length is that of the depth."""


Why = Literal["few", "chance", "wide", "depth", "turn", "mirrored", "others"]
UNLINKED: dict[str, str] = {
    "few": "too few matches agree on one geometry",
    "chance": "as many matches would agree by chance",
    "wide": "the geometry is so wide that nothing would be recognised",
    "depth": "the predicted depth contradicts the matches",
    "turn": "a turn of the camera explains the matches: no parallax, and no depth that fits",
    "mirrored": "one of the photos fits better turned over, left to right: it is mirrored",
    "others": "the other photos contradict it",
}
"""Why matches of two photos say nothing of their cameras."""


@dataclass(frozen=True)
class Unlinked:
    """Two photos i < j whose matches make no link."""

    i: int
    j: int
    matches: int
    agreeing: int
    why: Why


def rays(photo: Photo, chosen: np.ndarray, focal: float) -> np.ndarray:
    """(M, 3) directions with z = 1 of some keypoints."""
    uv = (photo.keypoints.uv[chosen] - photo.principal) / focal
    return np.concatenate([uv, np.ones((len(uv), 1))], 1)


def chance(agreeing: int, of: int, size: tuple[int, int], pixel: float) -> float:
    """Log10 of how often so many of the matches agree by chance in all the geometries that were tried (a contrario)."""
    free = 5
    if agreeing <= free:
        return 0.0
    height, width = (side / pixel for side in size)
    band = min(1.0, 2 * EPIPOLAR * float(np.hypot(height, width)) / (height * width))
    choose = (gammaln(of + 1) - gammaln(agreeing + 1) - gammaln(of - agreeing + 1)) / np.log(10)
    return float(choose + (agreeing - free) * np.log10(band) + np.log10(max(of, 1)))


def epipolar_distances(one: np.ndarray, two: np.ndarray, focal: float, two_from_one: np.ndarray) -> np.ndarray:
    """(M,) pixels of the second photo from matches, rays (M, 3), to their epipolar lines; infinite without baseline."""
    turn, shift = two_from_one[:3, :3], two_from_one[:3, 3]
    if np.linalg.norm(shift) < 1e-9:
        return np.full(len(one), np.inf)
    lines = np.cross(shift, one @ turn.T)
    across = np.abs((lines * two).sum(1)) / np.maximum(np.linalg.norm(lines[:, :2], axis=1), 1e-12)
    distance: np.ndarray = focal * across
    return distance


def link(
    i: int,
    j: int,
    one: Photo,
    two: Photo,
    matches: np.ndarray,
    focals: tuple[float, float],
    least: int,
    said: np.ndarray | None = None,
) -> Link | Unlinked:
    """The link of two photos by their matches (M, 2), or why there is none.

    said: (4, 4) j from i as a network has it, which is taken where it is nearer to more matches than what they say
    themselves.
    """
    import poselib

    tried = len(matches)
    if tried < least:
        return Unlinked(i, j, tried, 0, "few")
    first, second = matches.T
    lenses = [camera(f, photo.size, photo.principal) for f, photo in zip(focals, (one, two), strict=True)]
    pixel = (one.keypoints.pixel + two.keypoints.pixel) / 2
    ransac = {"max_epipolar_error": EPIPOLAR * pixel, "max_iterations": 5000, "min_iterations": 200, "seed": 1}
    pose, about = poselib.estimate_relative_pose(one.keypoints.uv[first], two.keypoints.uv[second], *lenses, ransac, {})
    agreeing = np.array(about["inliers"], bool)
    if said is not None:
        pose, agreeing = _better(pose, agreeing, said, one, two, matches, focals, lenses)
    count = int(agreeing.sum())
    if count < least or chance(count, tried, two.size, two.keypoints.pixel) > CHANCE:
        return Unlinked(i, j, tried, count, "few" if count < least else "chance")
    matches = matches[agreeing]
    first, second = matches.T
    here, there = rays(one, first, focals[0]), rays(two, second, focals[1])
    seen = here @ pose.R.T, there
    cosine = (seen[0] * seen[1]).sum(1) / np.linalg.norm(seen[0], axis=1) / np.linalg.norm(seen[1], axis=1)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    j_from_i = np.eye(4)
    j_from_i[:3, :3], j_from_i[:3, 3] = pose.R, pose.t
    precise = np.median(epipolar_distances(here, there, focals[1], j_from_i)) / two.keypoints.pixel
    off = off_by_turning(here, there, focals[1]) / two.keypoints.pixel
    by_depth = _by_depth(one, two, matches, focals, lenses)
    if off < AS_WELL * max(precise, PRECISE):
        if by_depth is None:
            return Unlinked(i, j, tried, count, "turn")
        return Link(i, j, matches, by_depth, "depth", float(np.median(angles)), turned=True)
    length, spread = _length(*seen, pose.t, angles, one.depth[first])
    if np.median(angles) > WIDEST or spread > DISPUTE:
        return Unlinked(i, j, tried, count, "depth" if spread > DISPUTE else "wide")
    if by_depth is not None and (length is None or np.median(angles) <= PARALLAX):
        return Link(i, j, matches, by_depth, "depth", float(np.median(angles)))
    if np.median(angles) <= PARALLAX / 4:  # a direction that no parallax shows is no evidence
        return Unlinked(i, j, tried, count, "turn")
    j_from_i[:3, 3] *= 1.0 if length is None else length
    return Link(i, j, matches, j_from_i, "matches", float(np.median(angles)))


def _better(
    pose: Any,
    agreeing: np.ndarray,
    said: np.ndarray,
    one: Photo,
    two: Photo,
    matches: np.ndarray,
    focals: tuple[float, float],
    lenses: list[dict[str, object]],
) -> tuple[Any, np.ndarray]:
    """A network's pose, refined by the matches near it, where more matches agree with it; else the one at hand."""
    import poselib

    seen = rays(one, matches[:, 0], focals[0]), rays(two, matches[:, 1], focals[1])
    pixel, other, now = two.keypoints.pixel, poselib.CameraPose(), said
    for near in POLISH:
        kept = epipolar_distances(*seen, focals[1], now) < near * pixel
        if kept.sum() <= agreeing.sum():
            return pose, agreeing
        other.R, other.t = now[:3, :3], now[:3, 3]
        uv = one.keypoints.uv[matches[kept, 0]], two.keypoints.uv[matches[kept, 1]]
        settings = {"loss_type": "CAUCHY", "loss_scale": EPIPOLAR * pixel}
        other, _ = poselib.refine_relative_pose(*uv, other, *lenses, settings)
        now = np.eye(4)
        now[:3, :3], now[:3, 3] = other.R, other.t
    kept = epipolar_distances(*seen, focals[1], now) < EPIPOLAR * pixel
    return (other, kept) if kept.sum() > agreeing.sum() else (pose, agreeing)


def _length(
    one: np.ndarray, two: np.ndarray, direction: np.ndarray, angles: np.ndarray, depth: np.ndarray
) -> tuple[float | None, float]:
    """Length of the baseline that gives triangulated points the predicted depth, and how much they disagree about it.

    Rays (M, 3) of both photos in the second one's axes; z = 1 in their own camera. None and 0 without enough of both.
    """
    a, b, c = (one * one).sum(1), -(one * two).sum(1), (two * two).sum(1)
    along = (c * -(one @ direction) - b * (two @ direction)) / np.maximum(a * c - b * b, 1e-12)
    good = (along > 1e-3) & (angles > PARALLAX / 4) & np.isfinite(depth)
    if good.sum() <= 8:
        return None, 0.0
    ratio = np.log(depth[good] / along[good])
    return float(np.exp(np.median(ratio))), float(np.median(np.abs(ratio - np.median(ratio))))


def _by_depth(
    one: Photo, two: Photo, matches: np.ndarray, focals: tuple[float, float], lenses: list[dict[str, object]]
) -> np.ndarray | None:
    """(4, 4) second from first, by the depth of whichever photo places more matches in the other; None if neither."""
    import poselib

    best: tuple[int, np.ndarray] | None = None
    for forward in (True, False):
        source, target = (one, two) if forward else (two, one)
        here, there = matches.T if forward else matches.T[::-1]
        depth = source.depth[here]
        known = np.isfinite(depth)
        if known.sum() < LEAST:
            continue
        points = rays(source, here[known], focals[not forward]) * depth[known, None]
        ransac = {"max_reproj_error": REPROJECTION * target.keypoints.pixel, "max_iterations": 2000, "seed": 1}
        pose, about = poselib.estimate_absolute_pose(
            target.keypoints.uv[there[known]], points, lenses[forward], ransac, {}
        )
        if about["num_inliers"] >= LEAST and (best is None or about["num_inliers"] > best[0]):
            target_from_source = np.eye(4)
            target_from_source[:3, :3], target_from_source[:3, 3] = pose.R, pose.t
            best = about["num_inliers"], target_from_source if forward else np.linalg.inv(target_from_source)
    return None if best is None else best[1]
