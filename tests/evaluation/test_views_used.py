"""The gate `views-used`: who knows the answers passes, who ignores the other views fails every line, who improves depth
but leaves every camera where the first one was passes that line alone.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manyview import zoo
from manyview.cli.main import main
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.evaluation.base import PROTOCOLS, evaluate
from manyview.evaluation.views_used import ViewsUsed, point_error, verdict
from manyview.geometry import pointmaps, poses

SIZE = (56, 70)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("rooms")
    return Manifest.load(write_scenes(folder, scenes=2, views=8, size=SIZE, seed=3, trajectory="orbit"))


class Knowing:
    """Looks every picture up: its depth with an error, and its pose unless `moves` is false.

    The error of depth shrinks when several views are there, unless `ignores`.
    """

    config = SimpleNamespace(image_size=SIZE[1], patch_size=14)

    def __init__(self, data: Manifest, *, moves: bool = True, ignores: bool = False, scale: float = 1.0) -> None:
        self.moves, self.ignores, self.scale = moves, ignores, scale
        self.fingerprint = f"knowing {moves} {ignores} {scale}"
        self.known = {}
        for row in range(len(data)):
            views = load_views(data, [row], SIZE)
            self.known[self.key(views.images[0, 0])] = views

    @staticmethod
    def key(image: torch.Tensor) -> bytes:
        return (image * 255).round().byte().numpy().tobytes()

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        views = [self.known[self.key(image)] for image in images[0]]
        noise = 0.1 if self.ignores or len(views) == 1 else 0.05
        depth = torch.cat([v.depth for v in views], 1)
        seeds = [int(v.depth.sum() * 1000) % 2**31 for v in views]  # the same error of a picture whatever is beside it
        draws = [torch.randn((*SIZE, 1), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        local = pointmaps.unproject(depth, torch.cat([v.intrinsics for v in views], 1))
        local = self.scale * local * (1 + noise * torch.stack(draws)[None])
        moved = local
        if self.moves:
            cam2world = torch.cat([v.cam2world for v in views], 1)
            first_from_view = poses.invert(cam2world[:, :1]) @ cam2world
            first_from_view[..., :3, 3] *= self.scale
            moved = pointmaps.transform(first_from_view, local)
        return {"pointmap_local": local, "pointmap": moved, "confidence": torch.ones_like(depth)}


def gate(model: Knowing, data: Manifest, out) -> dict[str, bool]:
    summary = evaluate(ViewsUsed(), model, data, out)
    assert summary["passed"] == all(line["passed"] for line in summary["gate"].values())
    return {name: line["passed"] for name, line in summary["gate"].items()}


def test_who_knows_passes_in_any_unit(rooms, tmp_path):
    for scale in (1.0, 1e-3):
        assert all(gate(Knowing(rooms, scale=scale), rooms, tmp_path / str(scale)).values())


def test_who_ignores_the_other_views_fails_every_line(rooms, tmp_path):
    assert not any(gate(Knowing(rooms, moves=False, ignores=True), rooms, tmp_path / "out").values())


def test_better_depth_without_poses_is_not_enough(rooms, tmp_path):
    lines = gate(Knowing(rooms, moves=False), rooms, tmp_path / "out")
    assert lines == {"wrong_reference": False, "identity": False, "turn": False, "depth": True}


def test_poses_without_better_depth_are_not_enough(rooms, tmp_path):
    lines = gate(Knowing(rooms, ignores=True), rooms, tmp_path / "out")
    assert lines == {"wrong_reference": True, "identity": True, "turn": True, "depth": False}


def test_the_error_is_that_of_later_views_after_one_scale():
    true = np.ones((2, 4, 4, 3))
    spoiled = 5 * true.copy()
    spoiled[0, 0, 0] = 100  # the first view decides the scale, not the error
    assert point_error(spoiled, true, np.ones((2, 4, 4), bool)) == pytest.approx(0)
    spoiled[1] = 0
    assert point_error(spoiled, true, np.ones((2, 4, 4), bool)) > 1


def test_what_cannot_be_judged_does_not_pass():
    lines = verdict(
        {"error": 0.1, "identity": 0.5, "turn": 1.0, "true_turn": 9.0, "abs_rel": 1.0, "abs_rel_alone": 2.0}
    )
    assert lines["wrong_reference"] == {"value": None, "limit": 2.5, "passed": False}
    assert all(line["passed"] for name, line in lines.items() if name != "wrong_reference")


def test_a_scene_alone_has_no_stranger_and_short_scenes_are_told(rooms, tmp_path):
    one = Manifest([frame for frame in rooms.frames if frame.scene == rooms.frames[0].scene], rooms.root)
    summary = evaluate(ViewsUsed(), Knowing(one), one, tmp_path / "one")
    assert (summary["gate"]["wrong_reference"]["value"], summary["passed"]) == (None, False)
    with pytest.raises(UserError, match="no scene has 5 frames 2 apart"):
        evaluate(ViewsUsed(views=5), Knowing(rooms), rooms, tmp_path / "short")
    with pytest.raises(UserError, match="at least 2 views"):
        ViewsUsed(views=1)


def test_the_command_renders_its_scenes_says_each_line_and_its_exit_code_is_the_verdict(
    rooms, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("manyview.evaluation.views_used.HELD_OUT", {"scenes": 2, "views": 8, "size": SIZE, "seed": 3})
    model = zoo.save_model(zoo.build("manyview-tiny", size="debug", seed=0, image_size=70).eval(), tmp_path / "model")
    assert main(["eval", "views-used", "--model", str(model)]) == 1
    said = capsys.readouterr().out
    assert said.count("FAIL") >= 3
    assert "The gate is NOT passed" in said
    assert main(["eval", "views-used", "--model", str(model), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False
    assert main(["eval", "recon-per-view", "--model", str(model)]) == 2
    assert "--data is missing" in capsys.readouterr().err
    assert PROTOCOLS.get("views-used")().own_data(tmp_path / "again").is_file()
