"""DUNE's step beside the paper's equations worked out one image, teacher and token at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from manyview import zoo
from manyview.recipes.base import preset
from manyview.recipes.dune import DuneRecipe
from manyview.types import Features, Signal, Views

IMAGES, PATCHES, WIDTHS = 3, 4, {"one": 12, "two": 8}
OWNERS = [0, 1, 1]


@pytest.fixture
def recipe(tmp_path) -> DuneRecipe:
    """Two teachers, the first with a class token; weights and the final norm far from their first values."""
    for seed, (name, dim) in enumerate(WIDTHS.items()):
        teacher = zoo.build("dinov2-vits14", size="debug", seed=seed, dim=dim, heads=2, cls_token=name == "one")
        zoo.save_model(teacher, tmp_path / name)
    sources = tuple(f"{name}={tmp_path / name}" for name in WIDTHS)
    recipe = DuneRecipe.build(replace(preset(DuneRecipe, "debug")[1].method, teachers=sources))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in recipe.student.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return recipe


@pytest.fixture
def views() -> Views:
    """Three images of 28x28 with the answers of both teachers, and whose domain each of them is."""
    generator = torch.Generator().manual_seed(5)
    signals = {
        f"{name}/patches": Signal(3 + 2 * torch.randn(IMAGES, 1, PATCHES, dim, generator=generator))
        for name, dim in WIDTHS.items()
    }
    signals["one/cls"] = Signal(torch.randn(IMAGES, 1, WIDTHS["one"], generator=generator) - 1)
    signals["domain"] = Signal(torch.tensor(OWNERS))
    return Views(torch.rand(IMAGES, 1, 3, 28, 28, generator=generator), signals=signals)


def standardised(tokens: Tensor) -> list[list[Tensor]]:
    """(N, T, D) with the batch's own mean and unbiased spread of every channel taken out: [image][token] (D,)."""
    rows = tokens.reshape(-1, tokens.shape[-1]).double()
    mean = sum(rows) / len(rows)
    spread = (sum((row - mean) ** 2 for row in rows) / (len(rows) - 1)).sqrt()
    return [[(token.double() - mean) / spread for token in image] for image in tokens]


def token_cost(student: Tensor, teacher: Tensor, form: str) -> float:
    """Cosine distance and smooth L1 of one token: halved and over channels as released, or as printed."""
    cosine = 1 - float(student @ teacher) / math.sqrt(float(student @ student) * float(teacher @ teacher))
    difference = (student - teacher).abs().tolist()
    if form == "released":
        smooth = sum(0.5 * d * d if d < 1 else d - 0.5 for d in difference) / len(difference)
        return 0.5 * cosine + 0.5 * smooth
    length = sum(difference)
    return cosine + (0.5 * sum(d * d for d in difference) if length < 1 else length - 0.5)


def costs(recipe: DuneRecipe, views: Views, form: str) -> list[list[float]]:
    """[teacher][image]: the mean over token types of the mean over tokens."""
    with torch.no_grad():
        raw = recipe.student.encode(views.images[:, 0], norm=False)
        answers: dict[str, Features] = {name: recipe.student.project(raw, name) for name in WIDTHS}
    table = []
    for name, answer in answers.items():
        kinds = [(answer.patches, views.signals[f"{name}/patches"].value[:, 0])]
        if name == "one":
            kinds.append((answer.cls[:, None], views.signals["one/cls"].value))
        row = []
        for image in range(IMAGES):
            means = []
            for student, teacher in kinds:
                targets = standardised(teacher)[image]
                pairs = zip(student[image].double(), targets, strict=True)
                means.append(sum(token_cost(s, t, form) for s, t in pairs) / len(targets))
            row.append(sum(means) / len(means))
        table.append(row)
    return table


