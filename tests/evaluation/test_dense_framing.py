"""Pictures larger than a crop: windows against one look, and what becomes of pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_world import PATCH, SIDE, Seer, draw, maps_of
from PIL import Image

from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.dense_fit import Examples, Schedule, answers, resized
from manyview.evaluation.dense_framing import Framing
from manyview.evaluation.dense_maps import Part, read_maps, split, write_maps
from manyview.evaluation.linear import LinearDepth, LinearSegmentation
from manyview.images.reading import ImageProblem
from manyview.models.dense_heads import DepthHead, SegmentationHead

FIT = Schedule(steps=60, batch=16, pixels=64, lr=0.05)
SQUARE = (SIDE, SIDE)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Landscapes and portraits of 2 x 5 and 4 x 2 squares, and exact crops."""
    return draw(tmp_path_factory.mktemp("wide") / "data", count=18, shapes=((2, 5), (4, 2), (2, 2)))


def test_windows_cover_the_picture_and_end_at_its_border():
    framing = Framing((512, 512), "slide")
    assert framing.full((600, 1000)) == (512, 853)
    assert framing.corners((600, 1000)) == [(0, 0), (0, 341)]
    assert Framing((512, 512), "slide", 256).corners((1000, 500)) == [(0, 0), (256, 0), (512, 0)]
    for source in ((37, 91), (91, 37), (50, 50)):
        for stride in (0, 1, 7, 20):
            framing = Framing((20, 24), "slide", stride)
            seen = np.zeros(framing.full(source), int)
            for top, left in framing.corners(source):
                assert seen[top : top + 20, left : left + 24].shape == (20, 24)
                seen[top : top + 20, left : left + 24] += 1
            assert seen.min() == 1
    assert Framing((20, 24), "slide").corners((40, 48)) == [(0, 0)]
    assert Framing((20, 24)).corners((91, 37)) == [(0, 0)]


def test_pictures_and_maps_move_together(tmp_path):
    values = np.zeros((40, 100), np.uint8)
    values[10:20, 70:90] = 200
    Image.fromarray(np.repeat(values[..., None], 3, -1)).save(tmp_path / "a.png")
    for framing in (Framing((20, 20), "slide"), Framing((20, 20), "squash"), Framing((20, 20))):
        picture = framing.picture(tmp_path / "a.png", (40, 100))
        found = framing.map(values, (40, 100))
        assert picture.shape[:2] == found.shape == framing.full((40, 100))
        inside = picture[..., 0] > 100
        assert (inside == (found > 100)).mean() > 0.97
    assert found.max() == 0  # the middle does not show it, the others do
    assert (Framing((20, 20), "squash").map(values, (40, 100)) > 100).sum() == 5 * 4
    with pytest.raises(ImageProblem, match="the manifest says 9x9"):
        framing.picture(tmp_path / "a.png", (9, 9))


def test_windows_of_exactly_one_crop_are_the_whole(tmp_path):
    data = draw(tmp_path / "square", count=8)
    protocol = LinearSegmentation
    whole = evaluate(protocol(fit=FIT, baselines=False), Seer(), data, tmp_path / "whole")
    slide = evaluate(protocol(fit=FIT, baselines=False, framing="slide"), Seer(), data, tmp_path / "slide")
    assert whole["rows"] == slide["rows"]
    one, other = (maps_of(tmp_path / how / "predictions" / "model") for how in ("whole", "slide"))
    assert np.array_equal(one, other)


def test_windows_judge_all_of_wide_and_tall_pictures(wide, tmp_path):
    summary = evaluate(LinearSegmentation(fit=FIT, framing="slide"), Seer(), wide, tmp_path / "s")
    rows = {row["method"]: row for row in summary["rows"]}
    assert rows["model"]["miou"] > 0.55
    assert rows["model"]["miou"] > 1.5 * max(rows["untrained"]["miou"], rows["constant"]["miou"])
    assert "(slide)" in (tmp_path / "s" / "summary.md").read_text()
    pixels = sum(values.size for values in maps_of(tmp_path / "s" / "predictions" / "model"))
    assert pixels > 1.5 * summary["images"]["test"] * SIDE * SIDE
    depth = evaluate(LinearDepth(fit=FIT, framing="slide", least=0.5), Seer(), wide, tmp_path / "d")
    errors = {row["method"]: row["rmse"] for row in depth["rows"]}
    assert errors["model"] < 0.6 * min(errors["untrained"], errors["constant"])
    middle = evaluate(LinearSegmentation(fit=FIT), Seer(), wide, tmp_path / "w")
    assert middle["size"] == summary["size"]
    assert maps_of(tmp_path / "w" / "predictions" / "model").shape[1:] == SQUARE


