"""Whether other views help, on models that we know to use them or not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matching_world import HEIGHT, PATCH, WIDTH, write_scenes

from manyview import zoo
from manyview.data.manifest import Manifest
from manyview.data.pairs import DepthReader, measured_pairs
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.masked_views import MaskedViews, choose_items, difference
from manyview.losses.masked import patch_statistics, patchify
from manyview.models.model import CompletesViews

SMALL = {"items": 6, "draws": 2, "overlap": 0.3, "apart": 0.2}


class Painter(CompletesViews):
    """Fills hidden patches from the closest-looking visible patches: of all views, or of the target alone.

    Patches are compared by the image's mean colour only, so another scene's view, in other colours, helps less.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self.config = SimpleNamespace(patch_size=PATCH, image_size=(HEIGHT, WIDTH))
        self.alone, self.fingerprint, self.masks = alone, f"painter {alone}", []

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        return images * 2 - 1

    def __call__(self, images: torch.Tensor, mask: torch.Tensor) -> SimpleNamespace:
        self.masks.append(mask)
        patches = patchify(self.normalised(images), PATCH)
        mean, spread = patch_statistics(patches)
        patches = (patches - mean) / spread
        views = patches[:, :1] if self.alone else patches[:, 1:]
        guess = views.mean((1, 2), keepdim=True).expand_as(patches)
        return SimpleNamespace(reconstruction=guess, mask=mask)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Manifest:
    return write_scenes(tmp_path_factory.mktemp("rooms"), scenes=range(4), frames=8, turn=0.4)


def test_a_model_that_looks_at_its_views_differs_and_one_that_does_not_is_equal(rooms, tmp_path):
    looking = evaluate(MaskedViews(**SMALL), Painter(), rooms, tmp_path / "a")
    blind = evaluate(MaskedViews(**SMALL), Painter(alone=True), rooms, tmp_path / "b")
    assert looking["items"] == blind["items"] == 6
    assert looking["differences"]["other_scene"]["percent"] > 1
    for name in ("other_scene", "apart"):
        assert blind["differences"][name]["items"] > 0
        assert blind["differences"][name]["percent"] == pytest.approx(0, abs=1e-4)
        assert blind["differences"][name]["spread"] == pytest.approx(0, abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "a" / "results.jsonl").read_text().splitlines()]
    assert np.mean([line["own"] for line in lines]) == pytest.approx(looking["loss_own"], rel=1e-5)
    assert "another scene's views" in (tmp_path / "a" / "summary.md").read_text()


def test_masks_are_the_same_under_every_condition_and_for_every_model(rooms, tmp_path):
    models = Painter(), Painter(alone=True)
    for number, model in enumerate(models):
        evaluate(MaskedViews(**SMALL), model, rooms, tmp_path / str(number))
    assert all(torch.equal(a, b) for a, b in zip(models[0].masks, models[1].masks, strict=True))
    first = models[0].masks
    assert torch.equal(first[0], first[1])
    assert any(not torch.equal(first[0], other) for other in first)
    reference = Painter()
    evaluate(MaskedViews(**SMALL, reference=True, mask_ratio=0.9), reference, rooms, tmp_path / "r")
    assert not reference.masks[0][:, 1:].any()
    assert reference.masks[0][:, 0].float().mean() > 0.85


def test_views_beside_the_target_are_what_they_are_called(rooms):
    items = choose_items(MaskedViews(**SMALL, views=3), rooms, (HEIGHT, WIDTH))
    reader = DepthReader(rooms, (HEIGHT, WIDTH))
    measured = {
        (pair.a, pair.b): pair.overlap
        for scene, indices in rooms.scenes().items()
        for pair in measured_pairs(reader, scene, indices, 1000, np.random.default_rng(0))
    }
    for item in items:
        assert all(len(frames) == 2 for frames in item.beside.values())
        assert all(measured[item.target, frame] >= 0.3 for frame in item.beside["own"])
        assert all(rooms[frame].scene != item.scene for frame in item.beside["other_scene"])
        assert all(measured[item.target, frame] <= 0.2 for frame in item.beside.get("apart", []))
    assert any("apart" in item.beside for item in items)
    assert items == choose_items(MaskedViews(**SMALL, views=3), rooms, (HEIGHT, WIDTH))


def test_differences_are_of_the_means_over_items_that_have_both():
    own, other = np.array([1.0, 2.0, 1.0]), np.array([1.1, 2.4, np.nan])
    found = difference(own, other, np.array(["a", "b", "c"]), seed=0)
    assert found["items"] == 2
    assert found["percent"] == pytest.approx(100 * (3.5 / 3 - 1))
    assert found["low"] == pytest.approx(10)
    assert found["high"] == pytest.approx(20)
    assert difference(own, np.full(3, np.nan), np.array(["a", "b", "c"]), seed=0)["items"] == 0


def test_networks_of_the_zoo_run_and_single_view_ones_do_not_care(rooms, tmp_path):
    found = {}
    for across in ("decoder", "nowhere"):
        model = zoo.build("mum-tiny12-full", size="debug", seed=0, across=across).eval()
        with torch.no_grad():  # fresh weights are small, and so is what they make of other views
            for parameter in model.decoder.parameters():
                parameter.mul_(10)
        summary = evaluate(MaskedViews(**SMALL, size=(HEIGHT, WIDTH)), model, rooms, tmp_path / across)
        found[across] = abs(summary["differences"]["other_scene"]["percent"])
    assert found["nowhere"] < 1e-6 < found["decoder"]


def test_mistakes(rooms, tmp_path):
    with pytest.raises(UserError, match="--views 1"):
        MaskedViews(views=1)
    with pytest.raises(UserError, match="lower overlap"):
        evaluate(MaskedViews(overlap=1.5), Painter(), rooms, tmp_path / "a")
    with pytest.raises(UserError, match="hidden patches"):
        evaluate(MaskedViews(), lambda images: {}, rooms, tmp_path / "b")