def counted(table: Sequence[Sequence[float]], sharing: str, drop: float) -> float:
    """The mean over the (teacher, image) pairs that take part; drop is 0 or 1 here, so nothing is random."""
    chosen = []
    for image in range(IMAGES):
        hardest = max(range(len(table)), key=lambda teacher: table[teacher][image])
        for teacher, row in enumerate(table):
            owner = OWNERS[image]
            takes_part = {
                "full": teacher == hardest or drop == 0,
                "generic": teacher == owner or owner == 1,
                "none": teacher == owner,
            }[sharing]
            chosen += [row[image]] if takes_part else []
    return sum(chosen) / len(chosen)


def step(recipe: DuneRecipe, views: Views, *, progress: float = 0.4, seed: int = 1, **settings: Any) -> Any:
    recipe.config = replace(recipe.config, **{"generic": "two", **settings})
    return recipe.step(views, progress=progress, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["released", "printed"])
@pytest.mark.parametrize(("sharing", "drop"), [("full", 0.0), ("full", 1.0), ("generic", 0.5), ("none", 0.5)])
def test_the_loss_is_the_papers(recipe, views, form, sharing, drop):
    table = costs(recipe, views, form)
    result = step(recipe, views, loss=form, sharing=sharing, drop=drop)
    assert float(result.loss.detach()) == pytest.approx(counted(table, sharing, drop), rel=1e-4)
    for name, row in zip(WIDTHS, table, strict=True):
        assert float(result.logs[f"loss_{name}"]) == pytest.approx(sum(row) / IMAGES, rel=1e-4)


def test_half_dropping_lies_between_and_takes_its_chances_from_the_generator(recipe, views):
    table = costs(recipe, views, "released")
    losses = [float(step(recipe, views, drop=0.5, seed=seed).loss.detach()) for seed in range(20)]
    assert losses[3] == float(step(recipe, views, drop=0.5, seed=3).loss.detach())
    assert len({round(loss, 6) for loss in losses}) > 2
    assert counted(table, "full", 0.0) - 1e-5 <= min(losses)
    assert max(losses) <= counted(table, "full", 1.0) + 1e-5


@pytest.mark.parametrize(
    ("progress", "momentum"),  # a cosine from 1 to 0.1: half way down at a half, and not a line
    [(0.0, 1.0), (0.25, 0.1 + 0.9 * 0.8535534), (0.5, 0.55), (0.75, 0.1 + 0.9 * 0.1464466), (1.0, 0.1)],
)
def test_statistics_move_by_a_momentum_that_falls_as_a_cosine(recipe, views, progress, momentum):
    statistics = recipe.student.statistics
    mean_before, spread_before = (statistics["two"]["patch"].mean.clone(), statistics["two"]["patch"].std.clone())
    step(recipe, views, progress=progress, least_momentum=0.1)
    for kind, key in (("patch", "two/patches"), ("cls", "one/cls")):
        rows = views.signals[key].value.flatten(0, -2).double()
        mean = rows.mean(0)
        spread = ((rows - mean).square().sum(0) / (len(rows) - 1)).sqrt()
        after = statistics[key.split("/")[0]][kind]
        assert torch.allclose(after.mean, (momentum * mean).float(), atol=1e-5)  # they start at 0 and 1
        assert torch.allclose(after.std, (1 - momentum + momentum * spread).float(), atol=1e-5)
    assert not mean_before.any()
    assert (spread_before == 1).all()


def test_shuffled_answers_are_another_images(recipe, views):
    """The control: every image is told what another one's answers are."""
    turned = replace(views, signals=dict(views.signals))
    for key in ("one/patches", "one/cls", "two/patches"):
        turned.signals[key] = Signal(views.signals[key].value[[2, 0, 1]])
    expected = counted(costs(recipe, turned, "released"), "full", 0.0)
    straight = counted(costs(recipe, views, "released"), "full", 0.0)
    assert float(step(recipe, views, drop=0.0, shuffle=True).loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert abs(expected - straight) > 1e-3
