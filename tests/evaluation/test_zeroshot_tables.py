"""Tables without training: depth of single pictures (NYU, KITTI), CO3D poses, segmentation by words (VOC)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from manyview.cli.main import main
from manyview.data.sources import scan
from manyview.errors import UserError
from manyview.evaluation import zeroshot_segmentation
from manyview.evaluation.base import evaluate
from manyview.evaluation.poses import Poses, pose_numbers
from manyview.evaluation.single_depth import MonocularDepth
from manyview.evaluation.zeroshot_segmentation import ZeroshotSegmentation
from manyview.models.model import EncodesImages, Reconstructs
from official_layouts import CAM2WORLD, LENS, WORLD2CAM, text


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def grey(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and the metres that its grey means."""
    v, u = np.mgrid[:28, :42]
    waves = np.sin(u / 7 + number) + np.cos(v / 5 - number / 2) + (u > 20 + number) * 1.0
    values = (90 + 40 * waves).clip(0, 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, -1), 1 + values / 100


def kitti(root: Path, frames: int = 4) -> Path:
    drive = "2011_09_26_drive_0002_sync"
    for i in range(frames):
        image, metres = grey(i)
        save(root / "2011_09_26" / drive / "image_02" / "data" / f"{i:010d}.png", image)
        depth = (metres * 256).round().astype(np.uint16)
        depth[::3] = 0  # the laser leaves rows out
        if i < frames - 1:
            where = root / "data_depth_annotated" / "val" / drive / "proj_depth" / "groundtruth" / "image_02"
            save(where / f"{i:010d}.png", depth)
    text(root / "2011_09_26" / "calib_cam_to_cam.txt", "P_rect_02: 40 0 20.5 4 0 40 13.5 0 0 0 1 0")
    return root


def rows_of(summary: dict) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


def test_kitti_from_its_folders_a_perfect_reader_noise_of_known_size_and_the_floor(tmp_path, reader):
    data, problems = scan(kitti(tmp_path / "kitti"), format="kitti")
    assert problems == []
    assert [(f.frame, f.split) for f in data.frames][:2] == [("image_02/0000000000", "val")] * 1 + [
        ("image_02/0000000001", "val")
    ]
    assert data[0].intrinsics[0, 2] == 21.0  # pixel centres at +0.5
    perfect = evaluate(MonocularDepth(), reader(scale=3.0), data, tmp_path / "perfect")
    assert (perfect["crop"], perfect["most"], perfect["images"]) == ("garg", 80.0, 3)
    assert perfect["seen"] == 1
    rows = rows_of(perfect)
    assert rows["model"]["abs_rel"] < 2e-3  # what 8 bits of grey can say
    assert rows["model"]["delta_1"] == 1
    noisy = rows_of(evaluate(MonocularDepth(), reader(noise=0.1), data, tmp_path / "noisy"))
    assert noisy["model"]["abs_rel"] == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.15)
    assert noisy["model"]["abs_rel"] < rows["constant"]["abs_rel"]
    unaligned = rows_of(evaluate(MonocularDepth(align="none"), reader(scale=3.0), data, tmp_path / "metric"))
    assert unaligned["model"]["abs_rel"] == pytest.approx(2, rel=0.02)
    broken = evaluate(MonocularDepth(), reader(broken=True), data, tmp_path / "broken")
    assert rows_of(broken)["model"]["failed"] == 3


def test_the_list_of_eigen_s_test_and_the_benchmark_s_selection(tmp_path, reader):
    root = kitti(tmp_path / "kitti")
    name = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000002.png"
    text(root / "eigen_test_files_with_gt.txt", f"{name} None 721.5")
    data, _ = scan(root, format="kitti")
    assert [(f.frame, f.split) for f in data.frames] == [("image_02/0000000002", "test")]
    chosen = tmp_path / "depth_selection" / "val_selection_cropped"
    image, metres = grey(0)
    stem = "2011_09_26_drive_0002_sync_{}_0000000005_image_02"
    save(chosen / "image" / f"{stem.format('image')}.png", image)
    save(chosen / "groundtruth_depth" / f"{stem.format('groundtruth_depth')}.png", (metres * 256).astype(np.uint16))
    text(chosen / "intrinsics" / f"{stem.format('image')}.txt", "40 0 20.5 0 40 13.5 0 0 1")
    data, problems = scan(tmp_path / "depth_selection", format="kitti")
    assert problems == []
    assert rows_of(evaluate(MonocularDepth(), reader(), data, tmp_path / "o"))["model"]["abs_rel"] < 3e-3


