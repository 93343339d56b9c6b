"""Batches from a cache: deterministic, every sample once an epoch, and true after every augmentation."""

from __future__ import annotations

import dataclasses
import json

import cv2
import pytest
import torch
from PIL import Image

from manyview.batches import scene_changes
from manyview.batches.scenes import SceneBatches, SceneWish
from manyview.cache.build import build
from manyview.cache.store import Cache
from manyview.cache.verify import verify
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.files import checksum
from manyview.geometry import alignment, cameras, pointmaps, poses
from manyview.teachers.sensor import Sensor
from manyview.types import Signal, Views

SIZE = (24, 40)


@pytest.fixture
def cache(make_manifest, tmp_path):
    """Scenes of 9 and 3 frames, samples of up to 4 views every 2 frames."""
    make_manifest({"room": 9, "hall": 3})
    build(tmp_path / "data.parquet", Sensor(), tmp_path / "cache", views=4, step=2, size=SIZE)
    return tmp_path / "cache"


def batches_of(cache, *data, **wish) -> SceneBatches:
    return SceneBatches(cache, data, SceneWish(**wish))


def assert_same(first: Views, second: Views) -> None:
    assert first.names == second.names
    for name in ("images", "intrinsics", "cam2world"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    for name, signal in first.signals.items():
        for part in ("value", "weight", "valid"):
            one, other = getattr(signal, part), getattr(second.signals[name], part)
            assert (one is None and other is None) or torch.equal(one, other), (name, part)


def assert_consistent(views: Views, tolerance: float = 5e-3) -> None:
    """Cameras, local points and first-view points of a batch tell one story (float16 rounding allowed)."""
    local, first = views.signals["pointmap_local"], views.signals["pointmap"]
    height, width = views.size
    valid = local.valid
    assert valid.float().mean() > 0.7
    uv, depth = cameras.project(local.value.flatten(2, 3), views.intrinsics)
    centres = cameras.pixel_centres(height, width).reshape(-1, 2)
    assert float((uv - centres)[valid.flatten(2)].abs().max()) < 0.2  # pixels
    assert bool((depth[valid.flatten(2)] > 0).all())
    first_from_camera = poses.invert(views.cam2world[:, :1]) @ views.cam2world
    moved = pointmaps.transform(first_from_camera, local.value)
    assert float((moved - first.value)[valid].abs().max()) < tolerance
    assert torch.allclose(torch.linalg.det(views.cam2world[..., :3, :3]), torch.ones(views.images.shape[:2]))


def test_a_batch_joins_images_and_answers(cache):
    batches = batches_of(cache, views=3, batch=2)
    views = batches(0)
    assert views.images.shape == (2, 3, 3, *SIZE)
    assert views.signals["pointmap"].value.shape == (2, 3, *SIZE, 3)
    assert views.signals["pointmap"].value.dtype == torch.float32
    assert views.signals["pointmap"].weight.shape == (2, 3, *SIZE)
    assert_consistent(views)
    manifest = batches.sources[0].manifest
    known = {frame.image: i for i, frame in enumerate(manifest.frames)}
    direct = load_views(manifest, [known[name] for name in views.names[1]], SIZE)
    assert float((direct.images[0] - views.images[1]).abs().max()) < 0.5 / 255 + 1e-6
    assert torch.equal(direct.intrinsics[0], views.intrinsics[1])
    assert torch.equal(direct.cam2world[0], views.cam2world[1])


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"shuffle_views": True, "flip": True, "jitter": 0.3}])
def test_every_augmentation_keeps_the_geometry_true(cache, options):
    batches = batches_of(cache, views=2, batch=2, seed=5, **options)
    for step in range(4):
        assert_consistent(batches(step))


def test_the_reference_view_is_really_changed(cache):
    batches = batches_of(cache, views=2, batch=1)
    starts = set()
    for step in range(12):
        views = batches(step)
        sample = next(e for e in batches.cache.entries if set(views.names[0]) <= set(e.frames))
        starts.add(sample.frames.index(views.names[0][0]))
        local, first = views.signals["pointmap_local"], views.signals["pointmap"]
        valid = local.valid[:, 0]
        assert torch.allclose(first.value[:, 0][valid], local.value[:, 0][valid], atol=5e-3)
    assert len(starts) > 1


def test_a_function_of_seed_step_and_rank(cache):
    options = {"views": 2, "batch": 2, "flip": True, "jitter": 0.2, "shuffle_views": True}
    first, second = (batches_of(cache, seed=3, **options) for _ in range(2))
    second(11), second(0)  # what was asked before does not matter
    for step in (0, 4, 7):
        assert_same(first(step), second(step))
    assert not torch.equal(first(0).images, batches_of(cache, seed=4, **options)(0).images)
    whole = batches_of(cache, seed=3, **{**options, "batch": 4})(5)
    for rank in range(2):  # two ranks of two scenes are one rank of four
        half = first(2 * 5 + rank)
        assert torch.equal(half.images, whole.images[2 * rank : 2 * rank + 2])


