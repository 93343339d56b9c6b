"""Points of many views: true ones in any frame and unit, noise of known size, a collapsed cloud, DTU's layout, ICP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from analytic_room import render
from manyview.data.manifest import Frame, Manifest
from manyview.data.sources import scan
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.recon_scene import ReconScene, closest
from manyview.geometry import cameras, poses
from official_layouts import text
from pair_of_depth import FOCAL, HEIGHT, WIDTH, PairOfDepth

LENS = cameras.intrinsics_matrix(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2).double()


class ManyOfDepth:
    """Knows a room's true points, in a frame and unit of its own; noise, a shift of one view, or all in one place."""

    def __init__(self, count: int, *, noise: float = 0.0, collapsed: bool = False) -> None:
        self.pairs = PairOfDepth(count)
        self.config, self.noise, self.collapsed = self.pairs.config, noise, collapsed
        self.fingerprint = f"many {count} {noise} {collapsed}"

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        numbers = [self.pairs._number(image) for image in images[0]]
        to_first = poses.invert(self.pairs.cam2world[numbers[0]])
        points = torch.stack([poses.apply(to_first, self.pairs.world[n]).reshape(HEIGHT, WIDTH, 3) for n in numbers])
        points = 0.3 * points + self.noise * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
        points = torch.full_like(points, 1.0) if self.collapsed else points
        return {"pointmap": points[None].float(), "confidence": torch.ones(1, *points.shape[:3])}


def room(root: Path, count: int = 4) -> Manifest:
    model, frames = PairOfDepth(count), []
    root.mkdir()
    for i, (picture, pose) in enumerate(zip(model.pictures, model.cam2world, strict=True)):
        Image.fromarray(picture).save(root / f"{i}.png")
        np.save(root / f"{i}-depth.npy", render(pose, LENS, HEIGHT, WIDTH)[0].numpy().astype(np.float32))
        lens, flat = (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2), tuple(pose.flatten().tolist())
        frames.append(Frame("room", "room", str(i), "", f"{i}.png", WIDTH, HEIGHT, *lens, flat, f"{i}-depth.npy", 1.0))
    return Manifest(frames, root)


def row_of(summary: dict) -> dict:
    return summary["rows"][0]


def test_true_points_noise_of_known_size_and_a_collapsed_cloud(tmp_path):
    data = room(tmp_path / "room")
    protocol = ReconScene(stride=1, most=4000)
    whole = ReconScene(stride=1, most=0)
    perfect = row_of(evaluate(whole, ManyOfDepth(4), data, tmp_path / "o"))
    assert perfect["accuracy"] < 1e-5
    assert perfect["completeness"] < 1e-5
    noisy = row_of(evaluate(protocol, ManyOfDepth(4, noise=0.03), data, tmp_path / "n"))
    drawn = row_of(evaluate(protocol, ManyOfDepth(4), data, tmp_path / "d"))
    assert drawn["accuracy"] < noisy["accuracy"] < 0.1 * np.sqrt(8 / np.pi)  # 0.03 in a unit of 0.3 is 0.1
    assert noisy["accuracy"] > 0.02
    flat = evaluate(protocol, ManyOfDepth(4, collapsed=True), data, tmp_path / "c")
    assert row_of(flat)["failed"] == 1 or row_of(flat)["completeness"] > 5 * noisy["completeness"]


def test_dtu_from_its_folders(tmp_path):
    model = PairOfDepth(3)
    for i, (picture, pose) in enumerate(zip(model.pictures, model.cam2world, strict=True)):
        folder = tmp_path / "dtu" / "scan1"
        for name in ("images", "cams", "depths"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "images" / f"{i:08d}.png")
        world2cam = torch.linalg.inv(pose).numpy()
        world2cam[:3, 3] *= 1000
        text(
            folder / "cams" / f"{i:08d}_cam.txt", "extrinsic", *world2cam, "", "intrinsic", *LENS.numpy(), "", "425 2.5"
        )
        depth = 1000 * render(pose, LENS, HEIGHT, WIDTH)[0].numpy()
        np.save(folder / "depths" / f"{i:08d}.npy", depth.astype(np.float32))
    data, problems = scan(tmp_path / "dtu", format="dtu")
    assert problems == []
    row = row_of(evaluate(ReconScene(stride=1, most=0, icp=100.0), ManyOfDepth(3), data, tmp_path / "o"))
    assert row["accuracy"] < 1  # millimetres


def test_icp_undoes_a_small_motion():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-1, 1, (500, 3))
    turn = Rotation.from_euler("xyz", (2, -1, 3), degrees=True).as_matrix()
    moved = cloud @ turn.T + [0.02, -0.03, 0.01]
    assert np.abs(closest(moved, cloud, 0.5) - cloud).max() < 1e-6
    assert np.array_equal(closest(moved + 100, cloud, 0.1), moved + 100)  # nothing is near


def test_what_cannot_be_judged_is_one_line(tmp_path):
    data = room(tmp_path / "room", 2)
    bare = Manifest(
        [frame.__class__("a", "a", "0", "", frame.image, WIDTH, HEIGHT) for frame in data.frames][:1], data.root
    )
    with pytest.raises(UserError, match="no scene can be judged: no frame has depth, pose and intrinsics; scan"):
        evaluate(ReconScene(), ManyOfDepth(2), bare, tmp_path / "o")
    with pytest.raises(UserError, match="surest=0: give 1 or more, 0 to 1"):
        ReconScene(surest=0)
