"""The protocol end to end on a world whose right answers are known: scores, resume, bad input, baselines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, evaluate, fingerprint
from manyview.evaluation.recon_per_view import ReconPerView

MODEL_ROWS = ("model", "model_2_views")


def rows_of(summary: dict) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


def test_a_perfect_model_scores_perfectly_whatever_its_scale(world, reader, tmp_path):
    for scale in (1.0, 2.0):
        summary = evaluate(ReconPerView(views=2), reader(scale=scale), world, tmp_path / str(scale))
        assert list(rows_of(summary)) == list(MODEL_ROWS)
        for row in summary["rows"]:
            assert row["scale_factor"] == pytest.approx(1 / scale, rel=1e-5)
            assert [row[key] for key in ("accuracy", "completeness", "abs_rel")] == pytest.approx([0, 0, 0], abs=1e-3)
            assert (row["views"], row["failed"]) == (5, 0)


def test_noise_scores_worse(world, reader, tmp_path):
    clean, noisy = (
        evaluate(ReconPerView(views=1), reader(noise=n), world, tmp_path / str(n))["rows"][0] for n in (0.0, 0.1)
    )
    assert all(noisy[key] > clean[key] + 0.01 for key in ("accuracy", "completeness", "abs_rel"))


def test_files_hold_the_results_and_scoring_needs_no_model(world, reader, tmp_path):
    protocol = ReconPerView(views=1)
    summary = evaluate(protocol, reader(), world, tmp_path / "out", names={"model": "reader"})
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [frame.image for frame in world.frames]
    again = protocol.score(tmp_path / "out")
    assert again["rows"] == summary["rows"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["model"] == "reader"
    assert "one view at a time" in (tmp_path / "out" / "summary.md").read_text()


def test_an_interrupted_export_goes_on_and_changed_settings_are_refused(world, reader, tmp_path):
    out, model = tmp_path / "out", reader()
    evaluate(ReconPerView(views=2), model, world, out)
    assert model.asked == [1] * 5 + [2] * 3
    (out / "predictions" / "model" / "000003.npz").unlink()
    again = reader()
    evaluate(ReconPerView(views=2), again, world, out)
    assert again.asked == [1]
    for other in ((ReconPerView(views=3), reader()), (ReconPerView(views=2), reader(scale=3.0))):
        with pytest.raises(UserError, match="--overwrite"):
            evaluate(*other, world, out)
    evaluate(ReconPerView(views=3), reader(), world, out, overwrite=True)
    assert not (out / "predictions" / "model_2_views").exists()


def test_a_damaged_prediction_is_named(world, reader, tmp_path):
    evaluate(ReconPerView(views=1), reader(), world, tmp_path / "out")
    broken = tmp_path / "out" / "predictions" / "model" / "000001.npz"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=r"000001\.npz"):
        ReconPerView(views=1).score(tmp_path / "out")


def test_a_foreign_folder_is_left_alone(world, reader, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        evaluate(ReconPerView(), reader(), world, tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "me.txt").read_text() == "keep"


def test_views_that_cannot_be_judged_are_listed_not_averaged(world, reader, tmp_path):
    frames = list(world.frames)
    frames[1] = replace(frames[1], depth=None, depth_scale=None)
    frames[2] = replace(frames[2], fx=None, fy=None, cx=None, cy=None)
    (world.root / frames[3].image).write_bytes(b"not an image")
    data = Manifest(frames, world.root)
    summary = evaluate(ReconPerView(views=2), reader(), data, tmp_path / "out")
    reasons = {row["frame"]: row["reason"] for row in summary["skipped"]}
    assert list(reasons) == [frames[i].image for i in (1, 2, 3)]
    assert reasons[frames[1].image] == "no measured depth"
    assert reasons[frames[2].image] == "no intrinsics"
    assert rows_of(summary)["model"]["views"] == 2
    assert "Not judged: room/001.png: no measured depth." in (tmp_path / "out" / "summary.md").read_text()


def test_a_model_without_usable_points_fails_visibly(world, reader, tmp_path):
    summary = evaluate(ReconPerView(views=1), reader(broken=True), world, tmp_path / "out")
    row = summary["rows"][0]
    assert (row["views"], row["failed"]) == (0, 5)
    assert "accuracy" not in row
    assert "(5 failed)" in (tmp_path / "out" / "summary.md").read_text()


def test_nothing_to_judge_is_the_users_mistake(world, reader, tmp_path):
    bare = Manifest([replace(f, depth=None, depth_scale=None) for f in world.frames], world.root)
    with pytest.raises(UserError, match="no measured depth"):
        evaluate(ReconPerView(), reader(), bare, tmp_path / "out")
    with pytest.raises(UserError, match="--views 0"):
        ReconPerView(views=0)
    with pytest.raises(UserError, match="image_size"):
        evaluate(ReconPerView(), lambda images: {}, world, tmp_path / "other")


def test_the_first_frame_comparison_knows_a_moved_camera(world, reader, tmp_path):
    """The reader's global map is its local one: as bad as no motion, while measured poses make it perfect."""
    found = evaluate(ReconPerView(views=3), reader(scale=0.5), world, tmp_path / "out")["first_frame"]
    assert found["views"] == 4  # 5 frames in groups (0 1 2) and (2 3 4), each frame judged once, first views never
    table = found["table"]
    assert table["global"] == pytest.approx(table["local_identity"])
    assert table["local_identity"]["point_error"] > 5
    assert table["local_measured_pose"]["point_error"] == pytest.approx(0, abs=0.01)


def test_the_first_frame_comparison_without_poses_says_so(world, reader, tmp_path):
    bare = Manifest([replace(f, cam2world=None) for f in world.frames], world.root)
    found = evaluate(ReconPerView(views=2), reader(), bare, tmp_path / "out")["first_frame"]
    assert found["views"] == 0
    assert {row["reason"] for row in found["skipped"]} == {"a view of the group has no measured pose"}


def test_protocols_are_registered_with_a_line_each():
    assert "recon-per-view" in PROTOCOLS.names()
    for name in PROTOCOLS.names():
        protocol = PROTOCOLS.get(name)
        assert protocol.name == name
        assert protocol.line


def test_fingerprints_and_fresh_copies_follow_the_weights():
    from manyview import zoo

    model = zoo.build("manyview-tiny", size="debug", seed=0).eval()
    same, other = zoo.build("manyview-tiny", size="debug", seed=0), model.untrained(seed=5)
    assert fingerprint(model) == fingerprint(same) != fingerprint(other)
    assert fingerprint(other) == fingerprint(model.untrained(seed=5))
    assert not other.training
    state = torch.random.get_rng_state()
    model.untrained(seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.isfinite(sum(float(p.detach().sum()) for p in other.parameters()))
