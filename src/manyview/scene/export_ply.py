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
NAMES = {"f4": "float", "u1": "uchar"}


@EXPORTERS.add("ply")
@dataclass(frozen=True, kw_only=True)
class Ply(Exporter):
    """Every point that passes the thresholds (see `Scene.points`), in the scene's frame and unit."""

    line: ClassVar[str] = "points, colours, confidences"
    suffix: ClassVar[str] = ".ply"

    def write(self, scene: Scene, path: Path) -> Path:
        cloud = scene.cloud(min_confidence=self.min_confidence, quantile=self.quantile)
        comment = f"frame {scene.frame}, scale {scene.scale} ({scene.scale_source})"
        comment = "; ".join([comment, *scene.info.get("left_out", [])])
        with fresh_file(path) as temporary:
            write_ply(cloud, temporary, comment=comment)
        return path

    def next_step(self, path: Path) -> str:
        return f"open {shlex.quote(str(path))} in MeshLab, CloudCompare or Blender"


def write_ply(cloud: Cloud, path: Path, *, comment: str) -> None:
    """One `vertex` element: x y z float, red green blue uchar, confidence float."""
    table = np.empty(len(cloud), VERTEX)
    for name, column in zip("xyz", cloud.xyz.T, strict=True):
        table[name] = column
    for name, column in zip(COLOURS, cloud.rgb.T, strict=True):
        table[name] = column
    table["confidence"] = cloud.confidence
    lines = ["ply", "format binary_little_endian 1.0", f"comment manyview: {' '.join(comment.split())}"]
    lines.append(f"element vertex {len(table)}")
    lines += [f"property {NAMES[VERTEX[name].str[1:]]} {name}" for name in VERTEX.names or ()]
    with open(path, "wb") as handle:
        handle.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii", "replace"))
        handle.write(table.data)  # not tofile: it says nothing of a full disk
