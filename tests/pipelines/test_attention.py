"""Typical attention maps: the networks' own probabilities, planted groups, files that are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from manyview import zoo
from manyview.errors import UserError
from manyview.images.reading import read_image
from manyview.models.attention_maps import attention_weights
from manyview.pipelines import attention as module
from manyview.pipelines.attention import LAST_BLOCK, PAPER_K, AttentionMaps, Look, medoids
from manyview.pipelines.encoding import Encoding
from manyview.pipelines.features import features
from manyview.pipelines.options import FeatureOptions


@pytest.fixture(scope="module")
def student():
    """Weights large enough that attention is not everywhere the same."""
    model = zoo.build("dune-vits14-336", size="debug", seed=0).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "attn.qkv.weight" in name:
                weights.mul_(60)
    return model


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        small = generator.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((84, 56), Image.Resampling.BICUBIC).save(folder / f"p{index}.png")
    return folder


def look_at(model, k=3):
    return Look(Encoding(model, layers=None, norm=True, size=84, device="cpu", options=FeatureOptions()), k)


def attention_maps(photos, *, model, k=PAPER_K, size=84):
    look = look_at(model, k)
    pictures = [(path.name, read_image(path)) for path in sorted(photos.glob("*.png"))]
    return [AttentionMaps(name, picture, look(picture)) for name, picture in pictures]


def test_maps_are_the_probabilities_of_the_blocks(student, photos):
    look = look_at(student)
    photo = np.array(Image.open(photos / "p0.png"))
    found = look.maps(photo, (4, 6))
    assert list(found) == [LAST_BLOCK, "dinov2 projector", "mast3r projector", "multihmr projector"]
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    encoder, everyone = student.encoder, torch.arange(student.encoder.prefix + 24)
    with torch.inference_mode():
        tokens, rope = encoder.tokens(pixels)
        for block in encoder.blocks[:-1]:
            tokens = block(tokens, None, rope)
        last = encoder.blocks[-1]
        whole = attention_weights(last.attn, last.norm1(tokens), rope, everyone)
        prefix = encoder.prefix
        # A class token and four registers come before the patches.
        expected = whole.mean(1)[0, prefix:, prefix:].numpy()
        raw = encoder.encode(pixels, norm=False)
        block = student.projectors["mast3r"].block
        tokens = block.norm1(torch.cat([raw.cls[:, None], raw.patches], 1))
        theirs = attention_weights(block.attn, tokens, None, everyone[:25]).mean(1)[0, 1:, 1:].numpy()
    np.testing.assert_allclose(found[LAST_BLOCK], expected, atol=1e-6)
    np.testing.assert_allclose(found["mast3r projector"], theirs, atol=1e-6)
    assert np.abs(found[LAST_BLOCK] - found["mast3r projector"]).max() > 0.01
    assert found[LAST_BLOCK].sum(1).min() < 0.99  # the rest goes to the tokens before the patches


def test_the_mean_over_heads_is_the_same_in_parts(student, monkeypatch):
    attention = student.encoder.blocks[0].attn
    tokens, queries = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3, 30)
    whole = attention_weights(attention, tokens, None, queries).mean(1)
    monkeypatch.setattr("manyview.models.attention_maps.AT_ONCE", 5)
    torch.testing.assert_close(attention_weights(attention, tokens, None, queries, mean=True), whole)


def test_planted_groups_are_the_medoids():
    """Left patches look left, right ones right, and three corners at themselves."""
    generator = np.random.default_rng(0)
    maps = generator.uniform(0, 1e-3, (24, 4, 6))
    left = np.arange(24) % 6 < 2
    maps[left, :, 0] += 0.1
    maps[~left, :, 5] += 0.1
    for patch in (0, 18):
        maps[patch] = 0
        maps[patch].reshape(-1)[patch] = 1.0
    found = medoids(maps, 4)
    assert found.shares.tolist() == pytest.approx([16 / 24, 6 / 24, 1 / 24, 1 / 24])
    assert found.patches[0, 1] >= 2
    assert found.patches[1, 1] < 2
    assert {tuple(p) for p in found.patches[2:].tolist()} == {(0, 0), (3, 0)}
    row, column = found.patches[0]
    np.testing.assert_array_equal(found.maps[0], maps[row * 6 + column])
    own = medoids(np.eye(24).reshape(24, 4, 6), 30)  # fewer patches than medoids, and each looks at itself
    assert own.reach == 0
    assert own.maps.shape == (24, 4, 6)


def test_reach_is_the_mean_distance_by_hand():
    maps = np.zeros((3, 1, 3))
    maps[0, 0] = (0.2, 0.2, 0)  # half stays, half goes one patch; what other tokens get does not count
    maps[1, 0] = (0.5, 0, 0.5)
    maps[2, 0] = (1, 0, 0)
    assert medoids(maps, 2).reach == pytest.approx((0.5 + 1 + 2) / 3)


def test_one_photo_as_a_picture(student, photos):
    found = attention_maps(photos, model=student, k=3, size=84)
    assert [one.name for one in found] == ["p0.png", "p1.png", "p2.png"]
    assert [len(block.maps) for block in found[0].blocks.values()] == [3, 3, 3, 3]
    picture = found[0].picture()
    assert picture.shape[1] == 4 * 150 + 5 * 8  # the photo and three medoids, 150 pixels each
    green = (picture == module.MARK).all(-1)
    assert green[:, : 150 + 8].any()  # marked on the photo
    assert all(green[:, 8 + 158 * column : 158 * (column + 1)].any() for column in (1, 2, 3))
    again = attention_maps(photos, model=student, k=3, size=84)
    np.testing.assert_array_equal(picture, again[0].picture())


def test_models_without_transformer_projectors_show_their_last_block(photos):
    plain = attention_maps(photos, model=zoo.build("dinov2-vits14", size="debug", seed=0), k=2, size=84)
    assert list(plain[0].blocks) == [LAST_BLOCK]
    ladder = zoo.build("dune-vits14-336", size="debug", seed=0, projector="ladder")
    assert look_at(ladder).blocks == [LAST_BLOCK]


def test_files_are_written_and_kept(student, photos, tmp_path, monkeypatch):
    out, options = tmp_path / "out", FeatureOptions(attention=2)
    found = features(photos, model=student, size=84, out=out, options=options)
    names = [f"p{i}.png.png" for i in range(3)]
    assert sorted(path.name for path in (out / "attention").glob("*.png")) == names
    known = json.loads((out / "attention" / "medoids.json").read_text())
    assert len(known["p1.png"]["dinov2 projector"]["patches"]) == 2
    assert found.info["attention"]["reach"][LAST_BLOCK] == pytest.approx(
        np.mean([about[LAST_BLOCK]["reach"] for about in known.values()])
    )
    sheet, one = (np.array(Image.open(out / name)) for name in ("attention.png", "attention/p0.png.png"))
    np.testing.assert_array_equal(sheet[: len(one), : one.shape[1]], one)
    done = []
    real = Look.__call__
    monkeypatch.setattr(Look, "__call__", lambda self, photo: done.append(1) or real(self, photo))
    features(photos, model=student, size=84, out=out, options=options)
    assert done == []  # nothing is done twice ...
    (out / "attention" / "p1.png.png").write_bytes(b"cut")
    features(photos, model=student, size=84, out=out, options=options)
    assert len(done) == 1  # ... but what is damaged, and what was asked for otherwise
    assert json.loads((out / "attention" / "medoids.json").read_text()) == known
    features(photos, model=student, size=84, out=out, options=FeatureOptions(attention=3))
    assert len(done) == 4


def test_weights_that_are_no_numbers_are_named(photos):
    broken = zoo.build("dune-vits14-336", size="debug", seed=0)
    with torch.no_grad():
        broken.projectors["mast3r"].block.attn.qkv.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="attention of its mast3r projector is not finite"):
        attention_maps(photos, model=broken, k=2, size=84)


def test_broken_photos_and_wrong_wishes(student, photos, monkeypatch):
    with pytest.raises(UserError, match="ask for at least 1"):
        attention_maps(photos, model=student, k=0, size=84)
    monkeypatch.setattr(module, "MOST_PATCHES", 20)
    with pytest.raises(UserError, match="24 attention maps is too much"):
        attention_maps(photos, model=student, size=84)
    monkeypatch.undo()
    (photos / "p0.png").write_bytes(b"")
    options, out = FeatureOptions(attention=2), photos.parent / "out"
    with pytest.warns(UserWarning, match="left out"):
        found = features(photos, model=student, size=84, out=out, options=options)
    assert found.info["attention"]["images"] == 2
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(UserError, match="no picture could be read"):
        features(photos, model=student, size=84, out=photos.parent / "other", options=options)
