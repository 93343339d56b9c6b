"""The probe of normals: packing, where normals come from, a world whose colours are its normals, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.dense_fit import Schedule
from manyview.evaluation.normal_maps import normals_of, packed, unpacked
from manyview.evaluation.normals_probe import NormalsProbe
from manyview.images.reading import ImageProblem
from manyview.models.model import EncodesImages
from manyview.models.normal_head import angular_loss
from manyview.models.vit import EncoderConfig
from manyview.types import Features

SIDE, PATCH = 32, 8
FIT = Schedule(steps=60, batch=8, lr=5e-3, weight_decay=0.0)


class Seer(nn.Module, EncodesImages):
    """Four blocks that all see the mean colour of a patch; blind ones see noise."""

    config = EncoderConfig(dim=3, depth=4, patch_size=PATCH, image_size=SIDE)

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind, self.blocks = blind, nn.ModuleList(nn.Identity() for _ in range(4))
        self.scale = nn.Parameter(torch.ones(1))

    def untrained(self, seed: int) -> Seer:
        return Seer(blind=True)

    def encode(self, images, mask=None, norm=True, layers=None):
        patches = nn.functional.avg_pool2d(images, PATCH).flatten(2).transpose(1, 2)
        if self.blind:
            patches = torch.rand(patches.shape, generator=torch.Generator().manual_seed(len(images)))
        features = Features(patches, None, None, (images.shape[-2] // PATCH, images.shape[-1] // PATCH))
        return features if layers is None else [features for _ in layers]


def world(root: Path, count: int = 12, *, ending: str = ".npy") -> Manifest:
    """Pictures of four squares whose colours are their normals."""
    rng, frames = np.random.default_rng(0), []
    for folder in ("images", "depth", "normals"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        normals = rng.normal(size=(2, 2, 3)) * [1, 1, 0.3] - [0, 0, 0.8]
        normals = np.kron(normals / np.linalg.norm(normals, axis=-1, keepdims=True), np.ones((16, 16, 1)))
        colours = ((normals + 1) * 127.5).round().astype(np.uint8)
        Image.fromarray(colours).save(root / "images" / f"{i}.png")
        np.save(root / "depth" / f"{i}.npy", np.ones((SIDE, SIDE), np.float32))
        if ending == ".npy":
            normals[:3] = 0
            np.save(root / "normals" / f"{i}.npy", normals.astype(np.float32))
        else:
            Image.fromarray(colours).save(root / "normals" / f"{i}.png")
        frames.append(
            Frame("n", f"s{i}", str(i), "", f"images/{i}.png", SIDE, SIDE, depth=f"depth/{i}.npy", depth_scale=1.0)
        )
    return Manifest(frames, root)


def rows_of(summary: dict) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


def test_packing_keeps_normals_to_a_thirtieth_of_a_degree():
    normals = np.random.default_rng(0).normal(size=(50, 60, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    known = np.ones((50, 60), bool)
    known[0] = False
    back, there = unpacked(packed(normals, known))
    assert np.array_equal(there, known)
    cosine = np.clip((back * normals).sum(-1)[known], -1, 1)
    assert np.degrees(np.arccos(cosine)).max() < 0.03


def test_colours_that_are_normals_are_read_and_noise_is_the_mean(tmp_path):
    data = world(tmp_path / "w")
    summary = evaluate(NormalsProbe(width=16, fit=FIT), Seer(), data, tmp_path / "o")
    rows = rows_of(summary)
    assert list(rows) == ["model", "untrained", "constant"]
    assert rows["model"]["mean"] < 0.6 * rows["constant"]["mean"]
    assert rows["untrained"]["mean"] > 0.8 * rows["constant"]["mean"]
    assert rows["constant"]["rmse"] > 20


def test_normals_come_from_files_of_both_kinds_or_from_depth(tmp_path):
    arrays, pictures = (world(tmp_path / ending[1:], 1, ending=ending) for ending in (".npy", ".png"))
    (first, known), (second, all_known) = (unpacked(normals_of(data, data[0])) for data in (arrays, pictures))
    assert not known[:3].any()
    assert all_known.all()
    assert np.abs(first - second)[known].max() < 0.02
    bare = Manifest(
        [arrays[0].__class__(**{**_fields(arrays[0]), "fx": 40.0, "fy": 40.0, "cx": 16.0, "cy": 16.0})], arrays.root
    )
    (tmp_path / "npy" / "normals" / "0.npy").unlink()
    flat, there = unpacked(normals_of(bare, bare[0]))
    assert there.all()
    assert np.abs(flat - [0, 0, -1]).max() < 1e-3
    with pytest.raises(UserError, match=r"has neither normals/0\.npy beside its depth nor intrinsics"):
        normals_of(arrays, arrays[0])
    np.save(tmp_path / "npy" / "normals" / "0.npy", np.zeros((4, 4)))
    with pytest.raises(ImageProblem, match=r"has shape \(4, 4\); normals are"):
        normals_of(arrays, arrays[0])


def _fields(frame: Frame) -> dict:
    return {name: getattr(frame, name) for name in frame.__slots__}


def test_a_grid_that_does_not_fit_is_one_line(tmp_path):
    with pytest.raises(UserError, match="size 30x30: both sides must be multiples of the patch, 8"):
        evaluate(NormalsProbe(size=30), Seer(), world(tmp_path / "w", 4), tmp_path / "o")


def test_the_loss_is_least_for_true_normals_and_punishes_wrong_confidence():
    true = nn.functional.normalize(torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    sure, unsure = torch.full((1, 4, 4), 20.0), torch.full((1, 4, 4), 0.1)
    assert angular_loss(true, sure, true, valid) < angular_loss(true, unsure, true, valid)
    assert angular_loss(-true, sure, true, valid) > angular_loss(-true, unsure, true, valid)
    assert float(angular_loss(true, sure, true, ~valid)) == 0
