"""A small posed RGB-D data set written to disk: a tilted wall with a box in front of it, seen by a moving
camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from manyview.data.manifest import Frame, Manifest

HEIGHT, WIDTH, FOCAL = 48, 64, 60.0


def depth_of(view: int) -> np.ndarray:
    """(H, W) millimetres: inverse depth linear on the wall, a box 1 m away, a hole without measurement."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    depth = 1 / (0.35 + 0.001 * (u - WIDTH / 2) - 0.002 * (v - HEIGHT / 2))
    depth[12:30, 10 + view % 5 : 28] = 1.0
    depth[34:40, 40:50] = 0
    return np.round(depth * 1000).astype(np.uint16)


def pose_of(view: int) -> tuple[float, ...]:
    angle = 0.05 * view
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [0.1 * view, -0.02 * view, 0.03 * view]
    return tuple(pose.flatten().tolist())


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., Manifest]:
    """make_manifest({"room": 8, "hall": 3}) writes that many frames per scene and returns the saved
    manifest."""

    def make(scenes: dict[str, int], folder: str = "data") -> Manifest:
        root = tmp_path / folder
        root.mkdir()
        rng = np.random.default_rng(0)
        frames = []
        for scene, count in scenes.items():
            for view in range(count):
                name = f"{scene}-{view}"
                pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (WIDTH, HEIGHT))
                cv2.imwrite(str(root / f"{name}.png"), pixels)
                cv2.imwrite(str(root / f"{name}.depth.png"), depth_of(view))
                frames.append(
                    Frame(
                        "toy",
                        scene,
                        name,
                        "train",
                        f"{name}.png",
                        WIDTH,
                        HEIGHT,
                        FOCAL,
                        FOCAL,
                        WIDTH / 2 + 3,
                        HEIGHT / 2 - 2,
                        pose_of(view),
                        f"{name}.depth.png",
                        0.001,
                    )
                )
        manifest = Manifest(frames, root)
        manifest.save(tmp_path / f"{folder}.parquet")
        return manifest

    return make