def test_nyu_is_judged_inside_eigen_s_crop(tmp_path, reader):
    for i in range(2):
        image, metres = grey(i)
        metres[:2] = 9  # outside the crop: no matter
        save(tmp_path / "nyu" / "test" / "kitchen" / f"rgb_{i:05d}.jpg", np.kron(image, np.ones((8, 8, 1), np.uint8)))
        depth = np.kron((metres * 1000).astype(np.uint16), np.ones((8, 8), np.uint16))
        save(tmp_path / "nyu" / "test" / "kitchen" / f"sync_depth_{i:05d}.png", depth)
    data, _ = scan(tmp_path / "nyu", format="nyuv2")
    summary = evaluate(MonocularDepth(), reader(), data, tmp_path / "o")
    assert (summary["crop"], summary["most"]) == ("eigen", 10.0)
    whole = evaluate(MonocularDepth(crop="none"), reader(), data, tmp_path / "whole")
    assert rows_of(summary)["model"]["abs_rel"] < rows_of(whole)["model"]["abs_rel"] / 2


def test_data_without_depth_says_what_to_scan(tmp_path, reader):
    save(tmp_path / "p" / "a.png", grey(0)[0])
    data, _ = scan(tmp_path / "p", format="folder")
    with pytest.raises(
        UserError, match=r"scan data that has: --format nyuv2: nyu_depth_v2_labeled\.mat.*/kitti \(CC BY-NC-SA 3\.0\)"
    ):
        evaluate(MonocularDepth(), reader(), data, tmp_path / "o")


def co3d(root: Path) -> Path:
    flip, entries = np.diag([-1.0, -1, 1]), []
    for i, world2cam in enumerate(WORLD2CAM):
        name = f"apple/110_13051/images/frame{i + 1:06d}.jpg"
        save(root / name, np.zeros((48, 64, 3), np.uint8))
        view = {
            "R": (flip @ world2cam[:3, :3]).T.tolist(),
            "T": (flip @ world2cam[:3, 3]).tolist(),
            "focal_length": (LENS[[0, 1], [0, 1]] / 24).tolist(),
            "principal_point": [0.0, 0.0],
        }
        entries.append({"sequence_name": "110_13051", "image": {"path": name, "size": [48, 64]}, "viewpoint": view})
    with gzip.open(root / "apple" / "frame_annotations.jgz", "wt") as file:
        json.dump(entries, file)
    return root


def test_co3d_goes_through_the_pose_protocol_with_both_accuracies(tmp_path):
    data, _ = scan(co3d(tmp_path / "co3d"), format="co3d")
    protocol = Poses(frames=10, order="random")
    (item,) = protocol.choose(None, data, None)
    true = np.array(item.about["cam2world"]).reshape(-1, 4, 4)
    assert sorted(np.round(true[:, 0, 3], 6)) == sorted(np.round(np.array(CAM2WORLD)[:, 0, 3], 6))
    frame = np.zeros(3, int)
    perfect = protocol.judge(item, {"cam2world": true, "frame": frame}, None)
    assert perfect["maa30_min"] == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(0)
    turns = true.copy()
    turns[:, :3, 3] += rng.normal(scale=1.0, size=(3, 3))
    noisy = pose_numbers(turns, frame, true)
    assert noisy["maa30_exact"] <= noisy["maa30_min"] < 1
    assert pose_numbers(np.tile(np.eye(4), (3, 1, 1)), frame, true)["maa30_min"] < 0.35


NAMES = ("background", "aeroplane", "bicycle")
WORDS = {"background": 0, "aeroplane": 1, "bicycle": 2, "wall": 3}


