"""GLB: coloured points and a small pyramid per camera, turned so that y is up as glTF wants it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from manyview.files import fresh_file
from manyview.scene.drawing import pyramid
from manyview.scene.exporters import EXPORTERS, Exporter
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView

# More points than this make web viewers stall; the cloud is thinned evenly. PLY keeps them all.
MOST_POINTS = 2_000_000
# Length of a camera's pyramid as a share of the median depth.
CAMERA_LENGTH = 0.05


@EXPORTERS.add("glb")
@dataclass(frozen=True, kw_only=True)
class Glb(Exporter):
    """Nodes `points` and `cameras`; vertices stay in the scene's frame, the nodes turn y up."""

    line: ClassVar[str] = "points and cameras, for any 3D viewer"
    suffix: ClassVar[str] = ".glb"

    def write(self, scene: Scene, path: Path) -> Path:
        import trimesh

        cloud = scene.cloud(min_confidence=self.min_confidence, quantile=self.quantile, most=MOST_POINTS)
        upright = glb_from_scene(scene)
        world = trimesh.Scene()
        if len(cloud):
            colours = np.concatenate([cloud.rgb, np.full((len(cloud), 1), 255, np.uint8)], 1)
            points = trimesh.PointCloud(cloud.xyz, colors=colours)
            world.add_geometry(points, node_name="points", geom_name="points", transform=upright)
        depths = [np.median(view.depth[view.valid]) for view in scene.views if view.valid.any()]
        length = CAMERA_LENGTH * float(np.median(depths)) if depths else CAMERA_LENGTH
        frusta = trimesh.util.concatenate(
            [_pyramid(v, length, i / max(1, len(scene) - 1)) for i, v in enumerate(scene.views)]
        )
        world.add_geometry(frusta, node_name="cameras", geom_name="cameras", transform=upright)
        if missing := scene.info.get("left_out"):
            world.metadata["left_out"] = missing  # the scene's extras in the file
        with fresh_file(path) as temporary:
            temporary.write_bytes(world.export(file_type="glb"))
        return path

    def next_step(self, path: Path) -> str:
        return f"open {shlex.quote(str(path))} in any glTF viewer"


def glb_from_scene(scene: Scene) -> np.ndarray:
    """(4, 4) rotation from the scene's frame to y up.

    A first-view frame is turned half around x (y down becomes y up, forward becomes -z); a given world by the
    shortest rotation that brings the cameras' mean upward direction to y.
    """
    from scipy.spatial.transform import Rotation

    if scene.frame == "first_view":
        return np.diag([1.0, -1.0, -1.0, 1.0])
    turn = np.eye(4)
    up = -np.mean([view.pose[:3, 1] for view in scene.views], axis=0)
    if np.linalg.norm(up) > 1e-6:
        turn[:3, :3] = Rotation.align_vectors([[0.0, 1.0, 0.0]], [up])[0].as_matrix()
    return turn


def _pyramid(view: SceneView, length: float, along: float) -> Any:
    """A closed pyramid from the camera's centre to its picture plane at `length`, blue (first) to red."""
    import trimesh

    faces = [[0, 2, 1], [0, 3, 2], [0, 4, 3], [0, 1, 4], [1, 2, 3], [1, 3, 4]]
    colour = np.array([int(255 * along), 80, int(255 * (1 - along)), 255], np.uint8)
    return trimesh.Trimesh(pyramid(view, length), faces, vertex_colors=np.tile(colour, (5, 1)), process=False)