def test_every_sample_once_an_epoch_and_in_another_order_next(cache):
    batches = batches_of(cache, views=4, batch=1)
    epochs = [[tuple(batches(epoch * len(batches) + i).names[0]) for i in range(len(batches))] for epoch in range(4)]
    assert len(batches) == 3
    assert all(len(set(epoch)) == 3 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_memory_changes_speed_only_and_is_bounded(cache, monkeypatch):
    options = {"views": 2, "batch": 2, "flip": True}
    reads = []
    read = Cache.signals
    monkeypatch.setattr(Cache, "signals", lambda *a, **k: reads.append(a[1:]) or read(*a, **k))
    roomy, none = batches_of(cache, **options), batches_of(cache, **options, memory_mb=0)
    little = batches_of(cache, **options, memory_mb=0.05)
    for step in range(6):
        expected = none(step)
        assert_same(expected, roomy(step))
        assert_same(expected, little(step))
    assert len(none.memory) == 0
    assert 0 < len(little.memory) < len(roomy.memory)
    reads.clear()
    for step in range(40):
        roomy(step)
    reads.clear()
    for step in range(40):
        roomy(step)
    assert reads == []


def test_short_samples_are_left_out_and_counted(cache):
    assert batches_of(cache).describe()["left_out"] == 1  # the hall has three frames
    assert batches_of(cache).views == 4
    assert len(batches_of(cache, views=3)) == 4
    with pytest.raises(UserError, match="at most 4"):
        batches_of(cache, views=5)
    with pytest.raises(UserError, match="jitter"):
        batches_of(cache, jitter=1.5)


def test_a_cache_of_short_scenes_only(make_manifest, tmp_path):
    manifest = make_manifest({"a": 2, "b": 3})
    build(manifest, Sensor(), tmp_path / "cache", views=20, size=SIZE)
    batches = batches_of(tmp_path / "cache", manifest)
    assert (batches.views, len(batches)) == (3, 1)


def test_the_manifest_is_found_or_asked_for(cache, make_manifest, tmp_path):
    assert_same(batches_of(cache)(0), batches_of(cache, tmp_path / "data.parquet")(0))
    with pytest.raises(UserError, match="is not in the manifest"):
        batches_of(cache, make_manifest({"other": 3}, folder="elsewhere"))
    (tmp_path / "data.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(UserError, match="no longer"):
        batches_of(cache)
    meta = {**json.loads((cache / "cache.json").read_text()), "manifest_path": None}
    (cache / "cache.json").write_text(json.dumps({**meta, "sha256": checksum(meta)}))
    with pytest.raises(UserError, match="does not say where"):
        batches_of(cache)


def test_an_empty_or_damaged_cache_is_told(cache):
    archive = cache / "samples" / "000001.zip"
    archive.write_bytes(archive.read_bytes()[:400])
    with pytest.raises(UserError, match=r"000001\.zip is damaged"):
        [batches_of(cache, views=3, batch=1)(step) for step in range(4)]
    archive.unlink()
    with pytest.raises(UserError, match=r"000001\.zip is missing"):
        [batches_of(cache, views=3, batch=1)(step) for step in range(4)]
    (cache / "index.jsonl").write_text("")
    with pytest.raises(UserError, match="no samples yet"):
        batches_of(cache)


def test_a_teacher_with_its_own_scale_moves_by_similarity(cache):
    """Its "pointmap" is in units and axes of its own; local maps and poses cannot be mixed."""
    signals = Cache.open(cache).sample(1).signals
    factor = 0.37
    own = {
        name: Signal(s.value * factor if name == "pointmap" else s.value, s.weight, s.valid)
        for name, s in signals.items()
    }
    moved = scene_changes.refer_to_view(own, 2)
    valid = signals["pointmap_local"].valid
    local = signals["pointmap_local"].value
    assert torch.allclose(moved["pointmap"].value[:, 2][valid[:, 2]], local[:, 2][valid[:, 2]], atol=5e-3)
    points = [moved["pointmap"].value[0][valid[0]], signals["pointmap"].value[0][valid[0]]]
    fit = alignment.similarity(points[0], points[1])
    assert float(fit.scale) == pytest.approx(1, abs=1e-3)
    assert torch.equal(own["pointmap"].value, signals["pointmap"].value * factor)  # the input is not changed


def test_invalid_points_do_not_move_the_similarity(cache):
    signals = Cache.open(cache).sample(1).signals
    clean = scene_changes.refer_to_view(signals, 1)["pointmap"].value
    for name in scene_changes.POINTMAPS:
        signals[name] = dataclasses.replace(signals[name], value=signals[name].value.clone())
        signals[name].value[~signals[name].valid] = float("nan")
    dirty = scene_changes.refer_to_view(signals, 1)["pointmap"]
    assert torch.allclose(dirty.value[dirty.valid], clean[dirty.valid], atol=1e-6)


def test_a_reference_view_of_which_nothing_is_known_leaves_nothing_to_learn(cache):
    """Its frame is unknown: no point of any view is claimed to lie somewhere in it."""
    signals = Cache.open(cache).sample(1).signals
    known = scene_changes.refer_to_view(signals, 1)["pointmap"].valid
    assert torch.equal(known, signals["pointmap"].valid)
    for name in scene_changes.POINTMAPS:
        signals[name] = dataclasses.replace(signals[name], valid=signals[name].valid.clone())
        signals[name].valid[:, 1] = False
    moved = scene_changes.refer_to_view(signals, 1)
    assert not moved["pointmap"].valid.any()
    assert moved["pointmap_local"].valid[:, [0, 2]].any()


def test_mirroring_twice_is_nothing_and_features_move_too(cache):
    views = batches_of(cache, views=2, batch=2)(0)
    views.signals["features"] = Signal(torch.rand(2, 2, 3, 5, 7), valid=torch.rand(2, 2, 3, 5) > 0.5)
    views.depth, views.masks = torch.rand(2, 2, *SIZE), torch.rand(2, 2, *SIZE) > 0.5
    once = scene_changes.mirror(views, [0, 1])
    assert torch.equal(once.signals["features"].value, views.signals["features"].value.flip(3))
    assert torch.equal(once.depth, views.depth.flip(-1))
    assert not torch.equal(once.images, views.images)
    alone = scene_changes.mirror(views, [1])
    assert torch.equal(alone.images[0], views.images[0])
    assert torch.equal(alone.images[1], once.images[1])
    assert torch.equal(alone.signals["pointmap"].value[1], once.signals["pointmap"].value[1])
    twice = scene_changes.mirror(once, [0, 1])
    assert_same(twice, views)
    assert torch.equal(twice.masks, views.masks)


def test_recolouring_changes_colours_only(cache):
    plain, bright = batches_of(cache, views=2)(0), batches_of(cache, views=2, jitter=0.5)(0)
    assert plain.names == bright.names
    assert torch.equal(plain.signals["pointmap"].value, bright.signals["pointmap"].value)
    assert float((plain.images - bright.images).abs().mean()) > 0.01
    assert float(bright.images.min()) >= 0
    assert float(bright.images.max()) <= 1
    assert bool(torch.isfinite(bright.images).all())


def test_samples_keep_the_aspect_of_their_frames(make_manifest, tmp_path):
    """Landscape and portrait frames lose next to nothing, and every batch is of one size."""
    wide = make_manifest({"room": 8})
    tall = []
    for frame in wide:
        for name in (frame.image, frame.depth):
            path = wide.path(name)
            cv2.imwrite(str(path.with_name(f"tall-{path.name}")), cv2.rotate(cv2.imread(str(path), -1), 0))
        turned = {"image": f"tall-{frame.image}", "depth": f"tall-{frame.depth}", "scene": "tall"}
        turned |= {"width": frame.height, "height": frame.width, "cx": frame.cy, "cy": frame.cx}
        tall.append(dataclasses.replace(frame, **turned))
    Manifest([*wide, *tall], wide.root).save(tmp_path / "both.parquet")
    out = tmp_path / "own"
    build(tmp_path / "both.parquet", Sensor(), out, views=4, size=(42, 56), aspect="own")
    assert verify(out) == []
    assert {Cache.open(out).size_of(index) for index in range(4)} == {(42, 56), (56, 42)}
    batches = batches_of(out, batch=2, views=2)
    sizes = [tuple(batches(index).images.shape[-2:]) for index in range(12)]
    assert set(sizes) == {(42, 56), (56, 42)}
    assert abs(sizes.count((42, 56)) - 6) <= 3
    local = batches(0).signals["pointmap_local"]
    assert local.value.shape[2:4] == batches(0).images.shape[-2:]


def test_data_that_are_not_what_the_teacher_saw_are_said(cache, tmp_path, caplog):
    batches_of(cache)
    assert caplog.text == ""
    data = Manifest.load(tmp_path / "data.parquet")
    moved = dataclasses.replace(data[0], fx=2 * data[0].fx)
    Manifest([moved, *list(data)[1:]], data.root, data.info).save(tmp_path / "other.parquet")
    batches_of(cache, tmp_path / "other.parquet")
    assert "was built from another manifest" in caplog.text
    assert "other.parquet" in caplog.text


def test_half_an_index_is_said_to_be_one(cache, caplog):
    index = cache / "index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[: len(lines) // 2]))
    batches_of(cache)
    assert f"holds {len(lines) // 2} of its {len(lines)} samples" in caplog.text


def test_pictures_that_were_written_anew_are_said_and_not_gone_on_with(cache, make_manifest, tmp_path, caplog):
    batches_of(cache)
    assert caplog.text == ""
    data = Manifest.load(tmp_path / "data.parquet")
    path = data.path(data[3].image)
    before = path.read_bytes()
    Image.new("RGB", (data[3].width, data[3].height), "white").save(path)
    batches_of(cache)
    assert "have other sizes than when" in caplog.text
    meta = Cache.open(cache).meta
    again = {"views": meta.views, "step": meta.step, "size": meta.size}
    with pytest.raises(UserError, match="was made of other pictures"):
        build(tmp_path / "data.parquet", Sensor(), cache, **again)
    path.write_bytes(before)
    caplog.clear()
    batches_of(cache)
    assert caplog.text == ""