class Namer(nn.Module, EncodesImages, Reconstructs):
    """A head whose features are the text of the class that a picture's colour tells: red 60 times the word."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=32, patch_size=8, feature_heads=(("toy", 4),))
        self.noise, self.blocks = noise, nn.ModuleList()

    def forward(self, images):
        word = (images[0, :, 0] * 255 / 60).round().long().clamp(0, 3)
        features = torch.eye(4)[word]
        features = features + self.noise * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        points = torch.ones(*images.shape[:2], *images.shape[-2:], 3)
        return {"pointmap": points, "pointmap_local": points, "features": {"toy": features[None]}}


def voc(root: Path, beyond: int | None = None) -> Path:
    folder = root / "VOCdevkit" / "VOC2012"
    rng = np.random.default_rng(0)
    for i in range(4):
        words = np.kron(rng.integers(0, 4, (4, 4)), np.ones((8, 8), int))
        labels = np.where(words == 3, 0, words).astype(np.uint8)  # a wall is background
        labels[0] = 255
        if beyond is not None:
            labels[1, 0] = beyond
        image = np.stack([words * 60] * 3, -1).astype(np.uint8)
        path = folder / "JPEGImages" / f"2007_{i:06d}.jpg"
        save(path, image)
        Image.fromarray(image).save(path, quality=100, subsampling=0)
        picture = Image.fromarray(labels, mode="P")
        picture.putpalette([0] * 768)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(folder / "SegmentationClass" / f"2007_{i:06d}.png")
    text(folder / "ImageSets" / "Segmentation" / "train.txt", "2007_000000")
    text(folder / "ImageSets" / "Segmentation" / "val.txt", *(f"2007_{i:06d}" for i in (1, 2, 3)))
    return root


@pytest.fixture
def words(monkeypatch):
    asked = []

    def embed(space, texts, templates=("{}",)):
        asked.append((space, len(texts), templates))
        rows = torch.stack([torch.eye(4)[WORDS[text]] if text in WORDS else -torch.ones(4) for text in texts])
        rows[:, 3] -= 0.1 * rows[:, 0]  # the name background is far from walls
        return rows

    monkeypatch.setattr(zeroshot_segmentation, "embed_texts", embed)
    return asked


def test_voc_from_its_folders_true_words_noise_and_shuffled_names(tmp_path, words):
    data, problems = scan(voc(tmp_path / "v"), format="voc")
    assert problems == []
    assert len(data.info["classes"]) == 21
    assert [f.split for f in data.frames] == ["train", "val", "val", "val"]
    perfect = evaluate(ZeroshotSegmentation(), Namer(), data, tmp_path / "o")
    rows = rows_of(perfect)
    assert (perfect["images"], perfect["prompts"], words[0][0]) == (3, 1, "toy")
    assert rows["model"]["accuracy"] > 0.995
    assert rows["model"]["miou"] > 0.98
    assert rows["shuffled"]["accuracy"] < 0.3
    assert rows["constant"]["miou"] < rows["model"]["miou"] / 2
    noisy = rows_of(evaluate(ZeroshotSegmentation(), Namer(noise=3.0), data, tmp_path / "n"))
    assert noisy["model"]["miou"] < 0.3
    bare = rows_of(evaluate(ZeroshotSegmentation(background=()), Namer(), data, tmp_path / "b"))
    assert bare["model"]["accuracy"] < rows["model"]["accuracy"]  # walls have no word of their own then
    assert words[-1][1] == 21


def test_labels_outside_the_list_and_models_without_words_are_one_line(tmp_path, words):
    data, _ = scan(voc(tmp_path / "v"), format="voc")
    del data.info["label_map"]
    data.info["classes"] = list(NAMES)[:2]
    with pytest.raises(UserError, match=r"2007_000001\.png holds label 2, the manifest names 2 classes \(0 to 1\)"):
        evaluate(ZeroshotSegmentation(), Namer(), data, tmp_path / "o")
    model = Namer()
    model.config.feature_heads = (("dino", 4),)
    with pytest.raises(UserError, match="no features that answer to words"):
        evaluate(ZeroshotSegmentation(), model, data, tmp_path / "p")


def test_the_bundled_words_answer_a_command(tmp_path, capsys):
    pytest.importorskip("manyview.models.minilm").installed_minilm()
    voc(tmp_path / "v")
    out = str(tmp_path / "voc.parquet")
    assert main(["data", "scan", str(tmp_path / "v"), "--format", "voc", "-o", out]) == 0
    capsys.readouterr()
    line = ["eval", "zeroshot-segmentation", "--model", "manyview-small-words", "--data", out, "--images", "1"]
    assert main([*line, "-o", str(tmp_path / "o"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["space"] == "minilm"
