"""Student beside teachers: shared axes, grids that differ, what is refused before the first photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.errors import UserError
from manyview.images.inputs import Take, pictures
from manyview.pipelines import pca
from manyview.pipelines.encoding import Encoding
from manyview.pipelines.features import features
from manyview.pipelines.options import FeatureOptions
from manyview.pipelines.picture_table import places
from manyview.pipelines.side_by_side import MOST_ROWS, OWN, Comparison, compare
from manyview.types import Features


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two small teachers on disk: patch 14 with 8 channels, patch 16 with 12."""
    folder = tmp_path_factory.mktemp("teachers")
    made = {
        "near": zoo.build("dinov2-vits14", size="debug", seed=1),
        "far": zoo.build("dinov2-vits14", size="debug", seed=2, patch_size=16, dim=12),
    }
    return {name: str(zoo.save_model(model, folder / name, {"licence": "Apache-2.0"})) for name, model in made.items()}


@pytest.fixture
def student():
    return zoo.build(
        "dune-vits14-336", size="debug", seed=0, teachers=("near", "far"), teacher_dims=(8, 12), cls_teachers=("near",)
    )


@pytest.fixture(scope="module")
def photos():
    """Smooth pictures of two shapes, so that patches differ."""
    generator = np.random.default_rng(0)
    sizes = [(84, 56), (84, 56), (56, 84)]
    small = [generator.integers(0, 255, (4, 4, 3), dtype=np.uint8) for _ in sizes]
    return [np.array(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p, size in zip(small, sizes)]


def side_by_side(photos, *, model, teachers=None, size=None):
    source = Encoding(model, layers=None, norm=True, size=size, device="cpu", options=FeatureOptions())
    return compare(pictures(photos, Take()), Comparison(source, teachers or {}))


def say(student, answer):
    """Make every projection what answer(teacher's name, its standardised features) says."""
    heard = {}

    def hears(name, norm):
        forward = norm.forward

        def standardise(values, momentum=0.0):
            heard[name] = forward(values, momentum)
            return heard[name]

        norm.forward = standardise

    for name in ("near", "far"):
        hears(name, student.statistics[name]["patch"])
    student.project = lambda blocks, name: Features(answer(name, heard[name]), None, None, (0, 0))


def test_a_projection_that_equals_its_teacher_has_the_same_picture(student, teachers, photos):
    student.statistics["near"]["patch"].mean.fill_(0.3)
    student.statistics["near"]["patch"].std.copy_(torch.linspace(0.5, 2, 8))
    say(student, lambda name, target: target)
    found = side_by_side(photos, model=student, teachers=teachers, size=84)
    assert found.columns == [OWN, ("near", "teacher"), ("near", "projected"), ("far", "teacher"), ("far", "projected")]
    for maps in found.maps:
        for name in teachers:
            np.testing.assert_array_equal(maps[name, "teacher"], maps[name, "projected"])
        assert np.ptp(maps["near", "teacher"].reshape(-1, 3), 0).min() > 100  # and it shows something
    assert [about["cosine"] for about in found.info["teachers"].values()] == pytest.approx([1, 1], abs=1e-5)


def test_axes_are_the_teachers(student, teachers, photos):
    """The control: turned features look the same on axes of their own, and do not on their teacher's."""
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    kept = []

    def turned(name, target):
        kept.append((target[0] @ turn).numpy())
        return target @ turn

    say(student, turned)
    found = side_by_side(photos, model=student, teachers={"near": teachers["near"]}, size=84)
    teacher = [maps["near", "teacher"].reshape(-1, 3).astype(int) for maps in found.maps]
    shown = [maps["near", "projected"].reshape(-1, 3).astype(int) for maps in found.maps]
    own = pca.fit_basis(kept, len(kept))
    apart = [own.colours(values).astype(int) for values in kept]
    for a, b, c in zip(teacher, shown, apart, strict=True):
        # An axis' sign is that of its largest channel, which turns; so a colour may be upside down.
        alone, shared = (np.minimum(np.abs(a - other), np.abs(a - (255 - other))) for other in (c, b))
        assert alone.max() <= 2
        assert shared.mean() > 20
    assert found.info["teachers"]["near"]["cosine"] < 0.6


def test_colours_are_those_of_the_networks_patches(student, teachers, photos):
    """By hand: teacher of patch 16 at 16/14 of the size, standardised; projections of the raw tokens."""
    student.statistics["far"]["patch"].mean.fill_(0.2)
    found = side_by_side(photos, model=student, teachers={"far": teachers["far"]}, size=84)
    student.eval()
    network = zoo.load(teachers["far"])
    truth, projected = [], []
    with torch.inference_mode():
        for photo in photos:
            pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
            size = [side // 14 * 16 for side in pixels.shape[-2:]]
            large = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", align_corners=True)
            grid = [side // 14 for side in pixels.shape[-2:]]
            truth.append((network.encode(large).patches[0] - 0.2).unflatten(0, grid).numpy())
            raw = student.encode(pixels, norm=False)
            projected.append(student.project(raw, "far").patches[0].unflatten(0, grid).numpy())
    basis = pca.fit_basis(truth, len(truth))
    for maps, teacher, projection in zip(found.maps, truth, projected, strict=True):
        assert np.abs(maps["far", "teacher"].astype(int) - basis.colours(teacher)).max() <= 1
        assert np.abs(maps["far", "projected"].astype(int) - basis.colours(projection)).max() <= 1
    about = found.info["teachers"]["far"]
    assert (about["patch"], about["resized"], about["resampled"], about["channels"]) == (16, True, False, 12)


def test_a_teacher_of_one_size_only_is_resampled_and_that_is_said(student, teachers, photos):
    source = Encoding(student, layers=None, norm=True, size=84, device="cpu", options=FeatureOptions())
    comparison = Comparison(source, {"near": teachers["near"]})
    network = comparison.teachers["near"].network
    try:
        network.fixed_size = (56, 56)
        found = compare(pictures(photos, Take()), comparison)
    finally:
        network.fixed_size = None
    assert found.info["teachers"]["near"]["resampled"] is True
    assert found.maps[2]["near", "teacher"].shape == (6, 4, 3)  # the student's grid, not the teacher's 4 x 4


def test_without_teachers_projections_alone_and_without_projectors_own_tokens(student, photos):
    found = side_by_side(photos, model=student, size=84)
    assert found.columns == [OWN, ("near", "projected"), ("far", "projected")]
    assert all(np.ptp(maps["far", "projected"]) > 100 for maps in found.maps)  # on axes of its own
    plain = side_by_side(photos, model=zoo.build("dinov2-vits14", size="debug", seed=0), size=84)
    assert plain.columns == [OWN]
    assert plain.picture.shape[1] < found.picture.shape[1]


def test_the_same_call_gives_the_same_picture(student, teachers, photos):
    first, second = (side_by_side(photos, model=student, teachers=teachers, size=84) for _ in range(2))
    np.testing.assert_array_equal(first.picture, second.picture)
    assert first.info == second.info


def test_what_cannot_be_compared_is_refused_before_the_first_photo(student, teachers, tmp_path, photos):
    plain = zoo.build("dinov2-vits14", size="debug", seed=0)
    cases = [
        (plain, {"near": teachers["near"]}, "no projectors"),
        (student, {"clip": teachers["near"]}, "no projector 'clip'; it has near, far"),
        (student, {"far": teachers["near"]}, "has 8 channels, the projector of Dune 12"),
        (student, {"near": str(tmp_path / "none")}, "teacher near"),
    ]
    for model, asked, message in cases:
        options = FeatureOptions(compare=asked)
        with pytest.raises(UserError, match=message) as caught:
            features(photos, model=model, size=84, out=tmp_path / "out", options=options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="out=DIR"):
        features(photos, model=student, size=84, options=FeatureOptions(compare={}))


def test_broken_photos_are_left_out_and_named(student, photos, tmp_path):
    for index, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"")
    found = side_by_side(tmp_path, model=student, size=84)
    assert found.names == ["0.png", "2.png"]
    assert found.info["fitted"] == 2
    assert len(found.info["skipped"]) == 1
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no picture could be read"):
        side_by_side(tmp_path, model=student, size=84)


def test_many_photos_are_shown_in_part(student, photos):
    found = side_by_side(photos * 7, model=student, size=28)
    assert found.info["fitted"] == 21
    assert len(found.names) == MOST_ROWS
    assert (found.names[0], found.names[-1]) == ("view-0000.png", "view-0020.png")
    assert places(3, 12) == [0, 1, 2]
    assert len(places(1000, 48)) == 48
