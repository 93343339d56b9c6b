"""Encoders as teachers: on the student's grid, frozen, with a name for what is wrong."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from manyview import zoo
from manyview.errors import UserError
from manyview.teachers.features import FeatureTeacher, loaded
from manyview.types import Views


def saved(folder, **fields) -> str:
    model = zoo.build("dinov2-vits14", size="debug", seed=1, **fields)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    zoo.save_model(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("teachers") / "sixteen", patch_size=16, cls_token=False)


@pytest.fixture(scope="module")
def same(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("teachers") / "same")


def views(side: int = 56) -> Views:
    return Views(torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0)))


def test_a_teacher_of_the_students_patch_sees_the_students_images(same):
    teacher, seen = FeatureTeacher(same), views()
    images = seen.images.flatten(0, 1)
    assert teacher.prepare(images) is images
    signals = teacher(seen)
    expected = zoo.load(same).encode(images)
    assert torch.allclose(signals["patches"].value[:, 0], expected.patches, atol=1e-5)
    assert torch.allclose(signals["cls"].value[:, 0], expected.cls, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert not teacher.resampled


def test_another_patch_means_another_size_on_the_same_grid(sixteen):
    teacher = FeatureTeacher(sixteen, student_patch=14)
    assert teacher.prepare(torch.rand(1, 3, 56, 70)).shape == (1, 3, 64, 80)
    signals = teacher(views())
    assert signals["patches"].value.shape == (2, 1, 16, 8)
    assert "cls" not in signals
    assert not teacher.has_cls


def test_a_teacher_of_one_size_is_resampled_and_says_so(same):
    teacher = FeatureTeacher(same)
    teacher.network.fixed_size = (28, 28)
    assert teacher(views())["patches"].value.shape[2] == 16
    assert teacher.resampled


def test_equal_weights_have_equal_digests(same, sixteen):
    assert FeatureTeacher(same).digest() == FeatureTeacher(same).digest()
    other = FeatureTeacher(same)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    assert len({FeatureTeacher(same).digest(), other.digest(), FeatureTeacher(sixteen).digest()}) == 3


def test_a_network_is_in_memory_once(same):
    first = loaded(same, name="a", student_patch=14)
    assert loaded(same, name="a", student_patch=14) is first
    assert loaded(same, name="b", student_patch=14) is not first


@pytest.mark.parametrize("source", ["dinov2-vitl14", "no-such-model", "no/such/folder"])
def test_a_teacher_that_is_not_here_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_HOME", str(tmp_path))
    monkeypatch.setenv("MANYVIEW_OFFLINE", "1")
    with pytest.raises(UserError, match="teacher semantics: "):
        FeatureTeacher(source, name="semantics")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_is_asked_for_by_name():
    with pytest.raises(UserError, match=r"manyview\[timm\]"):
        FeatureTeacher("timm:vit_small_patch14_dinov2")


def test_maskclip_answers_in_the_space_of_its_texts(tmp_path):
    """Its patches are the model's own features at the size that fits the student's grid, not the tower's tokens."""
    model = zoo.build("maskclip-vitb16", size="debug", seed=1).eval()
    teacher = FeatureTeacher(str(zoo.save_model(model, tmp_path / "clip")), student_patch=14)
    images = torch.rand(1, 2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    said = teacher(Views(images))
    assert teacher.dim == 6 == said["patches"].value.shape[-1] == said["cls"].value.shape[-1]
    with torch.inference_mode():
        expected = model.encode(teacher.prepare(images[0]))
    assert expected.grid == (2, 3)
    torch.testing.assert_close(said["patches"].value[0], expected.patches)
    assert model.trunk.config.dim != teacher.dim
