"""Dense probes on encoders of which we know what they know."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dense_world import PATCH, SIDE, Seer, draw, maps_of

from manyview import zoo
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.evaluation.base import Item, evaluate
from manyview.evaluation.dense_fit import Schedule
from manyview.evaluation.dense_labels import confusion, segmentation_scores
from manyview.evaluation.linear import LinearDepth, LinearSegmentation

FIT = Schedule(steps=100, batch=8, pixels=64, lr=0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Manifest:
    return draw(tmp_path_factory.mktemp("dense") / "data")


@pytest.fixture(scope="module")
def segmented(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("segmented") / "out"
    return evaluate(LinearSegmentation(fit=FIT), Seer(), data, out), out


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "out"
    return evaluate(LinearDepth(fit=FIT, least=0.5), Seer(), data, out), out


def rows_of(summary) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


def test_tokens_that_tell_the_class_are_worth_more_than_those_that_do_not(segmented):
    rows = rows_of(segmented[0])
    assert rows["model"]["miou"] > 0.55  # what is lost lies along the borders of the quarters
    assert rows["model"]["miou"] > 1.5 * max(rows["untrained"]["miou"], rows["constant"]["miou"])
    assert 0.2 < rows["constant"]["accuracy"] < 0.6
    assert "random weights" in (segmented[1] / "summary.md").read_text()


def test_tokens_that_tell_the_depth_err_less(measured):
    rows = rows_of(measured[0])
    assert rows["model"]["rmse"] < 0.6 * min(rows["untrained"]["rmse"], rows["constant"]["rmse"])
    assert rows["model"]["delta_1"] > rows["constant"]["delta_1"]


def test_scenes_are_split_and_every_picture_has_its_numbers(segmented):
    summary, out = segmented
    assert summary["scenes"] == {"train": 8, "test": 4}
    assert summary["images"] == {"train": 16, "test": 8}
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 8 * 4
    assert not (out / "scratch").exists()


def test_finished_probes_are_scored_without_the_model_and_repeat(segmented, data, tmp_path):
    summary, out = segmented
    again = Seer()
    assert evaluate(LinearSegmentation(fit=FIT), again, data, out)["rows"] == summary["rows"]
    assert again.encoded == 0
    fresh = evaluate(LinearSegmentation(fit=FIT), Seer(), data, tmp_path / "fresh")
    assert fresh["rows"] == summary["rows"]


def test_unknown_labels_and_depths_are_neither_learned_nor_judged(segmented, measured):
    labels = maps_of(segmented[1] / "measured")
    assert (labels[:, :3] == -1).all()
    assert (labels[:, 3:] >= 0).all()
    assert (maps_of(measured[1] / "measured")[:, :3] == 0).all()


def test_training_frames_of_their_own_and_unreadable_pictures(data, tmp_path):
    other = draw(tmp_path / "other", count=6)
    (tmp_path / "other" / "1.png").write_bytes(b"no picture")
    protocol = LinearSegmentation(train=data, fit=Schedule(steps=3), baselines=False, train_images=10)
    summary = evaluate(protocol, Seer(), other, tmp_path / "out")
    assert summary["images"] == {"train": 10, "test": 5}
    assert list(summary["skipped"]) == ["1.png"]
    assert [row["method"] for row in summary["rows"]] == ["model"]


def test_two_lists_of_classes_are_not_mixed(data, tmp_path, monkeypatch):
    other = draw(tmp_path / "other", count=6)
    for manifest, classes in ((data, ["wall", "floor"]), (other, ["floor", "wall", "bed"])):
        monkeypatch.setitem(manifest.info, "classes", classes)
    with pytest.raises(UserError, match="another list"):
        evaluate(LinearSegmentation(train=data), Seer(), other, tmp_path / "out")


def test_a_projector_is_judged_as_part_of_the_encoder(data, tmp_path):
    model = zoo.build("dune-vits14-336", size="debug", patch_size=PATCH, image_size=SIDE).eval()
    protocol = LinearDepth(fit=Schedule(steps=2), project="mast3r", baselines=False)
    summary = evaluate(protocol, model, data, tmp_path / "out")
    assert [row["method"] for row in summary["rows"]] == ["model", "projected"]
    with pytest.raises(UserError, match="cannot project features"):
        evaluate(LinearDepth(project="mast3r"), Seer(), data, tmp_path / "other")


def test_every_pixel_and_the_gradient_loss_can_be_learned_from(data, tmp_path):
    fit = Schedule(steps=60, batch=8, lr=0.05, pixels=0, gradient=0.5)
    for protocol in (LinearDepth, LinearSegmentation):
        summary = evaluate(protocol(fit=fit), Seer(), data, tmp_path / protocol.name)
        rows, column = rows_of(summary), protocol.numbers[0].key
        better = rows["model"][column] > rows["untrained"][column]
        assert better is (column == "miou")


def test_data_that_cannot_be_probed_say_what_is_missing(data, tmp_path):
    bare = Manifest([f for f in draw(tmp_path / "a", 2).frames], data.root)  # one scene
    with pytest.raises(UserError, match="--train"):
        evaluate(LinearDepth(), Seer(), bare, tmp_path / "1")
    with pytest.raises(UserError, match="most"):
        evaluate(LinearDepth(most=0.5), Seer(), data, tmp_path / "2")
    with pytest.raises(UserError, match="at least two patches"):
        evaluate(LinearDepth(size=15), Seer(), data, tmp_path / "3")
    none = [Frame(dataset="a", scene=f"{i}", frame="0", split="", image="0.png", width=8, height=8) for i in (0, 1)]
    with pytest.raises(UserError, match="labels"):
        evaluate(LinearSegmentation(), Seer(), Manifest(none, data.root), tmp_path / "4")


def test_scores_by_hand():
    true, said = np.array([[0, 0, 1, -1, 7]]), np.array([[0, 1, 1, 0, 0]])
    counts = confusion(said, true, 3)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert confusion(np.array([5, -1]), np.array([0, 1]), 2).tolist() == [[0, 0, 1], [0, 0, 1]]  # no class: misses
    scores = segmentation_scores(counts)
    assert scores["iou"] == [0.5, 0.5, None]
    assert (scores["miou"], scores["accuracy"]) == (0.5, pytest.approx(2 / 3))
    item, answer = Item("0", "a"), {"map": np.array([2.0, 3.0, 5.0])}
    numbers = LinearDepth().judge(item, answer, (np.array([2.0, 2.0, 0.0]), {}))
    assert numbers == {"rmse": pytest.approx(0.5**0.5), "abs_rel": 0.25, "delta_1": 0.5}
    assert list(LinearDepth().judge(item, answer, (np.zeros(3), {}))) == ["failed"]
