"""MaskCLIP: what a patch feature is, CLIP's image and text vectors beside it, and the tokeniser."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from manyview import UserError, zoo
from manyview.models.maskclip import text as clip_text
from manyview.models.maskclip.network import CLIP_MEAN, CLIP_STD
from manyview.models.maskclip.text import END, START, tokenise

installed = all(importlib.util.find_spec(name) for name in ("open_clip", "ftfy", "regex"))
needs_tokeniser = pytest.mark.skipif(not installed, reason="open_clip, ftfy and regex are not all installed")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A small one with weights large enough that every part shows in the outputs."""
    model = zoo.build("maskclip-vitb16", size="debug", seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 48, 80, generator=torch.Generator().manual_seed(2))


def test_a_patch_looks_at_itself_only_in_the_last_block(model, images):
    """The same by the long road: the block's whole attention under a mask that leaves every token itself."""
    features = model.encode(images)
    assert features.patches.shape == (3, 15, 6)
    assert features.grid == (3, 5)
    block = model.encoder.blocks[-1]
    tokens = model.encoder.encode(images, norm=False, layers=[0])[0].patches
    heads = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    itself = torch.eye(15, dtype=torch.bool)
    mixed = F.scaled_dot_product_attention(*heads, attn_mask=itself).transpose(1, 2).flatten(2)
    expected = model.encoder.norm(block.attn.proj(mixed)) @ model.projection
    torch.testing.assert_close(features.patches, expected, atol=1e-5, rtol=1e-5)


def test_the_class_vector_is_clips_own(model, images):
    expected = model.encoder.encode(images).cls @ model.projection
    torch.testing.assert_close(model.encode(images).cls, expected, atol=1e-5, rtol=1e-5)


def test_layers_come_in_the_order_asked_the_last_in_the_shared_space(model, images):
    last, first = model.encode(images, layers=[1, 0])
    torch.testing.assert_close(last.patches, model.encode(images).patches)
    torch.testing.assert_close(first.patches, model.encoder.encode(images, layers=[0])[0].patches)
    assert (last.patches.shape[-1], first.patches.shape[-1]) == (6, 8)
    raw = model.encode(images, norm=False, layers=[0])[0].patches
    torch.testing.assert_close(model.encoder.norm(raw), first.patches)
    assert not torch.allclose(model.encode(images, norm=False).patches, last.patches, atol=1e-2)


def test_hidden_patches_are_left_out_and_do_not_matter(model, images):
    mask = torch.zeros(3, 15, dtype=torch.bool)
    mask[:, [2, 7]] = True
    features = model.encode(images, mask=mask)
    assert features.patches.shape == (3, 13, 6)
    changed = images.clone()
    changed[:, :, :16, 32:48] = 0.0  # patch 2
    torch.testing.assert_close(model.encode(changed, mask=mask).patches, features.patches)
    assert not torch.allclose(model.encode(changed).patches[:, 0], model.encode(images).patches[:, 0])


def test_a_batch_is_its_images_in_any_orientation(model, images):
    for views in (images, images.transpose(2, 3)):
        one_by_one = torch.cat([model.encode(view[None]).patches for view in views])
        torch.testing.assert_close(model.encode(views).patches, one_by_one, atol=1e-5, rtol=1e-5)


def test_images_are_normalised_with_imagenets_numbers_or_clips_own(model, images):
    other = zoo.build("maskclip-vitb16", size="debug", image_mean=CLIP_MEAN, image_std=CLIP_STD).eval()
    other.load_state_dict(model.state_dict())
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    own_mean, own_std = model.encoder.mean[:, None, None], model.encoder.std[:, None, None]
    same = (images - mean) / std * own_std + own_mean
    assert model.config.encoder.image_mean == (0.485, 0.456, 0.406)
    torch.testing.assert_close(other.encode(images).patches, model.encode(same).patches, atol=1e-5, rtol=1e-5)


def test_half_precision_stays_close(model, images):
    full = model.encode(images).patches
    half = zoo.build("maskclip-vitb16", size="debug")
    half.load_state_dict(model.state_dict())
    rounded = half.eval().bfloat16().encode(images.bfloat16()).patches.float()
    assert 0 < (rounded - full).norm() / full.norm() < 0.05


