"""Segmentation by nearest patches and by logistic regression, on an encoder of which we know what it knows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from dense_world import PATCH, SIDE, Seer, draw, maps_of
from scipy.optimize import minimize

from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, evaluate
from manyview.evaluation.dense_fit import Examples
from manyview.evaluation.dense_framing import Framing
from manyview.evaluation.dense_maps import Part
from manyview.evaluation.patch_fit import logistic, modal, neighbours, painted, patch_labels, tallies, voted
from manyview.evaluation.patch_segmentation import LogisticSegmentation, NeighbourSegmentation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("patches") / "data")


@pytest.fixture(scope="module", params=["knn-segmentation", "logistic-segmentation"])
def judged(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "out"
    protocol = PROTOCOLS.get(request.param)(held_out=0.3)
    return evaluate(protocol, Seer(), data, out), out, protocol


def test_tokens_that_tell_the_class_are_worth_more_than_those_that_do_not(judged):
    summary, out, _ = judged
    rows = {row["method"]: row for row in summary["rows"]}
    assert list(rows) == ["model", "untrained", "pixels", "constant"]
    assert rows["model"]["miou"] > 0.95  # squares are whole patches here
    assert rows["model"]["miou"] > 1.5 * max(rows["untrained"]["miou"], rows["constant"]["miou"])
    assert rows["pixels"]["miou"] > 0.8
    labels, said = (maps_of(out / folder) for folder in ("measured", "predictions/model"))
    assert labels.shape == said.shape == (8, SIDE, SIDE)
    assert (labels[:, :3] == -1).all()
    assert len((out / "results.jsonl").read_text().splitlines()) == 8 * 4
    assert json.loads((out / "summary.json").read_text())["protocol"] == summary["protocol"]


def test_what_was_picked_is_said(judged):
    summary, out, _ = judged
    learned = summary["rows"][0]["learned"]
    assert learned["picked"] in learned["tried"]
    assert learned["picked"]["miou"] == max(choice["miou"] for choice in learned["tried"])
    assert len(learned["tried"]) == 8
    page = (out / "summary.md").read_text()
    assert "random weights" in page
    assert ("distance" in page) is (summary["protocol"] == "knn-segmentation")


def test_finished_evaluations_do_not_ask_the_model_again_and_repeat(judged, data, tmp_path):
    summary, out, protocol = judged
    again = Seer()
    assert evaluate(protocol, again, data, out)["rows"] == summary["rows"]
    assert again.encoded == 0
    for path in sorted((out / "predictions" / "pixels").iterdir())[3:]:
        path.unlink()  # as if it had been stopped there
    assert evaluate(protocol, Seer(), data, out)["rows"] == summary["rows"]


def test_squashed_pictures_and_training_pictures_of_their_own(data, tmp_path):
    wide = draw(tmp_path / "wide", count=6, shapes=((2, 5),))
    protocol = NeighbourSegmentation(train=data, framing="squash", size=64, baselines=False, train_images=9)
    summary = evaluate(protocol, Seer(), wide, tmp_path / "out")
    assert summary["images"] == {"train": 9, "test": 6}
    assert maps_of(tmp_path / "out" / "predictions" / "model").shape == (6, 64, 64)
    assert summary["rows"][0]["miou"] > 0.6  # five squares of 12.8 pixels, in patches of 8


def test_what_cannot_be_done_says_so(data, tmp_path):
    with pytest.raises(UserError, match="framing=whole or squash"):
        evaluate(NeighbourSegmentation(framing="slide"), Seer(), data, tmp_path / "1")
    with pytest.raises(UserError, match="multiples of the patch"):
        evaluate(NeighbourSegmentation(size=30), Seer(), data, tmp_path / "0")
    with pytest.raises(UserError, match="at least 2"):
        evaluate(LogisticSegmentation(train_images=1), Seer(), data, tmp_path / "2")
    with pytest.raises(UserError, match="at least 2 are needed"):
        evaluate(LogisticSegmentation(classes=1), Seer(), data, tmp_path / "3")


def test_hyper_parameters_are_picked_on_scenes_of_their_own(data):
    part = Part(data, tuple(range(len(data))), "labels", Framing((SIDE, SIDE)))
    crops = Examples(None, part, [], np.arange(1, 24), PATCH, torch.device("cpu"))  # the first is unreadable
    for seed in range(5):
        rest, held = NeighbourSegmentation(seed=seed, held_out=0.2)._held_out(crops)
        assert sorted(rest + held) == list(range(1, 24))
        assert {data[i].scene for i in rest} & {data[i].scene for i in held} == set()
        assert 5 <= len(held) <= 6
    alone = data.select(scenes=["scene 3"])
    crops = Examples(None, Part(alone, (0, 1), "labels", part.framing), [], np.arange(2), PATCH, torch.device("cpu"))
    assert sorted(map(len, NeighbourSegmentation()._held_out(crops))) == [1, 1]


def test_labels_count_as_the_manifest_maps_them(data, tmp_path):
    mapped = draw(tmp_path / "mapped")
    mapped.info |= {"label_map": [1, -1, 0], "classes": ["sky", "sea"]}
    assert mapped.digest() != data.digest()
    summary = evaluate(NeighbourSegmentation(baselines=False), Seer(), mapped, tmp_path / "out")
    assert len(summary["rows"][0]["iou"]) == 2
    plain = maps_of(tmp_path / "out" / "measured")
    assert sorted(np.unique(plain)) == [-1, 0, 1]


def test_votes_by_hand():
    one, two, three = [0, 1, -1, 2], [0, 2, -1, -1], [1, 2, -1, -1]
    labels = torch.tensor([[one, two, three], [one, one, three]])
    assert tallies(labels[0], 3).tolist() == [[1, 1, 1], [1, 0, 1], [0, 1, 1]]
    # the third pixel of the first is unknown to all: it gets what they hold most of
    assert voted(labels, 3).tolist() == [[0, 2, 2, 2], [0, 1, 1, 2]]
    assert modal(torch.tensor([one, two, [-1, -1, 1, 0], [-1, -1, 1, 1]]), 3).tolist() == [0, -1, -1, 1]
    maps = torch.arange(2 * 16 * 24).reshape(2, 16, 24)
    patches = patch_labels(maps, PATCH)
    assert patches.shape == (2 * 2 * 3, PATCH**2)
    assert torch.equal(patches[1].reshape(PATCH, PATCH), maps[0, :8, 8:16])
    assert torch.equal(painted(patches, (2, 3), PATCH), maps)


@pytest.mark.parametrize("distance", ["cosine", "L2"])
def test_neighbours_are_those_of_a_slow_search(distance, monkeypatch):
    monkeypatch.setattr("manyview.evaluation.patch_fit.KNOWN", 7)
    monkeypatch.setattr("manyview.evaluation.patch_fit.ASKED", 3)
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(40, 6)), rng.normal(size=(10, 6)) * 3
    found = neighbours(torch.tensor(asked), torch.tensor(known), count=5, distance=distance)
    if distance == "cosine":
        near = -(asked / np.linalg.norm(asked, axis=1)[:, None]) @ (known / np.linalg.norm(known, axis=1)[:, None]).T
    else:
        near = np.linalg.norm(asked[:, None] - known[None], axis=-1)
    assert np.array_equal(found.numpy(), near.argsort(1)[:, :5])
    assert neighbours(torch.tensor(asked), torch.tensor(known[:2]), count=5, distance=distance).shape == (10, 2)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_logistic_regression_finds_the_minimum(strength, monkeypatch):
    monkeypatch.setattr("manyview.evaluation.patch_fit.KNOWN", 60)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    y = (x @ rng.normal(size=(5, 3)) + rng.normal(size=(200, 3))).argmax(1)

    def objective(values):
        weights, offsets = values[:15].reshape(3, 5), values[15:]
        logits = x @ weights.T + offsets
        total = np.log(np.exp(logits).sum(1)) - logits[np.arange(200), y]
        return strength * total.sum() + (weights**2).sum() / 2

    true = minimize(objective, np.zeros(18), options={"maxiter": 500})
    start = torch.zeros(3, 5), torch.zeros(3)
    weights, offsets = logistic(torch.tensor(x).float(), torch.tensor(y), start, strength=strength, steps=1000)
    mine = np.concatenate([weights.numpy().ravel(), offsets.numpy()])
    assert objective(mine) <= true.fun * (1 + 1e-5)
    assert np.abs(weights.numpy() - true.x[:15].reshape(3, 5)).max() < 2e-3
