"""Features of many pictures: right numbers, right files, going on after interruptions, nothing lost to bad input."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from manyview import zoo
from manyview.errors import UserError
from manyview.images.inputs import Take
from manyview.pipelines import features as module
from manyview.pipelines.features import FeatureOptions, FeatureSet, features
from manyview.types import Features


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small DINOv2 on disk."""
    folder = tmp_path_factory.mktemp("model")
    return zoo.save_model(zoo.build("dinov2-vits14", size="debug", seed=0), folder, {"licence": "Apache-2.0"})


@pytest.fixture
def photos(tmp_path):
    """Five pictures of two shapes, smooth so that every patch differs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(5):
        small = generator.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        size = (90, 60) if index == 3 else (60, 90)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"p{index}.png")
    return folder


def snapshot(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_features_are_what_the_encoder_says_of_the_picture_the_affine_describes(photos, encoder):
    found = features(photos, model=encoder, size=56, layers=[0, -1], options=FeatureOptions(batch=3))
    assert found.names == [f"p{i}.png" for i in range(5)]  # the order of the folder, not of the batches
    one = found[3]
    assert one.grid == (2, 4)
    assert one.size == (28, 56)
    assert one.source == (60, 90)
    # By hand: scale by 56/90, crop centred to 28 rows.
    scale = 56 / 90
    expected = [[scale, 0, 0], [0, scale, -(60 * scale - 28) / 2], [0, 0, 1]]
    np.testing.assert_allclose(one.affine, expected, atol=1e-9)
    top = (60 * scale - 28) / 2 / scale
    picture = Image.open(photos / "p3.png").resize((56, 28), Image.Resampling.BICUBIC, box=(0, top, 90, top + 45))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    network = zoo.load(encoder)
    with torch.inference_mode():
        first, last = network.encode(pixels, layers=[0, 1])
    np.testing.assert_allclose(one.patches, last.patches[0].unflatten(0, (2, 4)).numpy(), atol=1e-5)
    np.testing.assert_allclose(one.cls, last.cls[0].numpy(), atol=1e-5)
    assert sorted(one.layers) == [0, 1]
    np.testing.assert_allclose(one.layers[0].patches, first.patches[0].unflatten(0, (2, 4)).numpy(), atol=1e-5)
    np.testing.assert_array_equal(one.layers[1].patches, one.patches)


def test_raw_tokens_become_the_normed_ones_through_the_norm(photos, encoder):
    raw = features(photos, model=encoder, size=56, norm=False)[0]
    normed = features(photos, model=encoder, size=56)[0]
    with torch.inference_mode():
        through = zoo.load(encoder).norm(torch.from_numpy(raw.patches))
    np.testing.assert_allclose(through.numpy(), normed.patches, atol=1e-5)
    assert np.abs(raw.patches - normed.patches).max() > 0.01


def test_a_folder_holds_the_same_numbers_and_its_index(photos, encoder, tmp_path):
    out = tmp_path / "out"
    written = features(photos, model=encoder, size=56, layers="all", out=out)
    held = features(photos, model=encoder, size=56, layers="all")
    for a, b in zip(written, held, strict=True):
        assert a.about() == b.about()
        for name, values in b.arrays().items():
            np.testing.assert_array_equal(a.arrays()[name], values)
    index = json.loads((out / "features.json").read_text())
    assert index["complete"] is True
    assert index["licence"] == "Apache-2.0"
    assert index["settings"]["layers"] == [0, 1]
    about = index["images"][3]
    assert (about["name"], about["grid"], about["size"]) == ("p3.png", [2, 4], [28, 56])
    plain = load_file(out / about["file"])  # readable without this package
    assert sorted(plain) == ["cls", "layers.0.cls", "layers.0.patches", "layers.1.cls", "layers.1.patches", "patches"]
    assert FeatureSet.load(out).names == written.names


def test_an_interrupted_run_goes_on_without_doing_anything_twice(photos, encoder, tmp_path, monkeypatch):
    out, real, done = tmp_path / "out", module.write_one, []

    def stops(folder, one, made):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(one.name)
        real(folder, one, made)

    options = FeatureOptions(batch=1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_one", stops)
        with pytest.raises(KeyboardInterrupt):
            features(photos, model=encoder, size=56, out=out, options=options)
    partly = FeatureSet.load(out)
    assert partly.info["complete"] is False
    assert sorted(partly.names) == sorted(done)
    before = snapshot(out)
    found = features(photos, model=encoder, size=56, out=out, options=options)
    assert len(found) == 5
    after = snapshot(out)
    assert {name: after[name] for name in before} == before
    whole = features(photos, model=encoder, size=56)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a.patches, b.patches, atol=1e-5)


def test_a_changed_picture_and_a_damaged_file_are_done_anew(photos, encoder, tmp_path):
    out = tmp_path / "out"
    features(photos, model=encoder, size=56, out=out)
    before = snapshot(out)
    Image.new("RGB", (90, 60), "red").save(photos / "p1.png")
    damaged = out / "p2.png.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    found = features(photos, model=encoder, size=56, out=out)
    changed = {name for name, time in snapshot(out).items() if time != before[name]}
    assert changed == {"p1.png.safetensors", "p2.png.safetensors"}
    assert np.ptp(found[1].patches.reshape(-1, 8), axis=0).max() < np.ptp(found[2].patches.reshape(-1, 8), 0).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 84}, "size = 56, not 84"),
        ({"norm": False}, "norm = True, not False"),
        ({"layers": [0]}, r"layers = \[\], not \[0\]"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(photos, encoder, tmp_path, change, message):
    out = tmp_path / "out"
    features(photos, model=encoder, size=56, out=out)
    before = (snapshot(out), (out / "features.json").read_bytes())
    with pytest.raises(UserError, match=message):
        features(photos, model=encoder, out=out, **{"size": 56, **change})
    assert (snapshot(out), (out / "features.json").read_bytes()) == before


def test_other_weights_of_the_same_shape_are_refused_and_a_moved_model_is_not(photos, encoder, tmp_path):
    out = tmp_path / "out"
    features(photos, model=encoder, size=56, out=out)
    network = zoo.load(encoder)
    assert len(features(photos, model=network, size=56, out=out)) == 5
    other = zoo.build("dinov2-vits14", size="debug", seed=1)
    with pytest.raises(UserError, match="another weights"):
        features(photos, model=other, size=56, out=out)


def test_a_folder_with_other_content_is_left_alone(photos, encoder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds no set of features"):
        features(photos, model=encoder, size=56, out=tmp_path / "out")


def test_bad_pictures_are_left_out_with_their_reasons(photos, encoder, tmp_path):
    (photos / "p1.png").write_bytes(b"")
    (photos / "p2.png").write_bytes((photos / "p2.png").read_bytes()[:200])
    Image.new("RGB", (2000, 10)).save(photos / "thin.png")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="left out"):
        found = features(photos, model=encoder, size=56, out=out)
    assert found.names == ["p0.png", "p3.png", "p4.png"]
    assert len(found.skipped) == 3
    assert "0 bytes" in found.skipped[0]
    assert found.skipped[2].startswith("thin.png")
    assert json.loads((out / "features.json").read_text())["skipped"] == found.skipped
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no picture could be read"), pytest.warns(UserWarning, match="left out"):
        features(photos, model=encoder, size=56)


def test_arrays_and_half_precision(encoder):
    arrays = [np.full((60, 90, 3), 80 * i, np.uint8) for i in range(2)]
    found = features([*arrays, torch.rand(3, 60, 60)], model=encoder, size=56)
    assert found.names == ["view-0000.png", "view-0001.png", "view-0002.png"]
    half = features(arrays, model=encoder, size=56, options=FeatureOptions(half=True))
    assert half[1].patches.dtype == np.float16
    np.testing.assert_allclose(half[1].patches, found[1].patches, atol=2e-3)
    with pytest.raises(UserError, match="image 0 has shape"):
        features([np.zeros((3, 3))[None, None]], model=encoder, size=56)


def test_files_of_one_name_from_two_folders_stay_apart(photos, encoder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (60, 60), "blue").save(other / "P0.png")
    found = features([photos / "p0.png", other / "P0.png"], model=encoder, size=56, out=tmp_path / "out")
    assert found.names == ["0000-p0.png", "0001-P0.png"]
    assert found[0].grid != found[1].grid


def test_frames_of_a_video(encoder, tmp_path):
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for index in range(20):
        writer.write(np.full((64, 96, 3), 10 * index, np.uint8))
    writer.release()
    options = FeatureOptions(take=Take(fps=5, max_frames=4), batch=3)
    found = features(path, model=encoder, size=56, out=tmp_path / "out", options=options)
    assert [one.frame for one in found] == [0, 2, 4, 6]
    assert found.names[1] == "walk-000002.jpg"
    before = snapshot(tmp_path / "out")
    assert len(features(path, model=encoder, size=56, out=tmp_path / "out", options=options)) == 4
    assert snapshot(tmp_path / "out") == before


def test_projected_features_are_the_projectors_of_the_raw_tokens(photos):
    network = zoo.build("dune-vits14-336", size="debug", seed=0).eval()
    found = features(photos, model=network, size=56, options=FeatureOptions(project="dinov2"))
    raw = features(photos, model=network, size=56, norm=False)[0]
    assert raw.registers is not None
    assert found[0].patches.shape == (4, 2, 16)
    tokens = Features(torch.from_numpy(raw.patches).flatten(0, 1)[None], torch.from_numpy(raw.cls)[None], None, (4, 2))
    with torch.inference_mode():
        there = network.project(tokens, "dinov2").patches[0].unflatten(0, (4, 2))
    np.testing.assert_allclose(found[0].patches, there.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("dinov2-vits14", {"options": FeatureOptions(project="dinov2")}, "cannot project features"),
        ("dune-vits14-336", {"options": FeatureOptions(project="clip")}, "no projector 'clip'"),
        ("dune-vits14-336", {"options": FeatureOptions(project="dinov2"), "layers": [0]}, "not both"),
        ("dinov2-vits14", {"layers": [2]}, "no block 2; its 2 blocks are 0 to 1"),
        ("dinov2-vits14", {"layers": "some"}, "or 'all'"),
        ("dinov2-vits14", {"size": 13}, "less than a patch"),
        ("dinov2-vits14", {"options": FeatureOptions(batch=0)}, "at least 1"),
        ("dinov2-vits14", {"options": FeatureOptions(pca=True)}, "out=DIR"),
    ],
)
def test_wrong_wishes_say_what_is_possible(photos, model, arguments, message):
    network = zoo.build(model, size="debug", seed=0)
    with pytest.raises(UserError, match=message):
        features(photos, model=network, **arguments)
    assert network.training  # and the caller's network is as it was


def test_a_model_without_an_encoder_is_refused(photos):
    with pytest.raises(UserError, match="cannot encode images"):
        features(photos, model=torch.nn.Conv2d(3, 3, 1))


def test_memory_that_is_short_halves_the_batch(photos, encoder):
    network = zoo.load(encoder)
    real, sizes = network.encode, []

    def encode(images, norm=True, layers=None):
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("full")
        return real(images, norm=norm, layers=layers)

    network.encode = encode
    found = features(photos, model=network, size=56, options=FeatureOptions(batch=4))
    assert len(found) == 5
    assert max(sizes) == 4
    np.testing.assert_allclose(found[0].patches, features(photos, model=encoder, size=56)[0].patches, atol=1e-5)
