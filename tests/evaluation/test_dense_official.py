"""From a data set as it unpacks to a table: segmentation and depth by the commands, with a DUNE model and projector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from manyview import zoo
from manyview.cli.main import main
from manyview.zoo.directory import save_model
from official_layouts import text


def ade20k(root):
    """Training and validation pictures of 3:2, half dark and half bright: class 1 (wall) and 4 (floor)."""
    rng = np.random.default_rng(0)
    for split, stem, count in (("training", "ADE_train", 6), ("validation", "ADE_val", 3)):
        for i in range(1, count + 1):
            labels = np.zeros((40, 60), np.uint8)
            edge = int(rng.integers(20, 40))
            labels[2:, :edge], labels[2:, edge:] = 1, 4
            image = rng.integers(0, 60, (40, 60, 3)) + np.where(labels == 4, 180, 20)[..., None]
            for folder, values, suffix in (("images", image.astype(np.uint8), "jpg"), ("annotations", labels, "png")):
                path = root / folder / split / f"{stem}_{i:08d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    text(root / "objectInfo150.txt", "Idx\tName", *(f"{i}\tname {i}" for i in range(1, 151)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model and a data set."""
    root = tmp_path_factory.mktemp("official")
    model = zoo.build("dune-vits14-336", size="debug", patch_size=8, image_size=32, seed=0)
    save_model(model, root / "model")
    ade20k(root / "ADEChallengeData2016")
    return root


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("linear-segmentation", ["framing=slide", "stride=16", "fit.steps=30", "fit.lr=0.05"]),
        ("knn-segmentation", ["framing=squash"]),
        ("logistic-segmentation", ["framing=squash", "steps=30"]),
    ],
)
def test_ade20k_from_its_folders_to_a_table(world, tmp_path, capsys, protocol, options):
    whole, source = str(tmp_path / "ade.parquet"), str(world / "ADEChallengeData2016")
    assert main(["data", "scan", source, "--format", "ade20k", "-o", whole]) == 0
    capsys.readouterr()
    line = ["eval", protocol, "--model", str(world / "model"), "--data", whole]
    line += ["--baselines", "-o", str(tmp_path / "out"), "--json", "--set", "project=mast3r", *options]
    assert main(line) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in summary["rows"]}
    assert list(rows) == ["model", "projected", "untrained", "pixels", "constant"]
    assert all(len(row["iou"]) == 150 for row in rows.values())
    seen = [i for i, value in enumerate(rows["constant"]["iou"]) if value is not None]
    assert seen == [0, 3]  # classes 1 and 4 of the data set; 0 is not looked at
    assert rows["pixels"]["miou"] > max(0.7, rows["constant"]["miou"])
    assert summary["images"] == {"train": 6, "test": 3}  # the data set's own splits
    assert main([word for word in line if word != "--json"]) == 0
    assert "pixel accuracy" in capsys.readouterr().out


def test_a_label_file_that_is_cut_off_stops_with_its_name(world, tmp_path, capsys):
    root = tmp_path / "cut"
    ade20k(root)
    for i in (1, 2):
        file = root / "annotations" / "training" / f"ADE_train_{i:08d}.png"
        file.write_bytes(file.read_bytes()[:-25])
    out = str(tmp_path / "m.parquet")
    assert main(["data", "scan", str(root), "--format", "ade20k", "-o", out]) == 0
    line = ["eval", "knn-segmentation", "--model", str(world / "model"), "--data", out, "-o", str(tmp_path / "o")]
    assert main(line) == 2
    said = capsys.readouterr().err.strip()
    assert "ADE_train_0000000" in said
    assert "label map" in said
    assert "\n" not in said
