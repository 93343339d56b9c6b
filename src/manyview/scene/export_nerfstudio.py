"""nerfstudio: transforms.json with OpenGL cameras, the images and the points in the same frame."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from manyview.files import write_json, write_npy
from manyview.geometry import poses
from manyview.scene.export_ply import write_ply
from manyview.scene.exporters import EXPORTERS, PictureExporter
from manyview.scene.originals import Target, targets, write_pictures
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView
from manyview.written import fresh_directory

MARK = "manyview"


@EXPORTERS.add("nerfstudio")
@dataclass(frozen=True, kw_only=True)
class Nerfstudio(PictureExporter):
    """The world is the scene's frame (no applied_transform); only the cameras' axes are turned to OpenGL's."""

    line: ClassVar[str] = "images, transforms.json, points.ply"

    depth: bool = False
    """Also write depth maps of the images' size."""

    def write(self, scene: Scene, path: Path) -> Path:
        chosen = targets(scene, self.size)
        cloud = scene.cloud(min_confidence=self.min_confidence, quantile=self.quantile)
        with fresh_directory(path, overwrite=self.overwrite, what="nerfstudio export") as fresh:
            write_pictures(scene, chosen, fresh / "images", self.size)
            write_ply(cloud, fresh / "points.ply", comment=f"frame {scene.frame}, scale {scene.scale}")
            frames = [_frame(view, target) for view, target in zip(scene.views, chosen, strict=True)]
            if self.depth:
                (fresh / "depth").mkdir()
                for view, target, frame in zip(scene.views, chosen, frames, strict=True):
                    frame["depth_file_path"] = f"depth/{Path(target.name).stem}.npy"
                    write_npy(fresh / frame["depth_file_path"], depth_for(view, target))
            document: dict[str, Any] = {
                "made_by": MARK,
                "camera_model": "OPENCV",
                "scale": scene.scale,
                "ply_file_path": "points.ply",
                "left_out": scene.info.get("left_out", []),
                "frames": frames,
            }
            if self.depth:
                document["depth_unit_scale_factor"] = 1.0
            write_json(fresh / "transforms.json", document)
        return path

    def next_step(self, path: Path) -> str:
        return f"ns-train splatfacto --data {shlex.quote(str(path))}"


def _frame(view: SceneView, target: Target) -> dict[str, Any]:
    k = target.intrinsics
    return {
        "file_path": f"images/{target.name}",
        "transform_matrix": poses.opengl_from_opencv(torch.from_numpy(view.pose)).tolist(),
        "w": target.width,
        "h": target.height,
        **{"fl_x": float(k[0, 0]), "fl_y": float(k[1, 1]), "cx": float(k[0, 2]), "cy": float(k[1, 2])},
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    }


def depth_for(view: SceneView, target: Target) -> np.ndarray:
    """(H, W) float32 depth at the target's pixel centres, nearest; 0 where the model saw nothing."""
    back = np.linalg.inv(target.affine)
    columns = np.floor(back[0, 0] * (np.arange(target.width) + 0.5) + back[0, 2]).astype(np.int64)
    rows = np.floor(back[1, 1] * (np.arange(target.height) + 0.5) + back[1, 2]).astype(np.int64)
    height, width = view.depth.shape
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    sampled = view.depth[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)[None]]
    return np.where(inside, sampled, 0).astype(np.float32)
