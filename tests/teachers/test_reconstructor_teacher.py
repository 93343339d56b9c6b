"""Networks as teachers of a cache: their maps or tokens, with the weights and terms that their cards say."""

from __future__ import annotations

import pytest
import torch

from manyview import zoo
from manyview.cache.build import build
from manyview.cache.store import Cache
from manyview.cache.verify import verify
from manyview.errors import UserError
from manyview.geometry.alignment import apply_similarity, similarity
from manyview.teachers.features import FeatureTeacher
from manyview.teachers.named import teacher_named
from manyview.teachers.reconstructors import BY_QUANTILE, ReconstructorTeacher
from manyview.teachers.sensor import Sensor
from manyview.types import Views, WeightRule

SIZE = (42, 59)  # 59 is no multiple of the patch, 14


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Directories of debug-size models by kind."""
    root = tmp_path_factory.mktemp("models")
    names = {"many": "distill3r", "pairs": "mast3r-vitl16", "encoder": "dinov2-vits14", "up": "featup-jbu-dinov2"}
    for kind, name in names.items():
        zoo.save_model(zoo.build(name, size="debug", seed=1), root / kind)
    return {kind: str(root / kind) for kind in names}


def views(count: int = 3, size: tuple[int, int] = SIZE) -> Views:
    return Views(torch.rand(1, count, 3, *size, generator=torch.Generator().manual_seed(0)))


def test_a_reconstructor_says_its_maps_where_it_saw_the_views(folders):
    teacher, seen = ReconstructorTeacher(folders["many"]), views()
    assert teacher.prepare(seen.images).shape == (1, 3, 3, 42, 56)
    answers = teacher(seen)
    assert set(answers) == {"pointmap", "confidence", "pointmap_local", "confidence_local"}
    expected = zoo.load(folders["many"])(seen.images[..., 1:57])
    local = answers["pointmap_local"].value[..., 1:57, :]
    assert torch.allclose(local, expected["pointmap_local"], atol=1e-5)
    own = ReconstructorTeacher(folders["many"], aligned=False)(seen)
    assert torch.allclose(own["pointmap"].value[..., 1:57, :], expected["pointmap"], atol=1e-5)
    valid = answers["pointmap"].valid
    assert valid[..., 1:57].all()
    assert not valid[..., [0, 57, 58]].any()
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_global_map_is_the_local_one_moved_by_the_surest_pixels(folders):
    teacher, seen = ReconstructorTeacher(folders["many"]), views()
    answers, expected = teacher(seen), zoo.load(folders["many"])(seen.images[..., 1:57])
    assert teacher.digest() != ReconstructorTeacher(folders["many"], aligned=False).digest()
    for view in range(3):
        local, given = expected["pointmap_local"][0, view].flatten(0, 1), expected["pointmap"][0, view].flatten(0, 1)
        sure = expected["confidence"][0, view].flatten()
        kept = sure >= sure.quantile(0.85)
        fit = similarity(local[kept], given[kept])
        moved = apply_similarity(fit, local)
        assert torch.allclose(answers["pointmap"].value[0, view, :, 1:57].flatten(0, 1), moved, atol=1e-4)
        everywhere = apply_similarity(similarity(local, given), local)
        assert not torch.allclose(moved, everywhere, atol=1e-4)


def test_weights_are_those_of_the_card_or_go_by_quantile(folders):
    assert ReconstructorTeacher("manyview-tiny").weight_rule == WeightRule(10.0, 0.1, 1.0)
    teacher = ReconstructorTeacher(folders["many"])  # the card of this directory says nothing of weights
    assert teacher.weight_rule == BY_QUANTILE
    answers = teacher(views())
    weight, valid = answers["pointmap"].weight, answers["pointmap"].valid
    assert 0.05 < float((weight[valid] == 1).float().mean()) < 0.15
    confidence = answers["confidence"].value
    unit = float(torch.quantile(confidence[valid], 0.9))
    assert torch.allclose(weight[valid], (confidence[valid] / unit).clamp(0.1, 1), rtol=0.01)


def test_a_bundled_models_terms_are_named():
    assert "Apache-2.0" in ReconstructorTeacher("manyview-tiny").licence


def test_a_model_of_pairs_asks_for_pairs(folders):
    teacher = ReconstructorTeacher(folders["pairs"], name="pairs")
    with pytest.raises(UserError, match="teacher pairs sees pairs of views, not 3; build with --views 2"):
        teacher(views(size=(32, 48)))
    assert teacher(views(2, (32, 48)))["pointmap"].value.shape == (1, 2, 32, 48, 3)
    with pytest.raises(UserError, match="8x48 has none"):
        teacher(views(2, (8, 48)))


def test_a_cache_of_three_kinds_of_teachers(folders, tmp_path):
    from manyview.data.synthetic import write_scenes

    write_scenes(tmp_path / "data", scenes=1, views=4, size=(42, 56), seed=0)
    size = (42, 56)
    teachers = [Sensor(), teacher_named(folders["many"], size), teacher_named(f"dino={folders['encoder']}", size)]
    assert [teacher.name for teacher in teachers] == ["sensor", "many", "dino"]
    report = build(
        tmp_path / "data" / "manifest.parquet", teachers, tmp_path / "cache", views=2, size=size, keep="int8"
    )
    assert report.problems == []
    assert verify(tmp_path / "cache") == []
    cache = Cache.open(tmp_path / "cache")
    kinds = {teacher["name"]: teacher["kinds"] for teacher in cache.info()["teachers"]}
    maps = ["confidences", "pointmaps"]
    assert kinds == {"sensor": maps, "many": maps, "dino": ["tokens"]}
    dino, many = cache.sample(1, teacher="dino").signals, cache.sample(1, teacher="many").signals
    assert dino["patches"].value.shape == (1, 2, 12, teachers[2].dim)
    weight = many["pointmap"].weight
    assert float(weight.max()) == 1
    assert 0.05 < float((weight == 1).float().mean()) < 0.2  # a tenth is surest, also after float16
    again = [Sensor(), teacher_named(folders["many"], size)]
    manifest = tmp_path / "data" / "manifest.parquet"
    report = build(manifest, again, tmp_path / "cache", views=2, size=size, keep="int8")
    assert (report.written, report.skipped) == (0, 2)


def test_other_weights_under_the_same_name_are_refused(folders, tmp_path):
    from manyview.data.synthetic import write_scenes

    write_scenes(tmp_path / "data", scenes=1, views=2, size=(28, 28), seed=0)
    options = {"views": 2, "size": (28, 28)}
    manifest = tmp_path / "data" / "manifest.parquet"
    build(manifest, ReconstructorTeacher(folders["many"], name="a"), tmp_path / "cache", **options)
    other = ReconstructorTeacher(folders["many"], name="a")
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    with pytest.raises(UserError, match=r"teachers\.a\.digest"):
        build(manifest, other, tmp_path / "cache", **options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast3r", "no teacher 'fast3r'; did you mean 'fast3r-vitl16'"),
        ("no/such/folder", "no teacher 'no/such/folder'"),
        ("featup-jbu-maskclip", "can upsample features but cannot encode images"),
        ("{up}", "can upsample features but cannot encode images"),
        ("timm:no_such_model", "timm"),
    ],
)
def test_what_is_no_teacher_is_told_in_one_line(folders, text, words):
    with pytest.raises(UserError, match=words) as error:
        teacher_named(text.format(**folders), SIZE)
    assert "\n" not in str(error.value)


def test_tokens_need_a_size_of_whole_patches(folders):
    assert isinstance(teacher_named(folders["encoder"], (42, 56)), FeatureTeacher)
    with pytest.raises(UserError, match="multiples of 14, not 42x59"):
        teacher_named(folders["encoder"], SIZE)
    assert teacher_named(folders["encoder"], (32, 48)).student_patch == 16
