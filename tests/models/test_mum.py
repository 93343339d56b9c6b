"""MuM: its symmetries, its single-view limit against a plain masked autoencoder, masks and options."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from manyview.errors import UserError
from manyview.models.family import with_overrides
from manyview.models.mum.network import Mum, MumConfig, debug, mum, random_mask
from manyview.models.vit import EncoderConfig

SIZES = {"dim": 16, "heads": 2, "decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 4}
CONFIG = with_overrides(debug(mum("b")), SIZES)
GRID = (3, 4)
PATCHES = GRID[0] * GRID[1]


def build(**changes: object) -> Mum:
    """A small network with weights large enough that every path matters."""
    torch.manual_seed(0)
    model = Mum(with_overrides(CONFIG, changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def images(scenes: int = 2, views: int = 3) -> torch.Tensor:
    size = [side * CONFIG.patch_size for side in GRID]
    return torch.rand(scenes, views, 3, *size, generator=torch.Generator().manual_seed(1))


def mask(scenes: int = 2, views: int = 3, ratio: float = 0.5) -> torch.Tensor:
    return random_mask((scenes, views, PATCHES), ratio, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("across", ["decoder", "encoder", "nowhere"])
def test_permuting_the_views_permutes_the_answer(across):
    model, order = build(across=across), torch.tensor([2, 0, 1])
    there = model(images(), mask()).reconstruction
    permuted = model(images()[:, order], mask()[:, order]).reconstruction
    torch.testing.assert_close(permuted, there[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("across", "matters"), [("decoder", True), ("encoder", True), ("nowhere", False)])
def test_other_views_matter_exactly_when_tokens_meet(across, matters):
    model, changed = build(across=across), images()
    changed[:, 1:] = 1 - changed[:, 1:]
    before, after = (model(pictures, mask()).reconstruction[:, 0] for pictures in (images(), changed))
    assert torch.allclose(before, after, atol=1e-5) != matters


def test_scenes_never_mix():
    model, changed = build(), images()
    changed[1] = 1 - changed[1]
    before, after = (model(pictures, mask()).reconstruction for pictures in (images(), changed))
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def plain_mae(model: Mum, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """A masked autoencoder of one image (3, H, W), token by token, from the same weights: (L, p*p*3)."""
    encoder, config = model.encoder, model.encoder.config

    def angles(width: int) -> torch.Tensor:
        centres = [
            [(y + 0.5) / GRID[0] * 2 - 1, (x + 0.5) / GRID[1] * 2 - 1] for y in range(GRID[0]) for x in range(GRID[1])
        ]
        periods = 100.0 ** (torch.arange(width // 4) / (width // 4))
        return torch.stack([torch.cat([2 * torch.pi * c / periods for c in centre]).tile(2) for centre in centres])

    def attend(block, tokens, table):
        dim, heads = tokens.shape[1], block.attn.heads
        out = []
        q, k, v = F.linear(block.norm1(tokens), block.attn.qkv.weight, block.attn.qkv.bias).split(dim, 1)
        for head in range(heads):
            cut = slice(head * dim // heads, (head + 1) * dim // heads)
            turned = []
            for part in (q[:, cut], k[:, cut]):
                first, second = part[1:].chunk(2, 1)
                patches = part[1:] * table.cos() + torch.cat([-second, first], 1) * table.sin()
                turned.append(torch.cat([part[:1], patches]))  # the class token is not turned
            weights = (turned[0] @ turned[1].T / (dim // heads) ** 0.5).softmax(1)
            out.append(weights @ v[:, cut])
        tokens = tokens + F.linear(torch.cat(out, 1), block.attn.proj.weight, block.attn.proj.bias)
        inner = F.gelu(F.linear(block.norm2(tokens), block.mlp.fc1.weight, block.mlp.fc1.bias))
        return tokens + F.linear(inner, block.mlp.fc2.weight, block.mlp.fc2.bias)

    normalised = (image - encoder.mean[:, None, None]) / encoder.std[:, None, None]
    patches = F.conv2d(
        normalised[None], encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias, config.patch_size
    )
    seen = [i for i in range(PATCHES) if not hidden[i]]
    tokens = torch.cat([encoder.cls_token[0], patches[0].flatten(1).T[seen]])
    for block in encoder.blocks:
        tokens = attend(block, tokens, angles(config.dim // config.heads)[seen])
    small = model.embed(encoder.norm(tokens))
    rows = [small[1 + seen.index(i)] if i in seen else model.mask_token[0, 0] for i in range(PATCHES)]
    tokens = torch.stack([small[0], *rows])
    for pair in zip(model.decoder.frame, model.decoder.everywhere, strict=True):
        for block in pair:
            tokens = attend(block, tokens, angles(model.config.decoder_dim // model.config.decoder_heads))
    return model.head(model.norm(tokens[1:]))


@torch.no_grad()
def test_one_view_is_a_plain_masked_autoencoder():
    model = build(rotate_cls=True)
    there = model(images(2, 1), mask(2, 1)).reconstruction
    for scene in range(2):
        by_hand = plain_mae(model, images(2, 1)[scene, 0], mask(2, 1)[scene, 0])
        torch.testing.assert_close(there[scene, 0], by_hand, rtol=1e-4, atol=1e-4)
    published = build(rotate_cls=False)(images(2, 1), mask(2, 1)).reconstruction
    assert not torch.allclose(published, there, atol=1e-3)  # the published class token is a different network


def test_without_meeting_many_views_are_many_single_ones():
    model = build(across="nowhere")
    alone = model(images().flatten(0, 1)[:, None], mask().flatten(0, 1)[:, None]).reconstruction
    torch.testing.assert_close(model(images(), mask()).reconstruction.flatten(0, 1), alone[:, 0], rtol=1e-4, atol=1e-5)
    single = build()  # one view in the network that lets views meet: the same function
    torch.testing.assert_close(
        single(images(2, 1), mask(2, 1)).reconstruction, model(images(2, 1), mask(2, 1)).reconstruction
    )


def test_hidden_pixels_are_not_seen_and_visible_ones_are():
    model, hidden = build(), torch.zeros(1, 1, PATCHES, dtype=torch.bool)
    hidden[0, 0, 5] = True
    patch = CONFIG.patch_size
    there = model(images(1, 1), hidden).reconstruction
    for row, column, equal in ((1, 1, True), (1, 2, False)):  # patch 5 lies at row 1, column 1
        changed = images(1, 1)
        changed[..., row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 0.0
        assert torch.allclose(model(changed, hidden).reconstruction, there, atol=1e-6) == equal


def test_masks_follow_the_seed_hide_the_share_and_differ_by_view():
    first, again = (random_mask((2, 3, 49), 0.75, torch.Generator().manual_seed(5)) for _ in range(2))
    other = random_mask((2, 3, 49), 0.75, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.sum(-1) == 49 - 12).all()  # the number that stays is rounded down, as was published
    assert len({tuple(view.tolist()) for view in first.flatten(0, 1)}) == 6
    kept = random_mask((1, 4000, 10), 0.7, torch.Generator().manual_seed(0)).float().mean((0, 1))
    assert (kept - 0.7).abs().max() < 0.03  # no place is favoured
    with pytest.raises(UserError, match="mask_ratio"):
        random_mask((1, 1, 4), 1.0)


def test_a_reference_hides_nothing_and_the_others_are_encoded_as_before():
    model, hidden = (build(), random_mask((2, 3, PATCHES), 0.75, torch.Generator().manual_seed(0), reference=True))
    assert not hidden[:, 0].any()
    assert hidden[:, 1:].any(-1).all()
    tokens = model._with_mask_tokens(images(), hidden)
    alone = model._with_mask_tokens(images()[:, 1:], hidden[:, 1:])
    torch.testing.assert_close(tokens[:, 1:], alone, rtol=1e-4, atol=1e-5)
    whole = model.embed(model.encode(images()[:, 0]).patches)
    torch.testing.assert_close(tokens[:, 0, 1:], whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="across"):
        build(across="encoder")(images(), hidden)


def test_the_forward_draws_its_own_mask_from_a_generator():
    model = build()
    first, again = (model(images(), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.reconstruction, again.reconstruction)
    assert first.reconstruction.shape == (2, 3, PATCHES, 3 * CONFIG.patch_size**2)
    assert model(images(), mask_ratio=0.5).mask.float().mean() == 0.5


@pytest.mark.parametrize("across", ["decoder", "encoder", "nowhere"])
@pytest.mark.parametrize("case", ["drawn", "given", "reference"])
def test_the_forward_never_asks_the_device_for_a_number(across, case):
    """On the meta device tensors have no values: whatever would make a GPU wait (item, nonzero, bool) fails there."""
    if (across, case) == ("encoder", "reference"):
        pytest.skip("views that hide different numbers cannot meet in the encoder")
    hidden = None if case == "drawn" else random_mask((2, 3, PATCHES), 0.5, reference=case == "reference")
    answer = build(across=across).to("meta")(images().to("meta"), hidden)
    assert answer.mask.device.type == answer.reconstruction.device.type == "meta"
    assert answer.reconstruction.shape == (2, 3, PATCHES, 3 * CONFIG.patch_size**2)


def test_a_mask_that_only_the_device_knows_is_noticed():
    """The check above can say no: counting the patches of such a mask is a wait."""
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        build().to("meta")(images().to("meta"), mask().to("meta"))


@pytest.mark.parametrize("across", ["decoder", "encoder"])
def test_checkpointing_changes_nothing(across):
    gradients = []
    for checkpointing in (False, True):
        model = build(across=across).train()
        model.checkpointing = checkpointing
        model(images(), mask()).reconstruction.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_absolute_positions_tell_patches_apart_and_without_any_nothing_does():
    hidden = torch.ones(1, 1, PATCHES, dtype=torch.bool)
    hidden[..., 0] = False
    blind = build(rope="none")(images(1, 1), hidden).reconstruction[0, 0, 1:]
    assert torch.allclose(blind, blind[:1].expand_as(blind), atol=1e-5)  # all hidden patches look alike
    torch.manual_seed(0)
    absolute = Mum(with_overrides(CONFIG, {"rope": "none", "positions": 4})).eval()
    told = absolute(images(1, 1), hidden).reconstruction[0, 0, 1:]
    assert (told[:, None] - told[None]).abs().amax(-1).fill_diagonal_(1).min() > 1e-4
    assert float(absolute.encoder.pos_embed[0, 1:].detach().abs().max()) > 0.9  # they start as sines


def test_the_class_token_of_published_weights_looks_at_everything_alike():
    model = build()
    rope = model.rope(GRID).prefixed(1, zero=True)
    assert (rope.cos[0] == 0).all()
    assert (rope.sin[0] == 0).all()
    assert not torch.allclose(
        build(rotate_cls=True)(images(), mask()).reconstruction, model(images(), mask()).reconstruction, atol=1e-4
    )


def test_layouts_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        counts = {size: sum(p.numel() for p in Mum(mum(size)).parameters()) for size in ("l", "b", "tiny")}
        encoder = sum(p.numel() for p in Mum(mum("l")).encoder.parameters())
    assert counts["l"] == 389_534_464
    assert counts["b"] == 111_655_680
    assert counts["tiny"] < 5e6
    assert encoder == 303_099_904


def test_what_does_not_fit_is_a_users_mistake():
    with pytest.raises(UserError, match="multiples of 8"):
        build()(torch.rand(1, 1, 3, 20, 32))
    with pytest.raises(UserError, match="the mask is"):
        build()(images(), mask()[:, :1])
    with pytest.raises(UserError, match="decoder_depth"):
        Mum(replace(CONFIG, decoder_depth=3))
    with pytest.raises(UserError, match="mask_token"):
        Mum(MumConfig(encoder=EncoderConfig(mask_token=True)))
