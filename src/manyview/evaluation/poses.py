"""Camera poses from photos alone, judged pair by pair: rotation and translation angles, their AUC, and the trajectory.

A few frames of every scene are reconstructed without their cameras, as a user's photos would be. A pair of frames that
is not registered in one frame of reference counts as wrong by 180 degrees.

mAA@30 comes in the way that codes have it, whose numbers are the published ones (the larger of the two errors of a
pair, bins of a degree), and as papers print it: the area below min(RRA, RTA), never smaller than that without bins.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Model, Number, Protocol, Row
from manyview.evaluation.published import wanted
from manyview.evaluation.work import Skipped, Work
from manyview.metrics import pose
from manyview.models.model import Reconstructs, Role
from manyview.pipelines.options import CamerasFrom, ReconstructOptions
from manyview.pipelines.picture_table import places
from manyview.pipelines.reconstruct import reconstruct

UNREGISTERED = 180.0
"""Degrees by which a pair that is not registered together is wrong."""


@PROTOCOLS.add("poses")
@dataclass(frozen=True, kw_only=True)
class Poses(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "poses"
    line: ClassVar[str] = "camera poses from photos alone: AUC, RRA, RTA, mAA of pairs, ATE, share registered"
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    needs: ClassVar[type[Role]] = Reconstructs
    unit: ClassVar[str] = "scenes"
    numbers: ClassVar[tuple[Number, ...]] = (
        *(Number(f"auc{t}", f"AUC@{t}", better="higher") for t in (5, 10, 20, 30)),
        *(Number(f"{kind}{t}", f"{kind.upper()}@{t}", better="higher") for t in (5, 15) for kind in ("rra", "rta")),
        Number("maa30", "mAA@30", better="higher"),
        Number("maa30_min", "mAA@30 of min(RRA, RTA)", better="higher"),
        Number("maa30_exact", "mAA@30, exact", better="higher"),
        Number("rotation", "median rotation error, degrees", digits=2),
        Number("translation", "median translation error, degrees", digits=2),
        Number("registered", "registered", better="higher"),
    )

    frames: int = 10
    """Frames of a scene that are reconstructed together; scenes with fewer give all they have."""
    order: Literal["random", "spread", "first"] = "random"
    """Which frames: at random (CO3Dv2 and RealEstate10K as the field judges them), evenly spread, or the first ones."""
    cameras: CamerasFrom = "auto"
    """What cameras rest on, as in `reconstruct`; model judges the network's own poses."""
    seed: int = 0
    """Seed of the random frames."""

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise UserError(f"frames is {self.frames}; poses are judged between two frames at least")

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        items = []
        for number, (scene, rows) in enumerate(data.scenes().items()):
            posed = [row for row in rows if data[row].pose is not None]
            if len(posed) < 2:
                continue
            chosen = self._frames(posed, number)
            about = {
                "images": [str(data.path(data[row].image)) for row in chosen],
                "cam2world": [list(data[row].cam2world or ()) for row in chosen],
            }
            items.append(Item(f"{number:06d}", scene, {"frames": str(len(chosen))}, about))
        if not items:
            raise UserError(
                "no scene of the manifest has two frames with a pose (cam2world); scan data that has them: "
                f"{wanted('co3d')}"
            )
        return items

    def _frames(self, rows: Sequence[int], number: int) -> list[int]:
        count = min(self.frames, len(rows))
        if self.order == "first":
            return list(rows[:count])
        if self.order == "spread":
            return [rows[place] for place in places(len(rows), count)]
        rng = np.random.default_rng([self.seed, number])
        return [rows[place] for place in rng.choice(len(rows), count, replace=False)]

    def ask(self, model: Model, data: Manifest, item: Item) -> Answer | Skipped:
        options = ReconstructOptions(cameras=self.cameras)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is not registered is counted
            scene = reconstruct(item.about["images"], model=model, options=options)
        posed = [np.eye(4) if view.cam2world is None else view.cam2world for view in scene.views]
        by_word = self.cameras == "model"  # else what the network alone places is not registered
        placed = [view.registered or (by_word and view.cam2world is not None) for view in scene.views]
        return {
            "cam2world": np.stack(posed),
            "frame": np.array(
                [view.component if known else -1 for view, known in zip(scene.views, placed, strict=True)]
            ),
        }

    def judge(self, item: Item, answer: Answer, truth: Any) -> Row:
        true = np.array(item.about["cam2world"], np.float64).reshape(-1, 4, 4)
        return pose_numbers(answer["cam2world"], answer["frame"], true)


def pose_numbers(cam2world: np.ndarray, frame: np.ndarray, true: np.ndarray) -> Row:
    """Numbers of poses (V, 4, 4) against true ones; frame (V,): which share a frame of reference, -1 for none.

    `ate` is the root mean square distance of the camera centres of the largest frame after a similarity, in the unit of
    the true poses; None where a similarity is not determined.
    """
    rotation, translation, pairs = pose.relative_pose_errors(np.linalg.inv(cam2world), np.linalg.inv(true))
    together = (frame[pairs[:, 0]] == frame[pairs[:, 1]]) & (frame[pairs[:, 0]] >= 0)
    rotation, translation = (np.where(together, error, UNREGISTERED) for error in (rotation, translation))
    largest = np.maximum(rotation, translation)
    row: Row = {f"auc{t}": pose.pose_auc(largest, t) for t in (5, 10, 20, 30)}
    for kind, errors in (("rra", rotation), ("rta", translation)):
        row |= {f"{kind}{t}": pose.pose_accuracy(errors, t) for t in (5, 15)}
    row["maa30"] = pose.mean_average_accuracy(rotation, translation)
    row["maa30_min"] = pose.paper_average_accuracy(rotation, translation)
    row["maa30_exact"] = pose.exact_average_accuracy(rotation, translation)
    row["rotation"], row["translation"] = float(np.median(rotation)), float(np.median(translation))
    counts = np.bincount(frame[frame >= 0], minlength=1)
    main = frame == counts.argmax()
    row["registered"] = float(counts.max() / len(frame))
    error = pose.trajectory_error(cam2world[main], true[main])["rmse"] if main.sum() > 2 else float("nan")
    return {**row, "ate": error if np.isfinite(error) else None}
