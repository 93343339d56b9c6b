"""Map-free relocalisation: where a photo was taken, in metres, from one other photo of the place (DUNE, Table 1).

A query is reconstructed with its scene's reference photo, intrinsics known. Poses are judged as the benchmark judges a
submission, which is written as well: `submission.zip`, one `pose_SCENE.txt` per scene. Where poses are kept secret (the
test split) only that is written.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, Answer, Item, Method, Model, Number, Protocol, Row, Summary, Work
from manyview.evaluation.published import wanted
from manyview.evaluation.tables import markdown_table
from manyview.files import write_bytes
from manyview.metrics.mapfree import (
    CENTIMETRES,
    DEGREES,
    EVERY,
    PIXELS,
    ScenePoses,
    mapfree_scores,
    pose_line,
    virtual_correspondence_error,
)
from manyview.metrics.pose import rotation_error
from manyview.models.model import Reconstructs, Role
from manyview.pipelines.options import CamerasFrom, ReconstructOptions
from manyview.pipelines.reconstruct import reconstruct

SECRET = "its pose is kept secret"


@PROTOCOLS.add("map-free")
@dataclass(frozen=True, kw_only=True)
class MapFree(Protocol):
    """The protocol's options."""

    name: ClassVar[str] = "map-free"
    line: ClassVar[str] = "metric pose from one photo of the place: VCRE, AUC, the benchmark's submission (DUNE)"
    needs: ClassVar[type[Role]] = Reconstructs
    next_step: ClassVar[str] = "reconstruct IMAGES -o scene"
    unit: ClassVar[str] = "queries"
    title: ClassVar[str] = "Map-free relocalisation"
    labels: ClassVar[Mapping[str, str]] = {"model": "model", "identity": "every query taken where the reference was"}
    numbers: ClassVar[tuple[Number, ...]] = (
        *(Number(f"auc_vcre_{p:g}", f"AUC VCRE < {p:g} px", "higher") for p in reversed(PIXELS)),
        *(Number(f"precision_vcre_{p:g}", f"precision VCRE < {p:g} px", "higher") for p in reversed(PIXELS)),
        Number("auc_pose", f"AUC {CENTIMETRES:g} cm, {DEGREES:g}°", "higher"),
        Number("precision_pose", f"precision {CENTIMETRES:g} cm, {DEGREES:g}°", "higher"),
        Number("median_reprojection", "median VCRE px", digits=1),
        Number("median_translation", "median m", digits=2),
        Number("median_rotation", "median °", digits=1),
        Number("estimated", "with a pose", "higher"),
    )

    cameras: CamerasFrom = "auto"
    """What cameras rest on, as in `reconstruct`; model judges the network's own poses."""
    every: int = EVERY
    """Every so many-th query of a scene is asked about; the single frame track judges every fifth."""
    queries: int = 0
    """At most so many queries of a scene, the first ones; 0 for all. A submission needs all."""

    def choose(self, model: Model, data: Manifest, work: Work) -> list[Item]:
        items: list[Item] = []
        for scene, rows in data.scenes().items():
            first = [row for row in rows if data[row].frame.startswith("seq0/")]
            later = [row for row in rows if data[row].frame.startswith("seq1/")][:: self.every]
            for row in later[: self.queries or None] if first else ():
                pair = [data[first[0]], data[row]]
                if any(frame.intrinsics is None for frame in pair):
                    raise UserError(
                        f"{pair[1].image} or its reference has no intrinsics; unpack intrinsics.txt, scan again"
                    )
                here, there = pair[0].pose, pair[1].pose
                true = None if here is None or there is None else (np.linalg.inv(here) @ there).tolist()
                about = {
                    "images": [str(data.path(frame.image)) for frame in pair],
                    "intrinsics": [np.asarray(frame.intrinsics).tolist() for frame in pair],
                    "size": [pair[1].width, pair[1].height],
                    "cam2world": true,
                }
                name = f"seq1/{PurePosixPath(pair[1].image).name}"
                items.append(Item(f"{len(items):06d}", scene, {"frame": name}, about))
        if not items:
            raise UserError(f"no scene has photos of seq0 and seq1; scan the Map-free data set: {wanted('mapfree')}")
        work.note(metric=bool(getattr(model, "metric", False)))
        return items

    def methods(self, model: Model, data: Manifest, work: Work) -> Mapping[str, Method]:
        return {"model": partial(self._answers, model), "identity": _identity}

    def _answers(self, model: Model, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        options = ReconstructOptions(cameras=self.cameras)
        for item in items:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is not registered is counted
                known = np.array(item.about["intrinsics"])
                scene = reconstruct(item.about["images"], model=model, intrinsics=known, options=options)
            first, second = scene.views
            if first.cam2world is None or second.cam2world is None or first.component != second.component:
                yield item, {"confidence": np.array(0.0)}
                continue
            pose = np.linalg.inv(first.cam2world) @ second.cam2world
            yield item, {"cam2world": pose, "confidence": np.array(float(second.inliers or 1))}

    def judge(self, item: Item, answer: Answer, truth: Any) -> Row:
        if item.about["cam2world"] is None:
            return {"failed": SECRET}
        good = ("precision_pose", *(f"precision_vcre_{p:g}" for p in PIXELS))
        if "cam2world" not in answer:
            return {**dict.fromkeys(good, 0.0), "missing": True}
        true, pose = np.array(item.about["cam2world"]), answer["cam2world"]
        lens = np.array(item.about["intrinsics"][1])
        error = float(virtual_correspondence_error(pose[None], true[None], lens, tuple(item.about["size"]))[0])
        translation = float(np.linalg.norm(pose[:3, 3] - true[:3, 3]))
        rotation = float(rotation_error(pose[:3, :3], true[:3, :3]))
        right = translation < CENTIMETRES / 100 and rotation < DEGREES
        return {
            **dict(zip(good, [float(right), *(float(error < p) for p in PIXELS)], strict=True)),
            "translation": translation,
            "rotation": rotation,
            "reprojection": error,
            "confidence": float(answer["confidence"]),
            "missing": False,
        }

    def means(self, rows: Sequence[Row]) -> Row:
        """As the benchmark averages; queries without a pose are failures, secret ones take no part."""
        scenes: dict[str, ScenePoses] = {}
        judged = [row for row in rows if "failed" not in row]
        for row in judged:
            of = scenes.setdefault(row["scene"], ScenePoses())
            if row["missing"]:
                of.failures += 1
                continue
            for name in ("translation", "rotation", "reprojection", "confidence"):
                getattr(of, name).append(row[name])
        scores = mapfree_scores(list(scenes.values())) if judged else {}
        kept = {key: value for key, value in scores.items() if np.isfinite(value)}
        return {**kept, self.unit: len(judged), "failed": len(rows) - len(judged)}

    def summarise(self, rows: Mapping[str, list[Row]], work: Work, more: Sequence[Row] = ()) -> Summary:
        return {self.unit: len(work.items), "scenes": len({item.scene for item in work.items}), **work.about}

    def sections(self, summary: Summary) -> list[str]:
        unit = "" if summary["metric"] else " The model does not speak of metres: distances are in a unit of its own."
        secret = max((row["failed"] for row in summary["rows"]), default=0)
        heads = ["", *(number.head for number in self.numbers)]
        return [
            f"{summary['queries']} queries of {summary['scenes']} scenes, {secret} of them with secret poses.{unit}",
            markdown_table(heads, map(self.cells, summary["rows"])),
            "submission.zip is what the benchmark's page takes.",
        ]

    def pictures(self, work: Work, summary: Summary) -> None:
        """The submission: a file per scene of the queries that have a pose."""
        lines: dict[str, list[str]] = {item.scene: [] for item in work.items}
        for item in work.items:
            answer = work.answer("model", item)
            if isinstance(answer, dict) and "cam2world" in answer:
                line = pose_line(item.names["frame"], answer["cam2world"], float(answer["confidence"]))
                lines[item.scene].append(line)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for scene, of in lines.items():
                entry = zipfile.ZipInfo(f"pose_{PurePosixPath(scene).name}.txt")  # of a fixed date: the same file again
                archive.writestr(entry, "".join(f"{line}\n" for line in of))
        write_bytes(work.path / "submission.zip", buffer.getvalue())


def _identity(items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
    return ((item, {"cam2world": np.eye(4), "confidence": np.array(1.0)}) for item in items)
