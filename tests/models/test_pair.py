"""Pair reconstructors: DUSt3R, MASt3R, SAB3R and MASt3R on DUNE, at debug size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyview.errors import UserError
from manyview.models.dunemast3r import dunemast3r
from manyview.models.family import with_overrides
from manyview.models.heads import Head, PatchMap
from manyview.models.pair import network as pair
from manyview.models.pair.network import PairConfig, PairReconstructor
from manyview.models.vit import IMAGENET_MEAN

CONFIGS = {
    "linear": pair.dust3r("linear"),
    "dpt": pair.dust3r(),
    "mast3r": pair.mast3r(),
    "sab3r": pair.sab3r(("clip", 512), ("dino", 384)),
    "dune": dunemast3r("s"),
}


def build(name: str, **changes: object) -> PairReconstructor:
    """At debug size, with weights large enough that everything shows in the output."""
    torch.manual_seed(0)
    model = PairReconstructor(with_overrides(pair.debug(CONFIGS[name]), changes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def sizes(model: PairReconstructor, *grids: tuple[int, int]) -> list[torch.Tensor]:
    patch = model.config.patch_size
    return [torch.rand(2, 3, h * patch, w * patch) for h, w in grids]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("grid", [(2, 3), (3, 1)])
def test_maps_have_the_size_of_the_pictures_whatever_their_orientation(name, grid):
    model = build(name)
    images = torch.stack(sizes(model, grid, grid), 1)
    maps = model(images)
    shape = (2, 2, *images.shape[-2:])
    assert maps["pointmap"].shape == (*shape, 3)
    assert maps["confidence"].shape == shape
    assert bool((maps["confidence"] > 1).all())
    assert ("descriptors" in maps) == (name in ("mast3r", "sab3r", "dune"))
    if "descriptors" in maps:
        assert maps["descriptors"].shape == (*shape, 2)
        torch.testing.assert_close(maps["descriptors"].norm(dim=-1), torch.ones(shape))
        assert maps["descriptor_confidence"].shape == shape
    assert list(maps.get("features", {})) == (["clip", "dino"] if name == "sab3r" else [])
    for feature in maps.get("features", {}).values():
        assert feature.shape == (*shape, 3)


def test_descriptor_confidence_starts_at_zero_in_mast3r_and_at_one_in_sab3r():
    least = {}
    for name in ("mast3r", "sab3r"):
        model = build(name)
        maps = model(torch.stack(sizes(model, (2, 2), (2, 2)), 1))
        least[name] = maps["descriptor_confidence"].min().item()
    assert 0 < least["mast3r"] < 1 < least["sab3r"]


@pytest.mark.parametrize("name", ["linear", "sab3r", "dune"])
def test_views_of_different_sizes_come_as_lists_and_equal_tensors_where_sizes_agree(name):
    model = build(name)
    maps = model(sizes(model, (2, 3), (3, 1)))
    patch = model.config.patch_size
    assert [m.shape for m in maps["pointmap"]] == [(2, 2 * patch, 3 * patch, 3), (2, 3 * patch, patch, 3)]
    alike = sizes(model, (2, 2), (2, 2))
    listed, stacked = model(alike), model(torch.stack(alike, 1))
    for view in range(2):
        torch.testing.assert_close(listed["pointmap"][view], stacked["pointmap"][:, view])
        if name == "sab3r":
            torch.testing.assert_close(
                listed["features"]["dino"][view], stacked["features"]["dino"][:, view], rtol=1e-4, atol=1e-4
            )


def test_a_batch_of_pairs_equals_pairs_one_by_one():
    model = build("mast3r")
    views = sizes(model, (2, 3), (2, 3))
    together = model(views)
    for row in range(2):
        alone = model([view[row : row + 1] for view in views])
        for key, maps in alone.items():
            for view in range(2):
                torch.testing.assert_close(maps[view][0], together[key][view][row], rtol=1e-4, atol=1e-4)


def test_both_orders_from_one_encoding_equal_two_runs():
    model = build("mast3r")
    first, second = sizes(model, (2, 3), (3, 2))
    a, b = model.encode_views([first, second])
    for ours, pictures in ((model.decode(a, b), [first, second]), (model.decode(b, a), [second, first])):
        for key, maps in model(pictures).items():
            for view in range(2):
                torch.testing.assert_close(ours[key][view], maps[view])


def test_with_equal_branches_swapping_the_views_swaps_the_maps():
    model = build("mast3r")
    images = torch.stack(sizes(model, (2, 2), (2, 2)), 1)
    assert not torch.allclose(model(images)["pointmap"].flip(1), model(images.flip(1))["pointmap"])
    model.decoder.branches[1].load_state_dict(model.decoder.branches[0].state_dict())
    model.heads[1].load_state_dict(model.heads[0].state_dict())
    there, back = model(images), model(images.flip(1))
    for key in there:
        torch.testing.assert_close(there[key].flip(1), back[key])


def test_branches_step_at_once_each_looking_at_where_the_other_was():
    model = build("linear", decoder_depth=2, taps=(0, 1, 1, 2))
    images = torch.stack(sizes(model, (2, 2), (2, 2)), 1)
    before = model(images)["pointmap"][:, 0]
    nn.init.normal_(model.decoder.branches[1][1].mlp.fc2.weight)
    torch.testing.assert_close(model(images)["pointmap"][:, 0], before)  # nobody looks at the last step
    nn.init.normal_(model.decoder.branches[1][0].mlp.fc2.weight)
    assert not torch.allclose(model(images)["pointmap"][:, 0], before)


def test_heads_read_the_encoder_first_and_the_normed_decoder_last():
    model = build("mast3r")
    a, b = model.encode_views(torch.stack(sizes(model, (2, 2), (2, 2)), 1))
    (levels, _) = model._fuse(a, b)
    assert torch.equal(levels[0], a.patches)
    kept = []
    model.decoder.branches[0][-1].register_forward_hook(lambda _m, _i, out: kept.append(out))
    model._fuse(a, b)
    assert torch.equal(levels[3], model.decoder.norm(kept[0]))
    assert not torch.equal(levels[3], kept[0])


def test_on_dune_the_decoder_reads_tokens_without_the_encoders_norm_through_its_own():
    model = build("dune")
    images = sizes(model, (2, 2))[0]
    raw = model.encoder.encode(images, norm=False).patches
    torch.testing.assert_close(model.encode_views([images, images])[0].patches, model.norm(raw))
    assert model.norm.eps == 1e-5
    assert model.config.encoder.image_mean == IMAGENET_MEAN
    nn.init.zeros_(model.encoder.norm.weight)
    torch.testing.assert_close(model.encode_views([images, images])[0].patches, model.norm(raw))


def test_only_the_heads_asked_for_run():
    model = build("sab3r")
    images = torch.stack(sizes(model, (1, 2), (1, 2)), 1)
    assert sorted(model(images, heads=["pointmap"])) == ["confidence", "pointmap"]
    some = model(images, heads=["dino", "descriptors"])
    assert sorted(some) == ["descriptor_confidence", "descriptors", "features"]
    assert list(some["features"]) == ["dino"]
    with pytest.raises(UserError, match="did you mean 'descriptors'"):
        model(images, heads=["descriptor"])


def test_half_precision_stops_before_the_heads():
    model = build("sab3r")
    images = torch.stack(sizes(model, (2, 2), (2, 2)), 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(images)
    assert {m.dtype for m in (*maps["features"].values(), maps["pointmap"], maps["descriptors"])} == {torch.float32}
    assert model.to(torch.bfloat16)(images.bfloat16())["pointmap"].dtype == torch.float32


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(1, 3, 3, 32, 32),
        torch.rand(1, 1, 3, 32, 32),
        [torch.rand(1, 3, 32, 32)],
        [torch.rand(1, 3, 32, 32), torch.rand(2, 3, 32, 32)],
        torch.rand(2, 3, 32, 32),
    ],
)
def test_anything_but_two_views_is_a_users_mistake(images):
    with pytest.raises(UserError, match="two views at a time"):
        build("dpt")(images)


def test_other_mistakes():
    model = build("dpt")
    with pytest.raises(UserError, match="multiples of 16"):
        model(torch.rand(1, 2, 3, 30, 32))
    with pytest.raises(UserError, match="view_ids"):
        model(torch.rand(1, 2, 3, 32, 32), [0, 1])


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_all_that_the_forward_pass_uses(name):
    model = build(name).train()
    maps = model(torch.stack(sizes(model, (2, 2), (2, 2)), 1))
    features = maps.pop("features", {})
    sum(value.mean() for value in (*maps.values(), *features.values())).backward()
    idle = {"decoder.mask_token"}
    if name == "dune":
        idle |= {"encoder.mask_token", "encoder.norm.weight", "encoder.norm.bias"}
    for key, parameter in model.named_parameters():
        used = key not in idle and ".merge.3.skip." not in key
        assert (parameter.grad is not None) == used, key


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # The first and third as the official key lists count them, mask token and spare units included.
        (CONFIGS["dpt"], 571_171_208),
        (CONFIGS["linear"], 532_342_784),
        (CONFIGS["mast3r"], 688_638_856),
        # MASt3R and two heads of 20.25 and 20.27 million parameters per side.
        (CONFIGS["sab3r"], 769_674_632),
        (CONFIGS["dune"], 345_178_576),
        (dunemast3r("b"), 433_254_352),
    ],
)
def test_parameters_at_full_size(config: PairConfig, parameters: int):
    with torch.device("meta"):
        model = PairReconstructor(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_fresh_network_says_one_unit_ahead():
    torch.manual_seed(0)
    for name in ("linear", "dpt"):
        model = PairReconstructor(pair.debug(CONFIGS[name]))
        maps = model(torch.rand(1, 2, 3, 32, 48))
        assert (maps["pointmap"] - torch.tensor([0.0, 0.0, 1.0])).abs().mean().item() < 0.5
        assert (maps["confidence"] - 2).abs().mean().item() < 0.5


def test_pixels_of_a_patch_are_row_major_and_channels_outermost():
    body = PatchMap([3, 5], patch=2, channels=3, hidden=4, first_too=True)
    first, last = torch.randn(1, 6, 3), torch.randn(1, 6, 5)
    out = body([first, last], (2, 3))
    raw = body.map(torch.cat([first, last], -1)).reshape(2, 3, 3, 2, 2)
    for row in range(4):
        for col in range(6):
            expected = raw[row // 2, col // 2, :, row % 2, col % 2]
            torch.testing.assert_close(out[0, :, row, col], expected)


def test_dense_heads_with_and_without_confidence():
    tokens = [torch.randn(2, 6, 4)]
    unit = Head(PatchMap([4], patch=2, channels=4), activation="unit", floor=0.0)
    values, confidence = unit(tokens, (2, 3))
    raw = unit.inner(tokens, (2, 3)).permute(0, 2, 3, 1)
    torch.testing.assert_close(confidence, raw[..., 3].exp())
    torch.testing.assert_close(values, raw[..., :3] / raw[..., :3].norm(dim=-1, keepdim=True))
    grown, none = Head(unit.inner, activation="exp")(tokens, (2, 3))
    assert none is None
    torch.testing.assert_close(grown.norm(dim=-1), torch.expm1(raw.norm(dim=-1)))


def test_a_linear_pointmap_head_reads_the_last_tokens_only():
    head = Head(PatchMap([4, 4, 4, 6], patch=2, channels=4), "linear", activation="exp", floor=1.0)
    levels = [torch.randn(1, 2, dim) for dim in (4, 4, 4, 6)]
    points, confidence = head(levels, (1, 2))
    assert points.shape == (1, 2, 4, 3)
    assert torch.equal(head([torch.zeros(1, 2, 4)] * 3 + levels[3:], (1, 2))[1], confidence)
