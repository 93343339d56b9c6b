"""PLY: the points of a scene with colours and confidences, binary little-endian."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from manyview.files import fresh_file
from manyview.scene.exporters import EXPORTERS, Exporter
from manyview.scene.scene import Cloud, Scene

COLOURS = ("red", "green", "blue")
VERTEX = np.dtype([*((n, "<f4") for n in "xyz"), *((n, "u1") for n in COLOURS), ("confidence", "<f4")])
NAMES = {"f4": "float", "u1": "uchar", "i2": "short"}


@EXPORTERS.add("ply")
@dataclass(frozen=True, kw_only=True)
class Ply(Exporter):
    """Every point that passes the thresholds (see `Scene.points`), in the scene's frame and unit.

    Points of a scene that was asked for things have a `label`: which of the queries, -1 for none.
    """

    line: ClassVar[str] = "points, colours, confidences"
    suffix: ClassVar[str] = ".ply"

    def write(self, scene: Scene, path: Path) -> Path:
        cloud = scene.cloud(min_confidence=self.min_confidence, quantile=self.quantile)
        comment = f"frame {scene.frame}, scale {scene.scale} ({scene.scale_source})"
        comment = "; ".join([comment, *scene.info.get("left_out", [])])
        with fresh_file(path) as temporary:
            write_ply(cloud, temporary, comment=comment, labels=labels_of(scene, cloud))
        return path

    def next_step(self, path: Path) -> str:
        return f"open {shlex.quote(str(path))} in MeshLab, CloudCompare or Blender"


def labels_of(scene: Scene, cloud: Cloud) -> np.ndarray | None:
    """Label of every point of a cloud (N,) int16, -1 where its view has none; None for a scene without labels."""
    if all(view.labels is None for view in scene.views):
        return None
    labels = np.full(len(cloud), -1, np.int16)
    column, row = cloud.uv.astype(np.int64).T
    for index, view in enumerate(scene.views):
        if view.labels is not None:
            mine = cloud.view == index
            labels[mine] = view.labels[row[mine], column[mine]]
    return labels


def write_ply(cloud: Cloud, path: Path, *, comment: str, labels: np.ndarray | None = None) -> None:
    """One `vertex` element: x y z float, red green blue uchar, confidence float, and label short where there are."""
    kind = VERTEX if labels is None else np.dtype([*VERTEX.descr, ("label", "<i2")])
    table = np.empty(len(cloud), kind)
    for name, column in zip("xyz", cloud.xyz.T, strict=True):
        table[name] = column
    for name, column in zip(COLOURS, cloud.rgb.T, strict=True):
        table[name] = column
    table["confidence"] = cloud.confidence
    if labels is not None:
        table["label"] = labels
    lines = ["ply", "format binary_little_endian 1.0", f"comment manyview: {' '.join(comment.split())}"]
    lines.append(f"element vertex {len(table)}")
    lines += [f"property {NAMES[kind[name].str[1:]]} {name}" for name in kind.names or ()]
    with open(path, "wb") as handle:
        handle.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii", "replace"))
        handle.write(table.data)  # not tofile: it says nothing of a full disk
