"""Map-free relocalisation: virtual correspondence errors, and the benchmark's numbers of a submission.

Definitions as in the benchmark's own code (github.com/nianticlabs/map-free-reloc, benchmark), read and written anew.

Legend: N poses, P = 196 virtual points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from manyview.metrics.arrays import Array, as_numpy
from manyview.metrics.pose import rotation_error

CENTIMETRES, DEGREES = 25.0, 5.0
"""A pose counts below both."""
PIXELS = (45.0, 90.0)
"""Limits of the virtual correspondence error; older tables have 90 alone."""
EVERY = 5
"""Of a scene's true poses every so many-th, by position, is judged (the single frame track)."""


@dataclass
class ScenePoses:
    """What is known of one scene: estimates of judged frames, and how many of these have none."""

    translation: list[float] = field(default_factory=list)
    """Metres."""
    rotation: list[float] = field(default_factory=list)
    """Degrees."""
    reprojection: list[float] = field(default_factory=list)
    """Pixels."""
    confidence: list[float] = field(default_factory=list)
    failures: int = 0


def virtual_points() -> np.ndarray:
    """(P, 3) metres in the camera's frame: 7 across, 4 down, 7 deep, 0.3 apart, from 1.8 m on."""
    across, down, deep = (0.3 * np.arange(count) for count in (7, 4, 7))
    x, y, z = np.meshgrid(across - across.mean(), down - down.mean(), deep + 1.8, indexing="ij")
    return np.stack([x, y, z], -1).reshape(-1, 3)


def virtual_correspondence_error(
    predicted_cam2world: Array, true_cam2world: Array, intrinsics: Array, size: tuple[float, float]
) -> np.ndarray:
    """(N,) pixels: mean distance of the virtual points seen by the true and by the predicted cameras (N, 4, 4).

    size: (width, height), to which all pixels are clamped; that bounds the error. Points behind a camera are not left
    out.
    """
    predicted, true = (as_numpy(poses, np.float64) for poses in (predicted_cam2world, true_cam2world))
    lens, points = as_numpy(intrinsics, np.float64), virtual_points()
    moved = np.linalg.inv(predicted) @ true
    seen = points @ np.swapaxes(moved[:, :3, :3], -1, -2) + moved[:, None, :3, 3]

    def pixels(camera: np.ndarray) -> np.ndarray:
        image = camera @ lens.T
        with np.errstate(all="ignore"):
            return np.clip(image[..., :2] / image[..., 2:], 0, size)

    return np.asarray(np.linalg.norm(pixels(seen) - pixels(points), axis=-1).mean(-1))


Pose = tuple[np.ndarray, float]
"""Camera to world (4, 4) and confidence."""


def read_poses(text: str, *, confidences: bool) -> dict[int, Pose]:
    """A file of lines "seq1/frame_00005.jpg qw qx qy qz tx ty tz [confidence]", world to camera: frame -> pose.

    As the benchmark reads it: lines with another number of words, of no number, of a quaternion of zeros, or with a #
    in the name count for nothing.
    """
    import torch  # here, so that importing the metrics costs nothing but numpy

    from manyview.geometry.poses import matrix_from_quaternion

    poses: dict[int, Pose] = {}
    for line in text.splitlines():
        words = line.strip().split(" ")
        if len(words) != 8 + confidences or "#" in words[0]:
            continue
        try:
            number, values = int(words[0][-9:-4]), np.array([float(word) for word in words[1:]])
        except ValueError:
            continue
        if not np.isfinite(values).all() or np.isclose(np.linalg.norm(values[:4]), 0):
            continue
        world2cam = np.eye(4)
        world2cam[:3, :3], world2cam[:3, 3] = matrix_from_quaternion(torch.from_numpy(values[:4])), values[4:7]
        poses[number] = np.linalg.inv(world2cam), float(values[7]) if confidences else 1.0
    return poses


def pose_line(name: str, cam2world: Array, confidence: float) -> str:
    """A line of a submission: world to camera, real part of the quaternion first and not negative."""
    import torch

    from manyview.geometry.poses import quaternion_from_matrix

    world2cam = np.linalg.inv(as_numpy(cam2world, np.float64))
    numbers = [*quaternion_from_matrix(torch.from_numpy(world2cam[:3, :3])).tolist(), *world2cam[:3, 3], confidence]
    return " ".join([name, *(f"{number:.8f}" for number in numbers)])


def judged_scene(
    estimates: Mapping[int, Pose] | None,
    truth: Mapping[int, np.ndarray],
    intrinsics: Mapping[int, np.ndarray],
    size: tuple[float, float],
) -> ScenePoses:
    """Errors of a scene's estimates. truth: all its frames in the order of the file; every EVERY-th is judged.

    estimates: None for a scene that a submission lacks; all its frames are failures then, as in the benchmark.
    """
    if estimates is None:
        return ScenePoses(failures=len(truth))
    found = ScenePoses()
    for number, true in list(truth.items())[::EVERY]:
        if number not in estimates:
            found.failures += 1
            continue
        pose, confidence = estimates[number]
        found.translation.append(float(np.linalg.norm(pose[:3, 3] - true[:3, 3])))
        found.rotation.append(float(rotation_error(pose[:3, :3], true[:3, :3])))
        error = virtual_correspondence_error(pose[None], true[None], intrinsics[number], size)
        found.reprojection.append(float(error[0]))
        found.confidence.append(confidence)
    return found


def precision_recall(confidence: Array, accepted: Array, failures: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Precision and recall over the limit on confidence, from the loosest to (1, 0), and the area below.

    Equal confidences are one point. `failures` are judged frames without estimate: recall never counts them.
    """
    confidence, accepted = as_numpy(confidence, np.float64), as_numpy(accepted, bool)
    order = np.argsort(confidence, kind="stable")[::-1]
    values, hits = confidence[order], np.cumsum(accepted[order])
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    precision, recall = hits[last] / (last + 1), (last + 1) / (len(values) + failures)
    precision, recall = np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)
    return precision, recall, float(-(np.diff(recall) * precision[:-1]).sum())


def mapfree_scores(scenes: Sequence[ScenePoses]) -> dict[str, float]:
    """The benchmark's numbers; shares are of all judged frames, medians are means over scenes that have estimates.

    `precision_*`, `auc_*` of pose (25 cm and 5 degrees) and vcre_45, vcre_90; `median_translation` (m),
    `median_rotation` (degrees), `median_reprojection` (pixels); `estimated`, the share of frames with a pose.
    """
    with_poses = [scene for scene in scenes if scene.confidence]
    failures = sum(scene.failures for scene in scenes)
    parts = {
        name: [np.array(getattr(scene, name)) for scene in with_poses]
        for name in ("translation", "rotation", "reprojection", "confidence")
    }
    together = {name: np.concatenate([np.zeros(0), *each]) for name, each in parts.items()}
    count = len(together["confidence"]) + failures
    good = {"pose": (together["translation"] < CENTIMETRES / 100) & (together["rotation"] < DEGREES)}
    good |= {f"vcre_{limit:g}": together["reprojection"] < limit for limit in PIXELS}
    scores = {"estimated": len(together["confidence"]) / count if count else float("nan")}
    for name, accepted in good.items():
        scores[f"precision_{name}"] = float(accepted.sum() / count) if count else float("nan")
        area = precision_recall(together["confidence"], accepted, failures)[2] if len(accepted) else 0.0
        scores[f"auc_{name}"] = area
    for name in ("translation", "rotation", "reprojection"):
        medians = [float(np.median(values)) for values in parts[name]]
        scores[f"median_{name}"] = float(np.mean(medians)) if medians else float("nan")
    return scores
