"""DUNE's recipe with small teachers of unlike patch, width and class token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.engine.loop import fit
from manyview.errors import UserError
from manyview.recipes.base import RECIPES, preset
from manyview.recipes.dune import DuneRecipe


def manifest(folder: Path, count: int, seed: int, size: tuple[int, int] = (60, 80)) -> Path:
    """Smooth random pictures."""
    rng, frames = np.random.default_rng(seed), []
    folder.mkdir()
    for index in range(count):
        small = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
        small.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        frames.append(
            Frame(
                dataset="toy",
                scene=f"{index}",
                frame=f"{index}",
                split="train",
                image=f"{index}.png",
                width=size[1],
                height=size[0],
            )
        )
    path = folder / "manifest.parquet"
    Manifest(frames, folder).save(path)
    return path


@pytest.fixture
def teachers(tmp_path) -> tuple[str, ...]:
    """A DINOv2-like one with a class token, and one with patch 16 and none."""
    first = zoo.build("dinov2-vits14", size="debug", seed=1, dim=12, heads=2)
    second = zoo.build("dinov2-vits14", size="debug", seed=2, patch_size=16, cls_token=False)
    for name, model in (("one", first), ("two", second)):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        zoo.save_model(model, tmp_path / name)
    return (f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}")


@pytest.fixture
def config(teachers):
    return replace(preset(DuneRecipe, "debug")[1].method, teachers=teachers)


def test_it_is_registered_and_its_default_runs_on_a_cpu():
    assert RECIPES.get("dune") is DuneRecipe
    assert preset(DuneRecipe, None)[0] == "tiny"
    paper = DuneRecipe.presets()["paper"]
    assert (paper.run.eps, paper.run.clip_each, paper.run.decay_vectors) == (1e-15, True, False)


def test_the_student_says_what_the_teachers_are(config):
    recipe = DuneRecipe.build(config)
    assert recipe.student.config.teacher_dims == (12, 8)
    assert recipe.student.config.cls_teachers == ("one",)
    assert not any(name.startswith("teachers") for name, _ in recipe.named_parameters())


def test_class_tokens_and_the_generic_domain_are_options_whatever_teachers_are_called(config, tmp_path):
    mast3r, dinov2 = (text.partition("=")[2] for text in config.teachers)  # names that say nothing
    config = replace(config, teachers=(f"mast3r={mast3r}", f"dinov2={dinov2}"))
    assert DuneRecipe.build(config).student.config.cls_teachers == ("mast3r",)
    without = DuneRecipe.build(replace(config, cls=())).student
    assert without.config.cls_teachers == ()
    assert "cls" not in without.statistics["mast3r"]
    for change, message in (
        ({"cls": ("dinov2",)}, "'dinov2', but that teacher has no class token"),
        ({"cls": ("dino",)}, "method.cls names 'dino', which is no teacher; they are mast3r, dinov2"),
        ({"generic": "dino"}, "method.generic names 'dino', which is no teacher"),
    ):
        with pytest.raises(UserError, match=message):
            DuneRecipe.build(replace(config, **change))
    data = [manifest(tmp_path / name, 4, seed) for seed, name in enumerate("ab")]
    with pytest.raises(UserError, match=r"say with method\.generic whose domain that is: mast3r, dinov2"):
        DuneRecipe.batches(replace(config, sharing="generic"), RunConfig(batch=4), cache=None, data=data)


@pytest.mark.parametrize("projector", ["transformer", "ladder", "simple"])
def test_training_lowers_every_teachers_loss_and_repeats_bit_for_bit(config, tmp_path, projector):
    data = [manifest(tmp_path / name, 6, seed) for seed, name in enumerate("ab")]
    config = replace(config, projector=projector)
    run = RunConfig(steps=12, batch=4, lr=5e-3, warmup=0.1, checkpoint_every=6, log_every=1, clip_each=True)

    def trained(out: Path) -> tuple[DuneRecipe, list[dict]]:
        torch.manual_seed(0)
        recipe, lines = DuneRecipe.build(config), []
        batches = DuneRecipe.batches(config, run, cache=None, data=data)
        fit(recipe, batches, run, out, device="cpu", on_log=lines.append)
        return recipe, lines

    whole, lines = trained(tmp_path / "whole")
    for name in ("one", "two"):
        assert lines[-1][f"loss_{name}"] < lines[0][f"loss_{name}"]
    again, _ = trained(tmp_path / "again")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not torch.equal(whole.student.statistics["one"]["patch"].mean, torch.zeros(12))


def test_a_second_stage_starts_from_the_first_at_its_own_resolution(config, tmp_path, caplog):
    """336 -> 448: every weight carries over; only the position table is resampled."""
    from manyview.layers.positions import refit_table
    from manyview.pipelines.train import train

    data = [manifest(tmp_path / name, 4, seed) for seed, name in enumerate(("a", "b"))]
    common = [f"method.teachers=[{', '.join(config.teachers)}]", "run.lr=1e-30"]  # moves nothing
    first = train("dune", out=tmp_path / "first", preset="debug", data=data, device="cpu", settings=common)
    bigger = [*common, "run.steps=1", "method.image_size=84", "method.encoder=[positions=6]"]
    with caplog.at_level("INFO"):
        second = train(
            "dune", out=tmp_path / "second", preset="debug", data=data, device="cpu", init=first.model, settings=bigger
        )
    before, after = (dict(zoo.load(run.model).named_parameters()) for run in (first, second))
    table = before.pop("encoder.pos_embed")
    assert torch.equal(after.pop("encoder.pos_embed"), refit_table(table, 37))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert "17 positions resampled to 37" in caplog.text
    with pytest.raises(UserError, match="does not fit"):
        train(
            "dune",
            out=tmp_path / "third",
            preset="debug",
            data=data,
            device="cpu",
            init=first.model,
            settings=[*bigger, "method.encoder=[positions=6, dim=16]"],
        )


def test_teachers_are_compiled_on_demand(config, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(call) or call)
    data = [manifest(tmp_path / name, 3, seed) for seed, name in enumerate(("a", "b"))]
    run = preset(DuneRecipe, "debug")[1].run
    views = DuneRecipe.batches(config, run, cache=None, data=data)(0)
    DuneRecipe.build(config).step(views, progress=0.0, generator=torch.Generator())
    assert compiled == []
    recipe = DuneRecipe.build(replace(config, compile=True))
    assert recipe.step(views, progress=0.0, generator=torch.Generator()).loss.isfinite()
    assert len(compiled) == 2


def test_a_batch_is_balanced_over_domains_of_any_size(config, tmp_path):
    data = [manifest(tmp_path / "small", 3, 0), manifest(tmp_path / "large", 9, 1)]
    batches = DuneRecipe.batches(config, RunConfig(batch=5), cache=None, data=data)
    owners = torch.cat([batches(step).signals["domain"].value for step in range(6)])
    assert (owners == 0).sum() == 18
    assert (owners == 1).sum() == 12
    views = batches(3)
    assert views.images.shape == (5, 1, 3, 56, 56)
    assert torch.equal(views.images, batches(3).images)
    seen = [name for step in range(3) for [name] in batches(step).names]
    assert len({name for name in seen if name.startswith("0/")}) == 3  # a pass over the domain of three


def test_one_domain_can_teach_for_all_as_imagenet_19k_alone_does(config, tmp_path):
    batches = DuneRecipe.batches(config, RunConfig(batch=4), cache=None, data=[manifest(tmp_path / "in19k", 5, 0)])
    views, recipe = batches(0), DuneRecipe.build(config)
    assert views.signals["domain"].value.tolist() == [0, 0, 0, 0]
    step = recipe.step(views, progress=0.0, generator=torch.Generator().manual_seed(0))
    assert {*step.logs} == {"loss_one", "loss_two"}
    assert all(float(loss) > 0 for loss in step.logs.values())


def test_fixed_crops_come_again_and_free_ones_do_not(config, tmp_path):
    data = [manifest(tmp_path / "small", 2, 0)]
    config = replace(config, domains=("one",))
    for crops, repeats in ((1, True), (0, False)):
        fixed = DuneRecipe.batches(replace(config, crops=crops), RunConfig(batch=2), cache=None, data=data)
        first = dict(zip([n for [n] in fixed(0).names], fixed(0).images, strict=True))
        later = dict(zip([n for [n] in fixed(1).names], fixed(1).images, strict=True))
        assert all(torch.equal(first[name], later[name]) for name in first) is repeats


def test_unreadable_pictures_make_way(config, tmp_path, caplog):
    path = manifest(tmp_path / "a", 4, 0)
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    batches = DuneRecipe.batches(replace(config, domains=("one",)), RunConfig(batch=4), cache=None, data=[path])
    names = [name for step in range(2) for [name] in batches(step).names]
    assert not any(name.endswith("2.png") for name in names)
    assert [Path(name).name for name in batches.unreadable] == ["2.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": ("one",)}, "name=source"),
        ({"teachers": ()}, "needs teachers"),
        ({"teachers": ("dinov2=dinov2-vitl14",)}, "teacher dinov2: .*dinov2-vitl14"),
    ],
)
def test_a_teacher_that_cannot_be_had_stops_before_the_first_step(config, change, message, monkeypatch, tmp_path):
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("MANYVIEW_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        DuneRecipe.build(replace(config, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": ("three",)}, "no teacher"),
        ({"domains": ("one",), "sharing": "none"}, "two has none"),
        ({"domains": ("one", "two")}, "one manifest"),
    ],
)
def test_domains_that_do_not_fit(config, tmp_path, change, message):
    data = [manifest(tmp_path / "a", 2, 0)]
    with pytest.raises(UserError, match=message):
        DuneRecipe.batches(replace(config, **change), RunConfig(batch=4), cache=None, data=data)
