"""Models of timm as teachers: their own answers, on the student's grid, and a reason where one cannot teach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from manyview.errors import UserError
from manyview.recipes.base import preset
from manyview.recipes.dune import DuneRecipe
from manyview.teachers.features import FeatureTeacher
from manyview.types import Views
from timm_kinds import KINDS, Kind, each_kind, stand_in
from timm_kinds import tokens_of as answered

timm = pytest.importorskip("timm", reason="needs the extra `timm`")

SMALL: dict[str, Any] = {"embed_dim": 12, "depth": 2, "num_heads": 2, "img_size": 56, "patch_size": 14}
MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)
# Name -> what timm's VisionTransformer is built with. Their weights lie in files that the test writes.
NETWORKS: dict[str, dict[str, Any]] = {
    "manyview_test_plain": {},
    "manyview_test_registers": {"reg_tokens": 3},
    "manyview_test_sixteen": {"patch_size": 16, "img_size": 64},
}


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory) -> None:
    """Three small networks in timm's own registry, pretrained weights in files beside them."""
    from timm.models import VisionTransformer, build_model_with_cfg, generate_default_cfgs, register_model

    folder = tmp_path_factory.mktemp("timm")
    for seed, (name, options) in enumerate(NETWORKS.items()):
        torch.manual_seed(seed)
        network = VisionTransformer(num_classes=0, **{**SMALL, **options})
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        torch.save(network.state_dict(), folder / f"{name}.pth")

        def make(pretrained: bool = False, *, name: str = name, options: dict = options, **kwargs: Any):
            arguments = {**SMALL, **options, **kwargs}
            return build_model_with_cfg(VisionTransformer, name, pretrained, **arguments)

        make.__name__, make.__module__ = name, __name__
        card = {"file": str(folder / f"{name}.pth"), "mean": MEAN, "std": STD, "num_classes": 0}
        globals().update(default_cfgs=generate_default_cfgs({name: card}))
        register_model(make)


def images(height: int = 56, width: int = 70) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def tokens_of(name: str, pictures: torch.Tensor) -> torch.Tensor:
    """What timm itself answers: all tokens of the normalised pictures."""
    network = timm.create_model(name, pretrained=True, num_classes=0, dynamic_img_size=True).eval()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        pictures = pictures.clone()
        pictures[:, channel] = (pictures[:, channel] - mean) / std
    with torch.no_grad():
        return network.forward_features(pictures)


@pytest.mark.parametrize(("name", "prefix"), [("manyview_test_plain", 1), ("manyview_test_registers", 4)])
def test_it_answers_what_timm_answers(name, prefix):
    teacher, pictures = FeatureTeacher(f"timm:{name}"), images()
    signals = teacher(Views(pictures[:, None]))
    expected = tokens_of(name, pictures)
    assert expected.shape == (2, prefix + 4 * 5, 12)
    torch.testing.assert_close(signals["patches"].value[:, 0], expected[:, prefix:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(signals["cls"].value[:, 0], expected[:, 0], atol=1e-5, rtol=1e-5)
    assert (teacher.dim, teacher.has_cls, teacher.resampled) == (12, True, False)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_another_patch_means_another_size_on_the_students_grid():
    teacher = FeatureTeacher("timm:manyview_test_sixteen", student_patch=14)
    prepared = teacher.prepare(images())
    assert prepared.shape == (2, 3, 64, 80)
    signals = teacher(Views(images()[:, None]))
    expected = tokens_of("manyview_test_sixteen", prepared)
    torch.testing.assert_close(signals["patches"].value[:, 0], expected[:, 1:], atol=1e-5, rtol=1e-5)


def test_its_digest_tells_networks_apart():
    plain, again = (FeatureTeacher("timm:manyview_test_plain") for _ in range(2))
    assert plain.digest() == again.digest()
    assert plain.digest() != FeatureTeacher("timm:manyview_test_registers").digest()


@each_kind
def test_networks_of_every_kind_teach_on_the_students_grid(monkeypatch, kind: Kind):
    """Their own answers to the pictures at the size that puts their cells on the student's, or resampled, and said."""
    stand_in(monkeypatch, kind)
    teacher, pictures = FeatureTeacher(f"timm:{kind.name}", name="semantics", student_patch=14), images(56, 84)
    shown = teacher.prepare(pictures)
    assert tuple(shown.shape[-2:]) == (kind.size if kind.fixed else (4 * kind.patch, 6 * kind.patch))
    grid = (shown.shape[-2] // kind.patch, shown.shape[-1] // kind.patch)
    expected, token = answered(teacher.network.network, shown, grid[0] * grid[1])
    if kind.fixed:
        maps = expected.transpose(1, 2).unflatten(2, grid)
        expected = F.interpolate(maps, size=(4, 6), mode="bilinear").flatten(2).transpose(1, 2)
    signals = teacher(Views(pictures[:, None]))
    assert signals["patches"].value.shape == (2, 1, 24, teacher.dim)
    torch.testing.assert_close(signals["patches"].value[:, 0], expected, atol=1e-4, rtol=1e-4)
    assert (teacher.resampled, teacher.has_cls, "cls" in signals) == (kind.fixed, kind.cls, kind.cls)
    if kind.cls:
        torch.testing.assert_close(signals["cls"].value[:, 0], token, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_a_student_learns_from_a_transformer_and_a_pyramid_at_once(monkeypatch):
    """DUNE's step: class tokens from the one that has them, patches of both on the student's grid."""
    transformer, pyramid = (next(kind for kind in KINDS if kind.name.startswith(name)) for name in ("vit_", "convnext"))
    stand_in(monkeypatch, transformer, pyramid)
    sources = (f"one=timm:{transformer.name}", f"two=timm:{pyramid.name}")
    recipe = DuneRecipe.build(replace(preset(DuneRecipe, "debug")[1].method, teachers=sources))
    assert recipe.student.config.cls_teachers == ("one",)
    assert recipe.student.config.teacher_dims == (192, 320)
    views, generator = Views(images(56, 56)[:, None]), torch.Generator().manual_seed(0)
    rate, losses = torch.optim.AdamW([p for p in recipe.student.parameters() if p.requires_grad], lr=3e-3), []
    for _ in range(12):
        result = recipe.step(views, progress=0.5, generator=generator)
        rate.zero_grad()
        result.loss.backward()
        rate.step()
        losses.append({name: float(loss) for name, loss in result.logs.items()})
    assert all(losses[-1][name] < 0.9 * losses[0][name] for name in ("loss_one", "loss_two"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("timm:no_such_network", "no_such_network"),
        ("timm:convnext_atto", "convnext_atto"),  # nor these
        ("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224"),  # its weights cannot be fetched here
    ],
)
def test_one_that_cannot_teach_is_named(source, reason):
    with pytest.raises(UserError, match=f"teacher semantics: .*{reason}") as raised:
        FeatureTeacher(source, name="semantics")
    assert "\n" not in str(raised.value)


def test_a_failure_without_words_is_told_by_its_kind(monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(UserError, match="AssertionError"):
        FeatureTeacher("timm:manyview_test_plain")
