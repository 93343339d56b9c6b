"""The protocol `poses`: what true, noisy, collapsed and unregistered cameras score, and all of it on small rooms."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manyview import zoo
from manyview.cli.main import main
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.evaluation import poses as protocol
from manyview.evaluation.base import Item, evaluate
from manyview.evaluation.poses import Poses, pose_numbers
from manyview.evaluation.recon_per_view import ReconPerView
from manyview.geometry.poses import look_at
from manyview.models.pair.network import PairReconstructor, debug, mast3r


@pytest.fixture(scope="module")
def true() -> np.ndarray:
    eyes = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (6, 3)))
    return look_at(eyes, torch.tensor([0.2, 0.1, 0.3]).double()).numpy()


def test_true_poses_in_another_frame_and_unit_score_perfectly(true):
    moved = true.copy()
    moved[:, :3, 3] *= 3.0
    turn = look_at(torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 0, 1])).double().numpy()
    row = pose_numbers(turn @ moved, np.zeros(6, int), true)
    assert all(row[key] == pytest.approx(1, abs=1e-6) for key in ("auc5", "auc30", "rra5", "rta5", "registered"))
    assert row["ate"] == pytest.approx(0, abs=1e-6)
    assert row["rotation"] < 1e-4


def test_noise_of_known_size_is_measured_and_a_collapsed_answer_scores_nothing(true):
    angle = np.radians(4.0)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    noisy = true.copy()
    noisy[3] = noisy[3] @ tilt
    row = pose_numbers(noisy, np.zeros(6, int), true)
    assert row["rra5"] == 1
    assert 0.5 < row["auc10"] < 1
    assert pose_numbers(np.tile(np.eye(4), (6, 1, 1)), np.zeros(6, int), true)["auc30"] < 0.05


def test_pairs_of_different_frames_and_unregistered_ones_count_as_wrong(true):
    frame = np.array([0, 0, 0, 1, 1, -1])
    row = pose_numbers(true, frame, true)
    assert row["rra5"] == pytest.approx((3 + 1) / 15)
    assert row["registered"] == 0.5
    nobody = pose_numbers(true, np.full(6, -1), true)
    assert (nobody["auc30"], nobody["registered"], nobody["rotation"], nobody["ate"]) == (0, 0, 180, None)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("rooms"), scenes=2, views=4, size=(140, 196), seed=3)


def test_rooms_are_judged_by_a_command_and_matches_beat_an_untrained_network(rooms, tmp_path, capsys):
    model = zoo.save_model(zoo.build("distill3r", size="debug", seed=0).eval(), tmp_path / "model")
    scores = {}
    for cameras in ("auto", "model"):
        line = ["eval", "poses", "--model", str(model), "--data", str(rooms), "--frames", "4", "--cameras", cameras]
        assert main([*line, "-o", str(tmp_path / f"by-{cameras}"), "--json"]) == 0
        scores[cameras] = json.loads(capsys.readouterr().out)["rows"][0]
    assert scores["model"]["registered"] == 0.25  # its own maps place no view but the first
    assert scores["model"]["auc30"] < scores["auto"]["auc30"]
    assert scores["auto"]["scenes"] == 2


@pytest.mark.parametrize(("cameras", "frame"), [("auto", [0, 0, -1, -1]), ("model", [0, 0, 0, -1])])
def test_what_the_network_alone_places_is_not_registered_unless_its_word_is_judged(monkeypatch, cameras, frame):
    pose = np.eye(4)
    kinds = [(pose, True), (pose, True), (pose, False), (None, False)]
    views = [SimpleNamespace(cam2world=one, registered=tied, component=0) for one, tied in kinds]
    monkeypatch.setattr(protocol, "reconstruct", lambda *_, **__: SimpleNamespace(views=views))
    answer = Poses(cameras=cameras).ask(None, None, Item("0", "room", about={"images": []}))
    assert answer["frame"].tolist() == frame


def test_frames_are_chosen_as_asked_and_alike_each_time(rooms):
    data = Manifest.load(rooms)
    rows = list(range(8))
    assert Poses(frames=3, order="first")._frames(rows, 0) == [0, 1, 2]
    assert Poses(frames=3, order="spread")._frames(rows, 0) == [0, 4, 7]
    random = Poses(frames=3, seed=5)
    assert random._frames(rows, 1) == random._frames(rows, 1)
    assert len({tuple(random._frames(rows, n)) for n in range(20)}) > 5
    assert [len(item.about["images"]) for item in Poses(frames=9).choose(None, data, None)] == [4, 4]


def test_what_cannot_be_judged_is_said_in_one_line(rooms, tmp_path):
    with pytest.raises(UserError, match="frames is 1; poses are judged between two"):
        Poses(frames=1)
    frames = [
        frame.__class__(**{**{k: getattr(frame, k) for k in frame.__slots__}, "cam2world": None})
        for frame in Manifest.load(rooms).frames
    ]
    blind = Manifest(frames, Manifest.load(rooms).root)
    with pytest.raises(UserError, match="no scene of the manifest has two frames with a pose"):
        evaluate(Poses(), zoo.build("distill3r", size="debug", seed=0), blind, tmp_path / "out")
    with pytest.raises(UserError, match="cannot reconstruct"):
        evaluate(Poses(), zoo.build("dinov2-vits14", size="debug", seed=0), Manifest.load(rooms), tmp_path / "o")


def test_pair_models_are_judged_by_both_protocols(rooms, tmp_path):
    torch.manual_seed(0)
    network = PairReconstructor(debug(replace(mast3r(), encoder=replace(mast3r().encoder, image_size=196)))).eval()
    data = Manifest.load(rooms)
    poses = evaluate(Poses(frames=3, cameras="model"), network, data, tmp_path / "poses")
    assert poses["rows"][0]["registered"] == 1
    assert poses["rows"][0]["auc30"] < 0.3  # weights that never learnt anything
    views = evaluate(ReconPerView(views=2), network, data, tmp_path / "views")
    assert [row["views"] + row["failed"] for row in views["rows"]] == [8, 8]