def test_gradients_reach_images_and_the_last_values(model, images):
    images = images.clone().requires_grad_()
    model.encode(images).patches.square().mean().backward()
    assert images.grad.abs().max() > 0
    dim, grad = 8, model.encoder.blocks[-1].attn.qkv.weight.grad
    assert grad[2 * dim :].abs().max() > 0
    assert torch.equal(grad[: 2 * dim], torch.zeros(2 * dim, dim))  # queries and keys take no part
    model.zero_grad()


def test_images_must_be_whole_patches_and_the_tower_deep_enough(model):
    with pytest.raises(UserError, match="multiples of 16"):
        model.encode(torch.rand(1, 3, 30, 48))
    with pytest.raises(UserError, match="at least 2"):
        zoo.build("maskclip-vitb16", size="debug", depth=1)


def test_a_text_is_read_at_its_end_and_no_further(model):
    ids = torch.tensor([[30, 4, 9, 39, 0, 0, 0], [30, 11, 39, 0, 0, 0, 0]])
    answer = model.encode_text(ids)
    assert answer.shape == (2, 6)
    tower = model.text
    tokens = tower.embedding(ids) + tower.positions[:7]
    for block in tower.blocks:
        tokens = block(tokens)
    expected = tower.norm(tokens)[torch.arange(2), torch.tensor([3, 2])] @ tower.projection
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    after = ids.clone()
    after[1, 3:] = 5
    torch.testing.assert_close(model.encode_text(after), answer, atol=1e-5, rtol=1e-5)
    before = ids.clone()
    before[1, 1] = 12
    assert not torch.allclose(model.encode_text(before)[1], answer[1], atol=1e-3)


def test_ids_may_be_lists_of_different_lengths(model):
    listed = model.encode_text([[30, 4, 9, 39], torch.tensor([30, 11, 39])])
    padded = model.encode_text(torch.tensor([[30, 4, 9, 39], [30, 11, 39, 0]]))
    torch.testing.assert_close(listed, padded)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 4), "whole numbers"),
        (torch.zeros(4, dtype=torch.long), "whole numbers"),
        (torch.zeros(0, 4, dtype=torch.long), "whole numbers"),
        (torch.zeros(1, 13, dtype=torch.long), "13 tokens, but this tower reads 12"),
        (torch.tensor([[30, 40]]), "30 to 40.*40 entries"),
        (torch.tensor([[-1, 4]]), "-1 to 4"),
        ([], "at least one"),
        ([3], "neither a text nor token ids"),
        ([[1.5, 2.0]], "neither a text nor token ids"),
        ([[1] * 13], "has 13 tokens"),
    ],
)
def test_ids_that_the_tower_cannot_read_are_a_users_mistake(model, ids, message):
    with pytest.raises(UserError, match=message):
        model.encode_text(ids)


@needs_tokeniser
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A   Dog", [320, 1929]),
        ("a diagram", [320, 22697]),
        ("fire hydrant", [1769, 8031, 773]),
        ("", []),
    ],
)
def test_the_tokeniser_gives_clips_ids(text, words):
    ids = tokenise(text)
    assert ids.shape == (1, 77)
    assert ids[0].tolist() == [START, *words, END] + [0] * (75 - len(words))


@needs_tokeniser
def test_texts_of_any_script_and_up_to_the_context_are_read(model):
    assert tokenise(["word " * 75, "日本の椅子 🪑"]).shape == (2, 77)
    with pytest.raises(UserError, match="has 78 tokens, but CLIP reads 77; shorten it"):
        tokenise(["short", "word " * 76])
    with pytest.raises(UserError, match="vocabulary"):
        model.encode_text("a chair")  # the small network has no such words


def test_without_the_tokeniser_a_text_says_what_to_install(model, monkeypatch):
    clip_text._tokeniser.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'manyview\[text\]'") as raised:
        model.encode_text(["a chair"])
    assert "\n" not in str(raised.value)
    assert model.encode_text(torch.tensor([[30, 39]])).shape == (1, 6)  # ids need no package
