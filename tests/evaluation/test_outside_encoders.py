"""Encoders of timm in the tables of every protocol that judges encoders, beside the same with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dense_world import draw
from matching_world import write_scenes
from test_normals_probe import world
from test_recognition_tables import SHORT, imagenet

import manyview as mv
from manyview.config import from_dict
from manyview.data.sources import scan
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, evaluate
from timm_kinds import KINDS, Kind, stand_in

FIT = {"fit": {"steps": 5, "batch": 4}}
SWEEP = {"steps": 4, "evaluations": 1, "lrs": [1e-3], "decays": [1e-3]}
PAIRS = {"pairs": 4, "overlap": (0.3, 1.0), "motion": 0.05}


def kind(start: str) -> Kind:
    return next(kind for kind in KINDS if kind.name.startswith(start))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def data(folder) -> dict[str, Any]:
    return {
        "dense": draw(folder / "dense", count=12),
        "pairs": write_scenes(folder / "rooms", scenes=range(6), frames=3),
        "normals": world(folder / "normals", count=6),
        "classes": scan(imagenet(folder / "in1k", train=4, val=2), format="imagenet")[0],
    }


ASKED = {
    "linear-segmentation": ("dense", FIT),
    "linear-depth": ("dense", FIT),
    "normals-probe": ("normals", {**FIT, "width": 16}),
    "knn-segmentation": ("dense", {}),
    "logistic-segmentation": ("dense", {}),
    "matching-probe": ("pairs", {**PAIRS, "train_pairs": 8, "val_pairs": 2, "sweep": SWEEP}),
    "matching-zeroshot": ("pairs", PAIRS),
    "surface-correspondence": ("pairs", {}),
    "attentive-probe": ("classes", {**SHORT, "steps": 4}),
}


@pytest.mark.parametrize(
    ("start", "protocol"),
    [
        *(("vit_small_patch14_reg4", protocol) for protocol in ASKED),
        *(("convnext", protocol) for protocol in ("linear-segmentation", "linear-depth", "matching-zeroshot")),
        *(("naflexvit", protocol) for protocol in ("linear-depth", "knn-segmentation", "attentive-probe")),
    ],
)
def test_every_protocol_takes_them(monkeypatch, start, protocol, data, tmp_path):
    chosen = kind(start)
    stand_in(monkeypatch, chosen)
    of, options = ASKED[protocol]
    made = from_dict(PROTOCOLS.get(protocol), {**options, "size": 2 * chosen.patch})
    summary = evaluate(made, mv.load(f"timm:{chosen.name}"), data[of], tmp_path / "out")
    rows = {row["method"].removesuffix("_raw"): row for row in summary["rows"]}
    assert {"model", "untrained"} <= {*rows}


def test_one_that_takes_one_size_only_says_so_and_is_judged_at_that(monkeypatch, data, tmp_path):
    chosen = kind("hiera")
    stand_in(monkeypatch, chosen)
    model = mv.load(f"timm:{chosen.name}")
    with pytest.raises(UserError, match="timm:hiera_tiny_224 takes 224x224 only, the images are 64x64"):
        evaluate(PROTOCOLS.get("knn-segmentation")(size=64), model, data["dense"], tmp_path / "out")
    summary = evaluate(PROTOCOLS.get("knn-segmentation")(), model, data["dense"], tmp_path / "own")
    assert [row["method"] for row in summary["rows"]] == ["model", "untrained", "pixels", "constant"]


@pytest.mark.parametrize(
    ("protocol", "options"), [("normals-probe", {"width": 16}), ("matching-zeroshot", {**PAIRS, "layers": "all"})]
)
def test_stages_of_several_sizes_are_no_blocks_to_compare(monkeypatch, protocol, options, data, tmp_path):
    chosen, of = kind("convnext"), "normals" if protocol == "normals-probe" else "pairs"
    stand_in(monkeypatch, chosen)
    made = from_dict(PROTOCOLS.get(protocol), {**options, "size": 64})
    with pytest.raises(UserError, match="maps of several sizes or widths; take its last block, 3,"):
        evaluate(made, mv.load(f"timm:{chosen.name}"), data[of], tmp_path / "out")
