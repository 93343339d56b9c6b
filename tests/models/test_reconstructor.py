"""The reconstructor: layout, views, chunks, attention scale, initial state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manyview.errors import UserError
from manyview.layers.init import init_weights
from manyview.models.fusion import EXTENSION, MOST_VIEWS
from manyview.models.heads import FeatureMap, confidence_from_raw, points_from_raw
from manyview.models.reconstructor.network import Reconstructor, debug, distill3r, tiny

KEYS = {"pointmap", "confidence", "pointmap_local", "confidence_local"}


@pytest.fixture
def model() -> Reconstructor:
    torch.manual_seed(0)
    model = Reconstructor(debug(tiny())).eval()
    for name, parameter in model.named_parameters():  # away from the near-constant fresh state
        if parameter.ndim > 1 and "table" not in name:
            torch.nn.init.normal_(parameter, std=0.12)
    return model


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_published_layout_has_its_71_969_288_parameters():
    with torch.device("meta"):
        model = Reconstructor(distill3r())
    assert count(model) == 71_969_288
    parts = {name: count(child) for name, child in model.named_children() if count(child)}
    assert parts == {"encoder": 21_925_632, "fusion": 10_795_392, "head": 19_624_132, "head_local": 19_624_132}


def test_tiny_fits_its_budget_as_float16():
    with torch.device("meta"):
        assert count(Reconstructor(tiny())) <= 5_900_000


@pytest.mark.parametrize(
    "config", [tiny(), debug(tiny()), debug(distill3r())], ids=["tiny", "debug", "debug-published"]
)
def test_every_parameter_and_buffer_is_initialised(config):
    with torch.device("meta"):
        model = Reconstructor(config)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        torch.nn.init.constant_(tensor.data, float("nan"))
    init_weights(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert bool(tensor.isfinite().all()), name


def test_a_fresh_model_says_one_unit_straight_ahead():
    torch.manual_seed(0)
    with torch.no_grad():
        pred = Reconstructor(tiny())(torch.rand(1, 2, 3, 42, 56))
    for suffix in ("", "_local"):
        depth = pred[f"pointmap{suffix}"][..., 2]
        assert bool((depth > 0.1).all())
        assert 0.5 < float(depth.median()) < 2
        assert 1.2 < float(pred[f"confidence{suffix}"].median()) < 4


@pytest.mark.parametrize("size", [(14, 14), (28, 42), (70, 28), (14, 98)])
@pytest.mark.parametrize("views", [1, 3])
def test_any_number_of_views_and_any_aspect(model, size, views):
    pred = model(torch.rand(2, views, 3, *size))
    assert set(pred) == KEYS
    for name, value in pred.items():
        assert value.shape == (2, views, *size, *((3,) if "pointmap" in name else ()))
        assert bool(value.isfinite().all())
        assert value.dtype == torch.float32
    assert bool((pred["confidence"] > 1).all())


def test_chunks_do_not_change_the_result(model):
    images = torch.rand(2, 3, 3, 28, 42)
    whole = model(images, encoder_chunk=100, head_chunk=100)
    for encoder_chunk, head_chunk in ((1, 1), (4, 5)):
        parts = model(images, encoder_chunk=encoder_chunk, head_chunk=head_chunk)
        for name in KEYS:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_chunks(model):
    images = torch.rand(1, 3, 3, 28, 28)
    grads = []
    for chunk in (None, 1):
        model.zero_grad()
        pred = model(images, encoder_chunk=chunk, head_chunk=chunk)
        sum(value.mean() for value in pred.values()).backward()
        grads.append(model.encoder.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_a_chunk_below_one_is_refused(model):
    with pytest.raises(ValueError, match="head_chunk"):
        model(torch.rand(1, 1, 3, 14, 14), head_chunk=0)


def test_views_of_different_sizes_come_as_lists(model):
    images = [torch.rand(2, 3, 28, 42), torch.rand(2, 3, 42, 28), torch.rand(2, 3, 14, 14)]
    pred = model(images)
    assert [tuple(p.shape) for p in pred["pointmap"]] == [(2, 28, 42, 3), (2, 42, 28, 3), (2, 14, 14, 3)]
    same = [torch.rand(1, 3, 28, 28) for _ in range(3)]
    stacked = model(torch.stack(same, 1))
    for name, values in model(same).items():
        torch.testing.assert_close(torch.stack(values, 1), stacked[name])


def test_scenes_of_a_batch_do_not_see_each_other(model):
    images = torch.rand(2, 2, 3, 28, 28)
    torch.testing.assert_close(model(images)["pointmap"][1:], model(images[1:])["pointmap"])


def test_views_see_each_other_and_are_told_apart_by_their_rows(model):
    images = torch.rand(1, 2, 3, 28, 28)
    base = model(images)["pointmap"]
    assert not torch.allclose(base[:, :1], model(images[:, :1])["pointmap"])
    torch.testing.assert_close(model(images, [0, 1])["pointmap"], base)
    torch.testing.assert_close(model(images, torch.tensor([[0, 1]]))["pointmap"], base)
    swapped = model(images.flip(1), [1, 0])["pointmap"].flip(1)
    torch.testing.assert_close(swapped, base, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(images, [0, 999])["pointmap"], base)


@pytest.mark.parametrize("ids", [[0], [0, 1000], [-1, 0], [[0, 1], [0, 1]]])
def test_view_ids_that_do_not_fit_are_refused(model, ids):
    with pytest.raises(UserError, match="view_ids"):
        model(torch.rand(1, 2, 3, 14, 14), ids)


def test_a_thousand_views_work_and_one_more_does_not(model):
    with torch.no_grad():
        pred = model(torch.rand(1, MOST_VIEWS, 3, 14, 14))
    assert pred["confidence"].shape == (1, MOST_VIEWS, 14, 14)
    with pytest.raises(UserError, match="1001 views"):
        model(torch.rand(1, MOST_VIEWS + 1, 3, 14, 14))


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(model):
    with pytest.raises(UserError, match="multiples of 14"):
        model(torch.rand(1, 1, 3, 28, 30))


def test_auto_attention_is_extended_in_eval_for_the_published_model_only(model):
    published = Reconstructor(replace(model.config, extended_in_eval=True))
    published.load_state_dict(model.state_dict())
    images = torch.rand(1, 2, 3, 28, 28)
    plain = model.eval()(images, attention_scale="plain")["pointmap"]
    extended = model(images, attention_scale="extended")["pointmap"]
    assert not torch.allclose(plain, extended)
    torch.testing.assert_close(model(images)["pointmap"], plain)
    torch.testing.assert_close(published.eval()(images)["pointmap"], extended)
    torch.testing.assert_close(published.train()(images)["pointmap"], plain)
    assert pytest.approx(1.28153, abs=1e-5) == EXTENSION
    with pytest.raises(ValueError, match="attention_scale"):
        model(images, attention_scale="wide")


def test_points_keep_their_direction_and_are_finite_at_zero():
    raw = torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]], requires_grad=True)
    points = points_from_raw(raw)
    torch.testing.assert_close(points[1].detach(), torch.tensor([0.0, 0.6, 0.8]) * torch.tensor(5.0).expm1())
    points.sum().backward()
    assert bool(raw.grad.isfinite().all())
    assert bool((confidence_from_raw(torch.tensor([-50.0, 0.0])) >= 1).all())


def test_predictions_stay_float32_under_autocast(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pred = model(torch.rand(1, 1, 3, 14, 14))
    assert {value.dtype for value in pred.values()} == {torch.float32}


def test_feature_heads_say_a_finer_map_and_leave_the_points_alone():
    """Beside the same weights the points are the same to the bit; a list of sizes gives lists."""
    torch.manual_seed(0)
    plain = Reconstructor(debug(tiny())).eval()
    config = replace(plain.config, feature_heads=(("minilm", 5), ("clip", 3)), feature_finer=2)
    model = Reconstructor(config).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    images = torch.rand(2, 3, 3, 28, 42)
    with torch.no_grad():
        said, expected = model(images), plain(images)
        features, meant = said.pop("features"), model(images, points=False)
        mixed = model([images[:, 0], images[:, 1, :, :, :28]])["features"]["minilm"]
    assert set(said) == KEYS == set(expected)
    assert all(torch.equal(said[name], expected[name]) for name in KEYS)
    assert features["minilm"].shape == (2, 3, 4, 6, 5)
    assert features["clip"].shape == (2, 3, 4, 6, 3)
    assert set(meant) == {"features"}
    assert torch.equal(meant["features"]["clip"], features["clip"])
    assert [tuple(each.shape) for each in mixed] == [(2, 4, 6, 5), (2, 4, 4, 5)]


def test_a_feature_pixel_lies_where_its_patch_lies():
    """A change of one patch's tokens changes the features over that patch alone."""
    head = FeatureMap([6, 6], channels=4, hidden=8, inner=3, finer=2)
    tokens = [torch.rand(1, 6, 6) for _ in range(2)]
    before = head(tokens, (2, 3))
    tokens[1][0, 4] = torch.randn(6)  # row 1, column 1
    changed = (head(tokens, (2, 3)) != before).any(-1)[0]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 2:4] = True
    assert torch.equal(changed, expected)
