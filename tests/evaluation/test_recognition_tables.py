"""The attentive probe on ImageNet's layout and retrieval on COCO's captions: known answers, floors, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_world import Seer
from PIL import Image
from torch import nn

from manyview.data.sources import scan
from manyview.errors import UserError
from manyview.evaluation import retrieval
from manyview.evaluation.attentive import AttentiveProbe, random_box
from manyview.evaluation.base import evaluate
from manyview.evaluation.retrieval import TextRetrieval
from manyview.models.dense_heads import AttentiveHead
from manyview.models.model import EncodesImages, Reconstructs
from manyview.types import Features

COLOURS = {"n01440764": (230, 30, 30), "n01443537": (30, 230, 30), "n01484850": (30, 30, 230)}


def imagenet(root: Path, train: int = 12, val: int = 5) -> Path:
    """A small square somewhere says the class; everything else is grey."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            for i in range(count):
                image = rng.integers(100, 140, (40, 48, 3)).astype(np.uint8)
                y, x = rng.integers(8, 24), rng.integers(8, 28)
                image[y : y + 12, x : x + 12] = colour
                path = root / split / name / f"{name}_{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, quality=95)
    return root


def rows_of(summary: dict) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


SHORT = {"steps": 40, "batch": 16, "lrs": (3e-2, 3e-1), "augment": False}


class Bright(Seer):
    """Colours as tokens of about unit size, and noise for one with random weights."""

    def untrained(self, seed: int) -> Seer:
        return Bright(blind=True)

    def encode(self, images, mask=None, norm=True, layers=None) -> Features:
        features = super().encode(images)
        return Features(6 * (features.patches - 0.5).repeat(1, 1, 4), None, None, features.grid)


def test_imagenet_from_its_folders_colours_are_told_and_noise_is_not(tmp_path):
    data, problems = scan(imagenet(tmp_path / "in1k"), format="imagenet")
    assert problems == []
    summary = evaluate(AttentiveProbe(**SHORT), Bright(), data, tmp_path / "o")
    rows = rows_of(summary)
    assert (summary["classes"], summary["images"]) == (3, {"train": 36, "test": 15})
    assert rows["model"]["top1"] > 0.9
    assert rows["untrained"]["top1"] < 0.7
    assert rows["constant"]["top1"] == pytest.approx(1 / 3)
    assert rows["constant"]["top5"] == 1  # there are three classes
    assert len(summary["learned"]["model"]["tried"]) == 2


def test_classes_outside_the_list_and_missing_splits_are_one_line(tmp_path):
    root = imagenet(tmp_path / "in1k", train=2, val=1)
    data, _ = scan(root / "train", format="imagenet")
    with pytest.raises(UserError, match="no pictures of both train and val; scan the folder that holds both"):
        evaluate(AttentiveProbe(**SHORT), Bright(), data, tmp_path / "o")
    (root / "val" / "n01440764").rename(root / "val" / "n09999999")
    data, _ = scan(root, format="imagenet")
    with pytest.raises(UserError, match=r"1 classes of the test pictures are not among the 3 .* first n09999999"):
        evaluate(AttentiveProbe(**SHORT), Bright(), data, tmp_path / "p")


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path):
    root = imagenet(tmp_path / "in1k", train=3, val=2)
    data, _ = scan(root, format="imagenet")
    broken = root / "val" / "n01440764" / "n01440764_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    protocol = AttentiveProbe(steps=2, batch=4, baselines=False)
    summary = evaluate(protocol, Seer(), data, tmp_path / "o")
    assert list(summary["skipped"]) == ["val/n01440764/n01440764_0.JPEG"]
    assert rows_of(summary)["model"]["images"] == 5


def test_the_head_and_the_crops():
    torch.manual_seed(0)
    for dim in (3, 64, 200, 384):
        head = AttentiveHead(dim, 5)
        tokens = torch.randn(2, 7, dim)
        assert head(tokens).shape == (2, 5)
        order = torch.randperm(7)
        assert torch.allclose(head(tokens[:, order]), head(tokens), atol=1e-5)  # a set of tokens
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((40, 60), rng) for _ in range(300)])
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 60).all()
    assert (boxes[:, 3] <= 40).all()
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 2400
    assert 0.08 <= shares.min() < 0.15
    assert shares.max() > 0.7


class Pooled(nn.Module, EncodesImages, Reconstructs):
    """A head whose features are the one-hot number that red says, 20 levels each."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=16, patch_size=8, feature_heads=(("toy", 12),))
        self.blocks = nn.ModuleList()

    def encode(self, images, **_) -> Features:
        raise NotImplementedError

    def forward(self, images):
        word = (images[0, :, 0] * 255 / 20).round().long().clamp(0, 11)
        points = torch.ones(*images.shape[:2], *images.shape[-2:], 3)
        return {"pointmap": points, "pointmap_local": points, "features": {"toy": torch.eye(12)[word][None]}}


def coco(root: Path, count: int = 12) -> Path:
    images, said = [], []
    for i in range(count):
        path = root / "val2017" / f"{i:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(path, quality=100)
        images.append({"id": i, "file_name": path.name})
        said += [{"image_id": i, "id": 2 * i + n, "caption": f"thing {i}"} for n in range(2)]
    file = root / "annotations" / "captions_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"images": images, "annotations": said}))
    return root


def test_coco_s_captions_find_their_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(
        retrieval, "embed_texts", lambda space, texts: torch.eye(12)[[int(text.split()[1]) for text in texts]]
    )
    data, problems = scan(coco(tmp_path / "coco"), format="coco-captions")
    assert problems == []
    rows = rows_of(evaluate(TextRetrieval(), Pooled(), data, tmp_path / "o"))
    assert rows["model"]["text_to_image_1"] == rows["model"]["image_to_text_1"] == 1
    assert rows["shuffled"]["text_to_image_1"] == 0
    monkeypatch.setattr(retrieval, "embed_texts", lambda space, texts: torch.randn(len(texts), 12))
    torch.manual_seed(0)
    noise = rows_of(evaluate(TextRetrieval(), Pooled(), data, tmp_path / "n"))
    assert noise["model"]["text_to_image_1"] < 0.5
    bare, _ = scan(tmp_path / "coco" / "val2017", format="folder")
    with pytest.raises(UserError, match="captions of fewer than 2 pictures; scan COCO"):
        evaluate(TextRetrieval(), Pooled(), bare, tmp_path / "b")
