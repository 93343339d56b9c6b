"""DUNE's tables of 3D tasks: depth of a key view from pairs, Map-free's submission, RealEstate10K's poses."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analytic_room import render
from manyview.cli.main import main
from manyview.data.manifest import Frame, Manifest
from manyview.data.sources import scan
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.mapfree import MapFree
from manyview.evaluation.multiview_depth import MultiviewDepth
from manyview.evaluation.poses import Poses
from manyview.geometry import cameras, poses
from manyview.metrics.mapfree import read_poses
from official_layouts import WORLD2CAM, quaternion, text
from pair_of_depth import FOCAL, HEIGHT, WIDTH, PairOfDepth

LENS = cameras.intrinsics_matrix(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2).double()


def rows_of(summary: dict) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


def room(root: Path, model: PairOfDepth) -> Manifest:
    """What the model knows, as files."""
    root.mkdir()
    frames = []
    for i, (picture, pose) in enumerate(zip(model.pictures, model.cam2world, strict=True)):
        Image.fromarray(picture).save(root / f"{i}.png")
        np.save(root / f"{i}-depth.npy", render(pose, LENS, HEIGHT, WIDTH)[0].numpy().astype(np.float32))
        lens = (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
        pose = tuple(pose.flatten().tolist())
        frames.append(Frame("room", "room", str(i), "", f"{i}.png", WIDTH, HEIGHT, *lens, pose, f"{i}-depth.npy", 1.0))
    return Manifest(frames, root)


def test_depth_of_a_key_view_true_noisy_averaged_and_flat(tmp_path):
    data = room(tmp_path / "room", PairOfDepth(5))
    perfect = rows_of(evaluate(MultiviewDepth(), PairOfDepth(5), data, tmp_path / "o"))
    assert perfect["model"]["rel"] < 1e-4
    assert perfect["model"]["tau"] == 1
    assert perfect["constant"]["rel"] > 0.1
    noisy = rows_of(evaluate(MultiviewDepth(), PairOfDepth(5, noise=0.05), data, tmp_path / "n"))
    one = rows_of(
        evaluate(MultiviewDepth(sources=1, baselines=False), PairOfDepth(5, noise=0.05), data, tmp_path / "1")
    )
    assert one["model"]["rel"] == pytest.approx(0.05 * np.sqrt(2 / np.pi), rel=0.1)
    assert noisy["model"]["rel"] == pytest.approx(one["model"]["rel"] / 2, rel=0.1)  # the mean of four
    assert noisy["model"]["tau"] > one["model"]["tau"]


def test_samples_come_from_a_list_and_its_faults_are_one_line(tmp_path):
    model = PairOfDepth(5)
    data = room(tmp_path / "room", model)
    listed = text(tmp_path / "samples.txt", "# key sources", "2.png 0.png 4.png", "0.png 1.png")
    protocol = MultiviewDepth(samples=str(listed), baselines=False)
    summary = evaluate(protocol, model, data, tmp_path / "o")
    assert summary["samples"] == 2
    assert model.asked[:4] == [(2, 0), (2, 4), (0, 1)][: len(model.asked)]
    cases = {
        str(text(tmp_path / "a.txt", "0.png 9.png")): "names 9.png, which the manifest lacks",
        str(text(tmp_path / "b.txt", "0.png")): "0.png has no source view",
        str(text(tmp_path / "c.txt", "#")): "holds no sample",
        str(tmp_path / "d.txt"): "no list of samples at",
    }
    for number, (path, said) in enumerate(cases.items()):
        with pytest.raises(UserError, match=said):
            evaluate(MultiviewDepth(samples=path), model, data, tmp_path / f"bad{number}")
    with pytest.raises(UserError, match="no scene has two views"):
        evaluate(MultiviewDepth(), model, data.select(slice(0, 1)), tmp_path / "one")


class Metric(PairOfDepth):
    """Speaks of metres; its second view is shifted by so many of them."""

    metric = True

    def __init__(self, count: int, shift: float = 0.0) -> None:
        super().__init__(count)
        self.shift = shift

    def decode(self, first, second, heads=None):
        i, j = int(first.cls), int(second.cls)
        points = [poses.apply(poses.invert(self.cam2world[i]), self.world[k]) for k in (i, j)]
        points[1][:, 0] += self.shift
        pointmap = torch.stack([p.reshape(1, HEIGHT, WIDTH, 3) for p in points], 1).float()
        return {"pointmap": pointmap, "confidence": torch.full(pointmap.shape[:-1], 3.0)}


def mapfree(root: Path, model: PairOfDepth, *, secret: bool = False) -> Path:
    """The first view is the reference; every fifth photo of the query sequence is judged."""
    scene = root / ("test" if secret else "val") / "s00460"
    lens = f"{FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2} {WIDTH} {HEIGHT}"
    names = ["seq0/frame_00000.png", *(f"seq1/frame_{5 * i:05d}.png" for i in range(len(model.pictures) - 1))]
    intrinsics, lines = [], []
    reference = torch.linalg.inv(model.cam2world[0])
    for name, picture, pose in zip(names, model.pictures, model.cam2world, strict=True):
        (scene / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(scene / name)
        world2cam = torch.linalg.inv(reference @ pose).numpy()
        numbers = [0] * 7 if secret else [*quaternion(world2cam[:3, :3]), *world2cam[:3, 3]]
        lines.append(" ".join(map(str, [name, *numbers])))
        intrinsics.append(f"{name} {lens}")
    text(scene / "intrinsics.txt", *intrinsics)
    text(scene / "poses.txt", *lines)
    return root


def test_map_free_from_its_folders_to_numbers_and_a_submission(tmp_path):
    model = Metric(5)
    data, problems = scan(mapfree(tmp_path / "mapfree", model), format="mapfree")
    assert problems == []
    protocol = MapFree(cameras="model", every=1)
    summary = evaluate(protocol, model, data, tmp_path / "o")
    rows = rows_of(summary)
    assert (summary["queries"], summary["metric"]) == (4, True)
    assert rows["model"]["precision_vcre_45"] == rows["model"]["auc_pose"] == rows["model"]["estimated"] == 1
    assert rows["model"]["median_translation"] < 0.02
    assert rows["identity"]["precision_pose"] == 0
    with zipfile.ZipFile(tmp_path / "o" / "submission.zip") as archive:
        assert archive.namelist() == ["pose_s00460.txt"]
        poses_of = read_poses(archive.read("pose_s00460.txt").decode(), confidences=True)
    assert sorted(poses_of) == [0, 5, 10, 15]
    relative = torch.linalg.inv(model.cam2world[0]) @ model.cam2world[2]
    assert np.abs(poses_of[5][0] - relative.numpy()).max() < 0.02
    shifted = rows_of(evaluate(protocol, Metric(5, shift=0.5), data, tmp_path / "s"))
    assert shifted["model"]["median_translation"] == pytest.approx(0.5, abs=0.05)
    assert shifted["model"]["precision_pose"] == 0


def test_secret_poses_give_a_submission_and_no_numbers(tmp_path):
    model = Metric(3)
    data, _ = scan(mapfree(tmp_path / "mapfree", model, secret=True), format="mapfree")
    summary = evaluate(MapFree(cameras="model"), model, data, tmp_path / "o")
    assert rows_of(summary)["model"]["failed"] == 1  # of two queries every fifth is asked about
    assert (tmp_path / "o" / "submission.zip").is_file()
    bare = Manifest([frame for frame in data.frames if frame.frame.startswith("seq0")], data.root)
    with pytest.raises(UserError, match="no scene has photos of seq0 and seq1; scan the Map-free data set"):
        evaluate(MapFree(), model, bare, tmp_path / "b")


def test_re10k_goes_through_the_pose_protocol(tmp_path, capsys):
    lines = ["https://www.youtube.com/watch?v=x"]
    for i, world2cam in enumerate(WORLD2CAM):
        path = tmp_path / "re10k" / "frames" / "test" / "abc" / f"{1000 * i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
        lines.append(" ".join(map(str, [1000 * i, 0.8, 1.1, 0.5, 0.5, 0, 0, *world2cam[:3].ravel()])))
    text(tmp_path / "re10k" / "test" / "abc.txt", *lines)
    out = str(tmp_path / "m.parquet")
    assert main(["data", "scan", str(tmp_path / "re10k"), "--format", "re10k", "-o", out, "--json"]) == 0
    json.loads(capsys.readouterr().out)
    (item,) = Poses(frames=10).choose(None, Manifest.load(out), None)
    true = np.array(item.about["cam2world"]).reshape(-1, 4, 4)
    row = Poses().judge(item, {"cam2world": true, "frame": np.zeros(3, int)}, None)
    assert row["maa30"] == row["rra15"] == 1