@pytest.mark.parametrize("kind", ["labels", "depth"])
def test_averaged_windows_are_those_of_a_slow_average(wide, kind, tmp_path):
    part = Part(wide, (0, 1), kind, Framing(SQUARE, "slide", 8))
    pixels, problems = part.read(range(len(part.crops)))
    assert problems == {}
    tokens = Seer().encode(pixels.permute(0, 3, 1, 2) / 255).patches
    maps = part.maps(tmp_path / "maps.npy", lambda values: values)
    examples = Examples(tokens, part, maps, np.arange(len(part.crops)), PATCH, torch.device("cpu"))
    torch.manual_seed(0)
    head = (SegmentationHead(3, 4) if kind == "labels" else DepthHead(3, least=1, most=9, bins=5)).eval()
    found = list(answers(head, examples))
    for row, size in enumerate([(SIDE, 80), (64, SIDE)]):
        assert found[row].shape == maps[row].shape == size
        total, count = 0, 0
        for index, crop in enumerate(part.crops):
            if crop.row != row:
                continue
            said = head(tokens[index : index + 1], examples.grid)
            said = resized(said if kind == "labels" else said[:, None], SQUARE)[0].detach().numpy()
            canvas, seen = np.zeros((len(said), *size)), np.zeros(size)
            place = np.s_[crop.top : crop.top + SIDE, crop.left : crop.left + SIDE]
            canvas[:, *place], seen[place] = said, 1
            total, count = total + canvas, count + seen
        mean = total / count
        if kind == "depth":
            assert np.allclose(found[row], mean[0], atol=1e-5)
        else:
            assert (found[row] == mean.argmax(0)).mean() > 0.999


def test_splits_that_a_data_set_names_come_first(tmp_path):
    plain = draw(tmp_path / "data", count=12)
    frames = [replace(f, split=("training", "val", "test")[i % 3]) for i, f in enumerate(plain.frames)]
    named = Manifest(frames, plain.root)
    look = {"share": 0.5, "most": (0, 0), "seed": 0}
    parts = split(named, None, "labels", Framing(SQUARE), **look)
    assert {name: part.frames for name, part in parts.items()} == {
        "train": (0, 3, 6, 9),
        "test": (1, 2, 4, 5, 7, 8, 10, 11),
    }
    bare = Manifest([f if f.split == "training" else replace(f, labels=None) for f in frames], plain.root)
    parts = split(bare, None, "labels", Framing(SQUARE), **look)  # a split without labels is none
    assert len(parts["train"].frames) + len(parts["test"].frames) == 4
    parts = split(plain, named, "labels", Framing(SQUARE), **look)
    assert [len(part.frames) for part in parts.values()] == [12, 12]


def test_maps_of_different_sizes_share_a_file(tmp_path):
    maps = [np.arange(6).reshape(2, 3), np.arange(4).reshape(4, 1)]
    write_maps(tmp_path / "m.npy", maps, [(2, 3), (4, 1)], np.int32)
    assert all(np.array_equal(a, b) for a, b in zip(read_maps(tmp_path / "m.npy", [(2, 3), (4, 1)]), maps, strict=True))
    with pytest.raises(ValueError, match="zip"):
        write_maps(tmp_path / "n.npy", maps[:1], [(2, 3), (4, 1)], np.int32)
    assert not (tmp_path / "n.npy").exists()


def test_what_cannot_be_framed_says_so(wide, tmp_path):
    with pytest.raises(UserError, match="stride=33"):
        evaluate(LinearSegmentation(framing="slide", stride=33), Seer(), wide, tmp_path / "1")
    with pytest.raises(UserError, match="stride=-1"):
        Framing(SQUARE, "slide", -1)


def test_crops_between_two_multiples_of_the_patch_are_padded(wide, tmp_path):
    framing = Framing((30, 33), "slide", 0, PATCH)
    assert framing.padded == (32, 40)
    assert framing.inside == (slice(1, 31), slice(3, 36))
    part = Part(wide, (0, 1), "labels", framing)
    images = framing.pad(part.read(range(len(part.crops)))[0].permute(0, 3, 1, 2) / 255)
    maps = part.maps(tmp_path / "maps.npy", lambda values: values)
    examples = Examples(Seer().encode(images).patches, part, maps, np.arange(4), PATCH, torch.device("cpu"))
    assert examples.grid == (4, 5)
    seen, labels = images[:1, 0], examples.take([0], torch.device("cpu"))[1]
    assert labels.shape == (1, 32, 40)
    border = torch.ones(32, 40, dtype=torch.bool)
    border[framing.inside] = False
    assert (labels[0, border] == -1).all()
    assert (seen[0, border] == seen[0, 0, 0]).all()
    told = ((seen[0] * 255 - 20) / 100).round().int()  # the colour says the class
    known = (labels[0] >= 0) & (torch.arange(40) < 36)
    assert (told == labels[0])[known].float().mean() > 0.8
    said = answers(SegmentationHead(3, 4).eval(), examples)
    assert [answer.shape for answer in said] == [(30, 75), (66, 33)]
    even = evaluate(LinearSegmentation(fit=FIT, size=32), Seer(), wide, tmp_path / "even")["rows"][0]
    odd = evaluate(LinearSegmentation(fit=FIT, size=30, baselines=False), Seer(), wide, tmp_path / "odd")["rows"][0]
    assert odd["miou"] > 0.8 * even["miou"]


def test_eigens_crop_is_of_the_stored_map(tmp_path):
    values = np.ones((480, 640), np.float32)
    kept = LinearDepth(eigen=True).clean(values) > 0
    assert kept.sum() == (471 - 45) * (601 - 41)
    assert kept[45, 41]
    assert not kept[44, 41]
    assert LinearDepth().clean(values).all()
    assert LinearDepth(eigen=True).clean(values[::2, ::2]).sum() == (235 - 22) * (300 - 20)
