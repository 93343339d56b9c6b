"""Map and Locate: who knows everything scores one, wrong texts and noise score as chance has it, and groups overlap."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manyview.cli.main import main
from manyview.data.loading import load_views, read_classes
from manyview.data.manifest import Manifest
from manyview.data.pairs import DepthReader, measured_pairs
from manyview.data.synthetic import write_scenes
from manyview.errors import UserError
from manyview.evaluation import map_and_locate as protocol
from manyview.evaluation.base import evaluate
from manyview.evaluation.map_and_locate import MapAndLocate
from manyview.evaluation.view_groups import groups_of_scene, objects_of
from manyview.geometry import pointmaps, poses
from manyview.images.fit import cover
from manyview.images.reading import resample_nearest

SIZE = (56, 70)
QUICK = {"scenes": 2, "sets": 1}


def embed(space, texts, templates=("{}",)):
    assert (space, templates) == ("words", ("{}",))
    rows = torch.stack([torch.from_numpy(np.random.default_rng(list(t.encode())).normal(size=32)) for t in texts])
    return torch.nn.functional.normalize(rows.float(), dim=-1)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(protocol, "embed_texts", embed)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("rooms")
    return Manifest.load(write_scenes(folder, scenes=2, views=8, size=SIZE, seed=5, trajectory="orbit"))


class Knowing:
    """Looks every picture up: its points, in a unit of its own, and as features the texts of its classes."""

    config = SimpleNamespace(image_size=SIZE[1], patch_size=14)

    def __init__(self, data: Manifest, *, features: bool = True, unit: float = 1.0, moves: bool = True) -> None:
        self.features, self.unit, self.moves, self.asked = features, unit, moves, []
        self.fingerprint = f"knowing {features} {unit} {moves}"
        texts, self.known = embed("words", data.info["classes"]), {}
        for row in range(len(data)):
            views, frame = load_views(data, [row], SIZE), data[row]
            labels = resample_nearest(read_classes(data, frame.labels), cover((frame.height, frame.width), SIZE))
            self.known[self.key(views.images[0, 0])] = views, texts[torch.from_numpy(labels).long()]

    @staticmethod
    def key(image: torch.Tensor) -> bytes:
        return (image * 255).round().byte().numpy().tobytes()

    def __call__(self, images: torch.Tensor, **chunks) -> dict:
        self.asked.append(images.shape[1])
        found = [self.known[self.key(image)] for image in images[0]]
        poses_, lenses, depths = (
            torch.cat([getattr(v, n) for v, _ in found], 1) for n in ("cam2world", "intrinsics", "depth")
        )
        local = pointmaps.unproject(depths, lenses) / self.unit
        first = poses.invert(poses_[:, :1]) @ poses_
        first[..., :3, 3] /= self.unit
        maps = {"pointmap_local": local, "pointmap": pointmaps.transform(first, local) if self.moves else local}
        maps |= {"confidence": torch.ones(local.shape[:-1]), "confidence_local": torch.ones(local.shape[:-1])}
        features = torch.stack([cells for _, cells in found])[None]
        return {**maps, "features": {"dino": features[..., :4], "words": features}} if self.features else maps


def by_method(summary, views=None):
    rows = summary["rows"] if views is None else summary["by_views"][views]
    return {row["method"]: row for row in rows}


def test_who_knows_everything_scores_one_and_controls_score_as_chance_has_it(rooms, tmp_path):
    summary = evaluate(MapAndLocate(**QUICK), Knowing(rooms, unit=3.0), rooms, tmp_path)
    table = by_method(summary)
    assert list(table) == ["model", "oracle", "shuffled", "noise", "constant"]
    for method in ("model", "oracle"):
        assert table[method]["miou"] == pytest.approx(1, abs=1e-6)
        assert table[method]["accuracy"] == pytest.approx(1, abs=1e-6)
        assert table[method]["pred_to_true"] == pytest.approx(0, abs=1e-4)  # the unit was found
    assert table["shuffled"]["accuracy"] == 0  # no class keeps its text
    assert table["noise"]["miou"] < 0.03
    assert table["constant"]["miou"] < 0.15
    assert table["constant"]["accuracy"] > 0.2  # accuracy alone does not say no, mIoU does
    assert table["model"]["seconds"] > 0
    assert set(summary["by_views"]) == {2, 3, 4}
    assert [by_method(summary, n)["model"]["groups"] for n in (2, 3, 4)] == [2, 2, 2]
    text = (tmp_path / "summary.md").read_text()
    assert "3 views:" in text
    assert "lower is better" in text
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["views"] for line in lines} == {2, 3, 4}
    assert not any(key.startswith("_") for line in lines for key in line)


def test_wrong_places_cost_what_right_labels_cannot_mend(rooms, tmp_path):
    table = by_method(evaluate(MapAndLocate(**QUICK), Knowing(rooms, moves=False), rooms, tmp_path))
    assert table["oracle"]["miou"] < 0.9
    assert table["oracle"]["pred_to_true"] > 0.05


def test_the_pipelined_row_asks_the_other_model_about_each_photo_alone(rooms, tmp_path, monkeypatch):
    silent, other = Knowing(rooms, features=False), Knowing(rooms)
    with pytest.raises(UserError, match="no feature heads"):
        evaluate(MapAndLocate(**QUICK), silent, rooms, tmp_path / "silent")
    monkeypatch.setattr(protocol, "load_as", lambda name, role, device: (other, name))
    summary = evaluate(MapAndLocate(**QUICK, pipelined="other"), silent, rooms, tmp_path / "two")
    table = by_method(summary)
    assert list(table)[:2] == ["pipelined", "oracle"]
    assert table["pipelined"]["miou"] == pytest.approx(1, abs=1e-6)
    assert set(other.asked) == {1}
    both = by_method(evaluate(MapAndLocate(**QUICK, pipelined="other"), Knowing(rooms), rooms, tmp_path / "both"))
    assert list(both) == ["model", "pipelined", "oracle", "shuffled", "noise", "constant"]
    assert both["oracle"]["groups"] == both["model"]["groups"]


def test_groups_are_linked_by_overlap_and_see_shared_objects(rooms):
    scene, rows = next(iter(rooms.scenes().items()))
    how = {"sets": 2, "overlap": (0.15, 0.85), "seed": 0}
    found = groups_of_scene(rooms, scene, rows, (2, 3, 4), **how)
    assert found == groups_of_scene(rooms, scene, rows, (2, 3, 4), **how)
    pairs = measured_pairs(DepthReader(rooms, (84, 112)), scene, rows, 99, np.random.default_rng(0))
    share = {(p.a, p.b): p.overlap for p in pairs}
    for size, groups in found.items():
        assert 1 <= len(groups) <= 2
        for group in groups:
            assert len(set(group.rows)) == size
            for row in group.rows:
                assert any(0.15 <= min(share[row, o], share[o, row]) <= 0.85 for o in group.rows if o != row)
            counts = [
                sum(thing in objects_of(rooms, row) for row in group.rows) for thing in objects_of(rooms, group.rows[0])
            ]
            assert group.shared >= sum(count > 1 for count in counts)
    assert groups_of_scene(rooms, scene, rows, (2,), sets=1, overlap=(0.999, 1.0), seed=0) == {2: []}
    assert groups_of_scene(rooms, scene, [], (2,), **how) == {2: []}


def test_data_without_classes_and_without_overlap_is_refused(rooms, tmp_path):
    bare = Manifest(rooms.frames, rooms.root, {})
    with pytest.raises(UserError, match="names no classes"):
        evaluate(MapAndLocate(), Knowing(rooms), bare, tmp_path / "a")
    short = Manifest(rooms.frames, rooms.root, {**rooms.info, "classes": rooms.info["classes"][:2]})
    with pytest.raises(UserError, match=r"png holds label \d+, the manifest names 2 classes \(0 to 1\)"):
        evaluate(MapAndLocate(**QUICK), Knowing(rooms), short, tmp_path / "short")
    with pytest.raises(UserError, match="no views overlap"):
        evaluate(MapAndLocate(overlap=(0.999, 1.0)), Knowing(rooms), rooms, tmp_path / "b")
    with pytest.raises(UserError, match="--space clip: the model has features of dino, words"):
        evaluate(MapAndLocate(space="clip", **QUICK), Knowing(rooms), rooms, tmp_path / "c")
    with pytest.raises(UserError, match="sets=0"):
        MapAndLocate(sets=0)


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "map-and-locate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--pipelined" in said
    assert "Groups of each size per scene" in said
