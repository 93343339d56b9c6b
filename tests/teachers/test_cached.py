"""Answers kept on disk: read back, measured, never mixed up, and worth as much to a training as live ones."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from manyview import zoo
from manyview.cache import codec
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.data.synthetic.figures import write_figures
from manyview.engine.loop import fit
from manyview.errors import UserError
from manyview.recipes.base import preset
from manyview.recipes.dune import DuneRecipe
from manyview.teachers.cached import CachedTeacher
from manyview.teachers.features import FeatureTeacher
from manyview.types import Signal, Views

PICTURES = {"seed": 0, "size": [32, 32]}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    model = zoo.build("dinov2-vits14", size="debug", seed=1, dim=16, heads=2, patch_size=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("teacher")
    zoo.save_model(model, folder / "model")
    return str(folder / "model")


@pytest.mark.parametrize("first", [0, 1])
def test_the_axes_are_fitted_once_by_whoever_comes_first(source, tmp_path, monkeypatch, first):
    """Ranks see other pictures; with axes of its own each, an answer would be read on axes that it was not kept on."""
    fitted, fit_axes = [], codec.Basis.fit

    def slow(rows, share):
        fitted.append(rows)
        time.sleep(0.2)  # the other one comes meanwhile
        return fit_axes(rows, share)

    monkeypatch.setattr(codec.Basis, "fit", slow)
    monkeypatch.setattr(CachedTeacher, "_say_error", lambda self: None)  # drafts of files are told apart by process
    ranks = [
        CachedTeacher(FeatureTeacher(source, name="one", student_patch=8), tmp_path, pictures=PICTURES, keep="pca")
        for _ in range(2)
    ]
    seen = []
    for rank in range(2):
        images = torch.rand(6, 1, 3, 32, 32, generator=torch.Generator().manual_seed(rank))
        seen.append(Views(images, names=[[f"{rank}/{index}.png#0"] for index in range(6)]))
    order = [first, 1 - first]
    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(order, pool.map(lambda rank: ranks[rank](seen[rank]), order), strict=True))
    assert len(fitted) == 1
    for rank in range(2):  # each reads the other's answers as they were given
        read = ranks[1 - rank](seen[rank])["patches"].value
        assert torch.equal(read, answers[rank]["patches"].value)


@pytest.fixture
def teacher(source) -> FeatureTeacher:
    return FeatureTeacher(source, name="one", student_patch=8)


@pytest.fixture
def views() -> Views:
    images = torch.rand(6, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Views(images, names=[[f"0/{index}.png#0"] for index in range(6)])


@pytest.mark.parametrize(("keep", "most"), [("float16", 1e-3), ("int8", 0.01), ("pca", 1.0)])
def test_answers_come_back_with_the_error_the_index_says(teacher, views, tmp_path, keep, most):
    cached = CachedTeacher(teacher, tmp_path, pictures=PICTURES, keep=keep)
    live, first = teacher(views)["patches"].value, cached(views)
    patches = first["patches"].value
    assert first["cls"].value.shape == (6, 1, 16)
    spread = (live - live.mean(2, keepdim=True)).square().mean()
    error = float(((patches - live).square().mean() / spread).sqrt())
    index = json.loads((tmp_path / "error.json").read_text())
    assert index["error"] == pytest.approx(error, rel=1e-3)
    assert error < most
    again = CachedTeacher(teacher, tmp_path, pictures=PICTURES, keep=keep)
    assert torch.equal(again(views)["patches"].value, patches)
    assert (cached.asked, again.asked) == (6, 0)


def test_principal_components_are_a_quarter_of_the_channels(teacher, views, tmp_path):
    """What is read lies in a flat space of 4 of the 16 dimensions, the one that loses least of the first batch."""
    live = teacher(views)["patches"].value.flatten(0, 2).double()
    kept = CachedTeacher(teacher, tmp_path, pictures=PICTURES, keep="pca")(views)["patches"].value
    centred = kept.flatten(0, 2).double()
    centred = centred - centred.mean(0)
    spread = torch.linalg.svdvals(centred)
    assert spread[3] > 1e-2 * spread[0]
    assert spread[4] < 1e-5 * spread[0]
    lost = torch.linalg.svdvals(live - live.mean(0))[4:].square().sum()
    error = (kept.flatten(0, 2) - live).square().sum()
    assert float(error) == pytest.approx(float(lost), rel=0.02)


def test_answers_are_those_of_the_network_wherever_its_folder_lies(teacher, source, views, tmp_path):
    CachedTeacher(teacher, tmp_path / "answers", pictures=PICTURES)(views)
    moved = FeatureTeacher(str(shutil.copytree(source, tmp_path / "moved")), name="one", student_patch=8)
    again = CachedTeacher(moved, tmp_path / "answers", pictures=PICTURES)
    again(views)
    assert again.asked == 0


def test_only_what_is_missing_or_damaged_is_asked_again(teacher, views, tmp_path):
    cached = CachedTeacher(teacher, tmp_path, pictures=PICTURES)
    half = Views(views.images[:3], names=views.names[:3])
    cached(half)
    everything = cached(views)["patches"].value
    assert cached.asked == 6
    file = next(tmp_path.glob("samples/*/*.zip"))
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(cached(views)["patches"].value, everything)
    assert cached.asked == 7
    assert not list(tmp_path.rglob(".manyview-draft-*"))


def test_answers_of_others_are_refused(teacher, views, tmp_path):
    CachedTeacher(teacher, tmp_path / "a", pictures=PICTURES)(views)
    with pytest.raises(UserError, match="pictures"):
        CachedTeacher(teacher, tmp_path / "a", pictures={**PICTURES, "seed": 1})
    with pytest.raises(UserError, match="keep"):
        CachedTeacher(teacher, tmp_path / "a", pictures=PICTURES, keep="float16")
    with torch.no_grad():
        next(teacher.network.parameters()).add_(1)
    teacher._digest = ""
    with pytest.raises(UserError, match="digest"):
        CachedTeacher(teacher, tmp_path / "a", pictures=PICTURES)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "teacher.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="older program; delete it, or name another folder with --cache"):
        CachedTeacher(teacher, tmp_path / "old", pictures=PICTURES)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        CachedTeacher(teacher, tmp_path / "b", pictures=PICTURES)
    with pytest.raises(UserError, match=r"method\.crops"):
        CachedTeacher(teacher, tmp_path / "c", pictures=PICTURES)(replace(views, names=None))


def test_training_on_kept_answers_matches_live_ones_and_asks_nobody_after_a_pass(source, tmp_path, monkeypatch):
    write_figures(tmp_path / "figures", count=6, size=(40, 40))
    data = [tmp_path / "figures" / "manifest.parquet"]
    config = replace(
        preset(DuneRecipe, "debug")[1].method,
        teachers=(f"one={source}",),
        image_size=32,
        crops=2,
        encoder=("patch_size=8", "layer_scale=null"),
    )
    run = RunConfig(steps=12, batch=3, lr=2e-3, log_every=1, checkpoint_every=12)

    def losses(name: str, cache) -> list[float]:
        torch.manual_seed(0)
        recipe, lines = DuneRecipe.build(config), []
        batches = DuneRecipe.batches(config, run, cache=cache, data=data)
        fit(recipe, batches, run, tmp_path / name, device="cpu", on_log=lines.append)
        return [line["loss"] for line in lines]

    live, kept = losses("live", None), losses("kept", tmp_path / "answers")
    assert kept == pytest.approx(live, rel=0.02)
    assert len(list((tmp_path / "answers" / "one").glob("samples/*/*.zip"))) == 12
    monkeypatch.setattr(FeatureTeacher, "__call__", lambda *_: pytest.fail("the teacher was asked"))
    assert losses("again", tmp_path / "answers") == kept
    with pytest.raises(UserError, match=r"method\.crops"):
        DuneRecipe.batches(replace(config, crops=0), run, cache=tmp_path / "x", data=data)


def test_a_manifest_is_what_names_the_pictures(source, tmp_path):
    """Other pictures under the same names are other pictures."""
    rows = write_figures(tmp_path / "a", count=3, size=(40, 40))
    frames = [replace_scene(frame) for frame in Manifest.load(rows).frames]
    Manifest(frames, tmp_path / "a").save(tmp_path / "a" / "other.parquet")
    config = replace(
        preset(DuneRecipe, "debug")[1].method,
        teachers=(f"one={source}",),
        image_size=32,
        crops=1,
        encoder=("patch_size=8",),
    )
    run = RunConfig(batch=1)
    DuneRecipe.batches(config, run, cache=tmp_path / "answers", data=[rows])
    with pytest.raises(UserError, match="pictures"):
        DuneRecipe.batches(config, run, cache=tmp_path / "answers", data=[tmp_path / "a" / "other.parquet"])


def replace_scene(frame: Frame) -> Frame:
    return replace(frame, scene=frame.scene + "-other")


def spoilt(answer: dict[str, Signal], row: int, number: float) -> dict[str, Signal]:
    """The same answer with another first number of one crop."""
    value = answer["patches"].value.clone()
    value[row, 0, 0, 0] = number
    return {**answer, "patches": Signal(value)}


@pytest.mark.parametrize("keep", ["float16", "int8", "pca"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_said_given_and_never_kept(teacher, views, tmp_path, keep, bad, caplog):
    class Once:
        """The teacher, whose first answer to the third crop has one bad number."""

        def __init__(self):
            self.asked = 0

        def __getattr__(self, name):
            return getattr(teacher, name)

        def __call__(self, given):
            answer, self.asked = teacher(given), self.asked + 1
            return spoilt(answer, 2, bad) if self.asked == 1 else answer

    first = CachedTeacher(Once(), tmp_path, pictures=PICTURES, keep=keep)(views)["patches"].value
    assert not torch.isfinite(first[2]).all()
    assert torch.isfinite(first[[0, 1, 3, 4, 5]]).all()
    assert "NaN or infinite values to 0/2.png#0" in caplog.text
    again = CachedTeacher(teacher, tmp_path, pictures=PICTURES, keep=keep)
    later = again(views)["patches"].value
    assert again.asked == 1
    assert torch.isfinite(later).all()
    assert torch.equal(later[[0, 1, 3, 4, 5]], first[[0, 1, 3, 4, 5]])


def test_a_number_that_float16_does_not_hold_is_refused_when_it_is_written(teacher, views, tmp_path, monkeypatch):
    whole = FeatureTeacher.__call__

    def large(self, given):
        return spoilt(whole(self, given), 0, 1e6)

    monkeypatch.setattr(FeatureTeacher, "__call__", large)
    with pytest.raises(UserError, match=r"one/patches reaches 1e\+06, float16 holds up to 65504.*int8"):
        CachedTeacher(teacher, tmp_path / "half", pictures=PICTURES, keep="float16")(views)
    kept = CachedTeacher(teacher, tmp_path / "int8", pictures=PICTURES, keep="int8")(views)
    assert float(kept["patches"].value[0, 0, 0, 0]) == pytest.approx(1e6, rel=0.01)
