"""One store, several teachers: nothing asked twice, the same bytes however it was built, every flipped bit found."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from manyview import zoo
from manyview.batches.scenes import SceneBatches, SceneWish
from manyview.cache import archive, codec
from manyview.cache import build as building
from manyview.cache.build import build
from manyview.cache.store import Cache
from manyview.cache.verify import verify
from manyview.data.synthetic.scene import render_scene
from manyview.errors import UserError
from manyview.teachers.base import Teacher
from manyview.teachers.sensor import Sensor
from manyview.types import Signal, Views, WeightRule

SIZE = (24, 40)
OLD = Path(__file__).parent.parent / "data" / "cache-version-1"
DIGEST_OF_OLD = "6ce93171b72265f513bc7540ea87c4ddd396904bede27c6f713c9e9af1bd9f90"
"""SHA-256 of what version 1 itself read from OLD."""


class Painter(Teacher):
    """Tokens of 8-pixel patches that mix the pixels by fixed random numbers: 32 channels, few of them independent."""

    name, licence, weight_rule, weighted_by = "painter", "free", WeightRule(1, 1, 1), {}
    has_network = True

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, views: Views) -> dict[str, Signal]:
        self.asked += 1
        generator = torch.Generator().manual_seed(0)
        means = F.avg_pool2d(views.images[0], 8).flatten(2).transpose(1, 2)  # (V, P, 3)
        patches = means @ torch.randn(3, 32, generator=generator) + 5
        return {"patches": Signal(patches[None]), "cls": Signal(patches.mean(1)[None])}


class Sure(Sensor):
    """The sensor's maps with confidences of an unknown scale, so that weights go by quantile."""

    name, weight_rule = "sure", WeightRule(0.9, 0.1, 1.0, by="quantile")

    def __call__(self, views: Views) -> dict[str, Signal]:
        answers = super().__call__(views)
        for name in ("confidence", "confidence_local"):
            rising = torch.arange(1, views.views + 1)[:, None, None]  # later views are surer
            answers[name].value = answers[name].value * 50 * rising
        return self.weigh(answers)


class Blind(Sensor):
    """Says nothing of the first scene."""

    name = "blind"

    def __call__(self, views: Views) -> dict[str, Signal]:
        answers = super().__call__(views)
        if views.names[0][0].startswith("hall"):
            for signal in answers.values():
                signal.valid = torch.zeros_like(signal.valid)
        return answers


def content(cache: Path) -> dict[str, bytes]:
    files = [path for path in cache.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in files}


def digest(cache: Cache) -> str:
    total = hashlib.sha256()
    for index in range(len(cache)):
        for _, signal in sorted(cache.sample(index).signals.items()):
            for part in (signal.value, signal.weight, signal.valid):
                if part is not None:
                    total.update(part.float().numpy().tobytes())
    return total.hexdigest()


def test_two_teachers_share_the_archives(make_manifest, tmp_path):
    manifest = make_manifest({"room": 4})
    build(manifest, [Sensor(), Painter()], tmp_path / "both", views=2, size=SIZE)
    build(manifest, Sensor(), tmp_path / "one", views=2, size=SIZE)
    both, one = Cache.open(tmp_path / "both"), Cache.open(tmp_path / "one")
    assert len(both) == len(content(tmp_path / "both")) - 2 == 2
    assert digest(both) == digest(one)  # the first teacher is the one meant when none is named
    stored = both.sample(1, [1], teacher="painter").signals
    assert stored["patches"].value.shape == (1, 1, 15, 32)
    assert stored["cls"].value.shape == (1, 1, 32)
    assert both.info()["teachers"][1]["kinds"] == ["tokens"]
    assert both.info()["teachers"][0]["kinds"] == ["confidences", "pointmaps"]
    assert verify(tmp_path / "both") == []
    with pytest.raises(UserError, match="no answers of teacher 'panter'; did you mean 'painter'"):
        both.sample(0, teacher="panter")


def test_a_teacher_that_comes_later_is_the_only_one_asked(make_manifest, tmp_path):
    manifest = make_manifest({"room": 4})
    build(manifest, [Sensor(), Painter()], tmp_path / "whole", views=2, size=SIZE)
    build(manifest, Sensor(), tmp_path / "cache", views=2, size=SIZE)
    report = build(manifest, [Sensor(), Painter()], tmp_path / "cache", views=2, size=SIZE)
    assert (report.written, report.skipped) == (2, 0)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")
    lazy = Painter()
    assert build(manifest, lazy, tmp_path / "cache", views=2, size=SIZE).skipped == 2
    assert lazy.asked == 0


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_while_a_teacher_is_added_keeps_the_other_ones_answers(make_manifest, tmp_path, monkeypatch, call):
    manifest = make_manifest({"room": 3})
    build(manifest, [Sensor(), Painter()], tmp_path / "whole", views=1, size=SIZE)
    real = getattr(os, call)
    for crash_at in range(1, 30):
        out, calls = tmp_path / f"crash{crash_at}", []
        build(manifest, Sensor(), out, views=1, size=SIZE)

        def crashing(*arguments, calls=calls, crash_at=crash_at):
            calls.append(arguments)
            if len(calls) == crash_at:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(os, call, crashing)
        try:
            build(manifest, Painter(), out, views=1, size=SIZE)
        except KeyboardInterrupt:
            monkeypatch.undo()
        else:
            monkeypatch.undo()
            break
        assert all("sensor" in entry.teachers for entry in Cache.open(out).entries)
        build(manifest, Painter(), out, views=1, size=SIZE)  # the sensor is not asked again
        assert content(out) == content(tmp_path / "whole")
    assert crash_at > 3


@pytest.mark.parametrize(("keep", "most"), [("float16", 1e-3), ("int8", 0.5 / 255), ("pca", 0.5 / 255)])
def test_tokens_come_back_within_the_bound_of_how_they_are_kept(make_manifest, tmp_path, keep, most):
    manifest = make_manifest({"room": 4})
    build(manifest, Painter(), tmp_path / "cache", views=2, size=SIZE, keep=keep)
    build(manifest, Painter(), tmp_path / "exact", views=2, size=SIZE)
    cache, exact = Cache.open(tmp_path / "cache"), Cache.open(tmp_path / "exact")
    for index in range(2):
        true = exact.sample(index).signals["patches"].value
        stored = cache.sample(index).signals["patches"].value
        span = float(true.max() - true.min())
        assert float((stored - true).abs().max()) < 4 * most * span + 0.004  # 0.004: float16 at 8
        assert torch.equal(cache.sample(index).signals["cls"].value, exact.sample(index).signals["cls"].value)
    assert verify(tmp_path / "cache") == []
    size = sum(entry.bytes for entry in cache.entries) / sum(entry.bytes for entry in exact.entries)
    assert size <= {"float16": 1.0, "int8": 1.0, "pca": 0.9}[keep]


def test_a_basis_has_a_quarter_of_the_channels_and_no_more():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((32, 32)))[0].astype(np.float32)
    strength = np.r_[np.full(8, 10.0), np.full(8, 1.0), np.full(16, 0.1)].astype(np.float32)
    rows = rng.standard_normal((4000, 32)).astype(np.float32) * strength @ axes
    basis = codec.Basis.fit(rows.reshape(40, 100, 32))
    assert basis.axes.shape == (8, 32)
    out = np.empty((100, 32), np.float32)
    frame = codec.encode(rows[:100], codec.PCA, basis)
    codec.decode_into(out, frame, codec.PCA, basis)
    lost = float(np.square(out - rows[:100]).sum(1).mean())
    # The eight weaker directions of strength 1 are lost, the strong ones are kept: no more, no less.
    assert 7 < lost < 11
    with pytest.raises(codec.BrokenArchive, match="principal axes"):
        codec.decode_into(out, frame, codec.PCA)


def test_steps_on_axes_keep_directions_in_an_eighth_of_the_bytes():
    """Tokens of a trained encoder of rooms that its axes were not fitted to; keep=pca needs more and loses more.

    White noise, in which no axis is weak, needs more bytes for the same promise: it is kept, not the budget.
    """
    encoder = zoo.load("manyview-small").trunk
    images = torch.cat([render_scene(seed, views=3, size=(168, 224)).images for seed in range(6)])
    with torch.inference_mode():
        tokens = encoder.encode(images).as_map().permute(0, 2, 3, 1).numpy()  # (18, 12, 16, 256)
    white = np.random.default_rng(0).standard_normal(tokens.shape).astype(np.float32)
    sizes, errors = {}, {}
    cases = {"tokens": (tokens, codec.STEPS), "pca": (tokens, codec.PCA), "white": (white, codec.STEPS)}
    for name, (maps, encoding) in cases.items():
        basis, kept, sizes[name] = codec.Basis.fit(maps[:15], codec.ON_AXES[encoding]), np.empty_like(maps[15:]), 0
        for out, true in zip(kept, maps[15:], strict=True):
            frame = codec.encode(true, encoding, basis)
            codec.decode_into(out, frame, encoding, basis)
            sizes[name] += len(frame) / (2 * kept.size)
        fine = [
            F.interpolate(torch.from_numpy(each).permute(0, 3, 1, 2), scale_factor=4, mode="bilinear")
            for each in (kept, maps[15:])
        ]
        errors[name] = float((1 - F.cosine_similarity(*fine)).mean())
    assert errors["tokens"] < 0.02
    assert sizes["tokens"] < 1 / 8 < sizes["pca"]
    assert errors["pca"] > errors["tokens"]
    assert errors["white"] < 0.02
    assert sizes["white"] > sizes["tokens"]
    with pytest.raises(codec.BrokenArchive, match="cannot be decoded"):
        codec.decode_into(out, frame[:-9], codec.STEPS, basis)


def test_int8_loses_half_a_step_of_each_channel_and_not_less():
    values = np.random.default_rng(0).standard_normal((7, 9, 4)).astype(np.float32) * [1, 10, 100, 1e-3]
    values[..., 2] = 7.0  # a channel without any spread comes back exactly
    out = np.empty((7, 9, 4), np.float32)
    codec.decode_into(out, codec.encode(values, codec.INT8), codec.INT8)
    step = np.ptp(values, axis=(0, 1)) / 255
    lost = np.abs(out - values).max((0, 1))
    assert (lost <= 0.501 * step + 1e-6).all()
    assert (lost[[0, 1]] > 0.3 * step[[0, 1]]).all()  # the bound is no empty promise
    assert (out[..., 2] == 7).all()


@pytest.mark.parametrize("keep", ["float16", "pca", "cosine"])
def test_shards_end_with_the_bytes_of_one_process(make_manifest, tmp_path, keep):
    manifest = make_manifest({"room": 5, "hall": 4})
    options = {"views": 1, "size": SIZE, "keep": keep}
    build(tmp_path / "data.parquet", [Sensor(), Painter()], tmp_path / "whole", **options)
    for part in (2, 0, 1):
        assert len(content(tmp_path / "parts").keys() & {"index.jsonl"} if part != 2 else ()) == 0
        build(tmp_path / "data.parquet", [Sensor(), Painter()], tmp_path / "parts", shard=(part, 3), **options)
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert ("basis/painter.patches.zip" in content(tmp_path / "whole")) == (keep != "float16")
    assert build(manifest, [Sensor(), Painter()], tmp_path / "parts", shard=(1, 3), **options).skipped == 3
    assert content(tmp_path / "whole").keys() >= {"index.jsonl", "cache.json"}


def test_shards_side_by_side_share_one_basis(make_manifest, tmp_path):
    make_manifest({"room": 6})
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_store import Painter, SIZE, build;"
        "build(sys.argv[2], Painter(), sys.argv[3], views=1, size=SIZE, keep='pca', shard=(int(sys.argv[4]), 2))"
    )
    start = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "data.parquet")]
    runs = [subprocess.Popen([*start, str(tmp_path / "parts"), str(part)]) for part in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    build(tmp_path / "data.parquet", Painter(), tmp_path / "whole", views=1, size=SIZE, keep="pca")
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


def test_a_teacher_that_says_nothing_is_reported_and_left_out(make_manifest, tmp_path):
    manifest = make_manifest({"hall": 2, "room": 4})
    report = build(manifest, Blind(), tmp_path / "alone", views=2, size=SIZE)
    assert report.written == 2
    assert [problem.file for problem in report.problems] == ["samples/000000.zip"]
    assert "blind says nothing" in report.problems[0].reason
    assert [entry.scene for entry in Cache.open(tmp_path / "alone").entries] == ["room", "room"]
    build(manifest, [Sensor(), Blind()], tmp_path / "both", views=2, size=SIZE)
    cache = Cache.open(tmp_path / "both")
    assert [list(entry.teachers) for entry in cache.entries] == [["sensor"]] + [["sensor", "blind"]] * 2
    with pytest.raises(UserError, match="no answer of teacher 'blind'"):
        cache.sample(0, teacher="blind")
    assert [problem.reason for problem in verify(tmp_path / "both")] == ["2 of 3 samples of teacher blind are there"]


def test_samples_without_an_answer_are_never_trained_on(make_manifest, tmp_path):
    make_manifest({"hall": 2, "room": 4})
    build(tmp_path / "data.parquet", [Sensor(), Blind()], tmp_path / "both", views=2, size=SIZE)
    for teacher, scenes in (("sensor", {"hall", "room"}), ("blind", {"room"})):
        batches = SceneBatches(tmp_path / "both", wish=SceneWish(teacher=teacher, views=2))
        views = [batches(index) for index in range(8)]
        assert {v.names[0][0].partition("-")[0] for v in views} == scenes
        assert all(s.valid is None or s.valid.any() for v in views for s in v.signals.values())


def test_weights_by_quantile_are_those_of_the_whole_sample(make_manifest, tmp_path):
    manifest = make_manifest({"room": 3})
    build(manifest, Sure(), tmp_path / "cache", views=3, size=SIZE)
    cache = Cache.open(tmp_path / "cache")
    whole = cache.sample(0).signals
    values = whole["confidence"].value[whole["confidence"].valid]
    unit = float(values.sort().values[int(0.9 * len(values))])
    expected = (whole["confidence"].value / unit).clamp(0.1, 1)
    assert torch.allclose(whole["pointmap"].weight, expected, atol=0.02)
    assert 0.05 < float((whole["pointmap"].weight[whole["pointmap"].valid] == 1).float().mean()) < 0.5
    part = cache.sample(0, [2]).signals
    assert torch.equal(part["pointmap"].weight, whole["pointmap"].weight[:, [2]])


def test_every_flipped_bit_is_found(make_manifest, tmp_path):
    """In the record, in the index, in an archive and in the axes: none is read as if nothing had happened."""
    manifest = make_manifest({"room": 2})
    build(manifest, [Sensor(), Painter()], tmp_path / "cache", views=1, size=(8, 16), keep="pca")
    assert verify(tmp_path / "cache") == []
    rng = np.random.default_rng(0)
    for name, whole in content(tmp_path / "cache").items():
        path = tmp_path / "cache" / name
        for position in sorted({*range(0, len(whole), 1 + len(whole) // 300), len(whole) - 1}):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with suppress(UserError):
                assert verify(tmp_path / "cache"), f"bit of byte {position} of {name}"
        path.write_bytes(whole)
    assert verify(tmp_path / "cache") == []


READ_ONLY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_store import Cache, digest, verify

def forbid(event, arguments):  # root may write where the modes forbid it
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.mkdir", "os.rename", "os.remove")) and sys.argv[2] in str(arguments[0]):
        raise PermissionError(f"{event} {arguments}")

sys.addaudithook(forbid)
print(digest(Cache.open(sys.argv[2])), verify(sys.argv[2]))
"""


def test_a_folder_that_nobody_can_write_to_is_read_by_many(make_manifest, tmp_path):
    cache = tmp_path / "cache"
    build(make_manifest({"room": 4}), Painter(), cache, views=2, size=SIZE, keep="pca")
    expected, paths = digest(Cache.open(cache)), [cache, *cache.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    start = [sys.executable, "-c", READ_ONLY, str(Path(__file__).parent), str(cache)]
    runs = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate()[0].split() for run in runs] == [[expected, "[]"]] * 2
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_cache_of_version_1_opens_verifies_and_says_the_same(tmp_path):
    cache = Cache.open(OLD / "cache")
    assert digest(cache) == DIGEST_OF_OLD
    assert (cache.meta.size, cache.meta.views, len(cache), cache.teacher().name) == ((12, 16), 2, 2, "sensor")
    assert verify(OLD / "cache") == []
    assert cache.info()["teachers"][0]["kinds"] == ["confidences", "pointmaps"]


def test_a_build_of_version_1_is_gone_on_with(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    cache = tmp_path / "old" / "cache"
    (cache / "samples" / "000001.zip").unlink()
    kept = (cache / "samples" / "000000.zip").read_bytes()
    options = {"views": 2, "size": (12, 16)}
    report = build(tmp_path / "old" / "manifest.parquet", Sensor(), cache, **options)
    assert (report.written, report.skipped) == (1, 1)
    assert (cache / "samples" / "000000.zip").read_bytes() == kept
    assert digest(Cache.open(cache)) == DIGEST_OF_OLD
    assert verify(cache) == []
    with pytest.raises(UserError, match="size = 12x16, this build has 24x40"):
        build(tmp_path / "old" / "manifest.parquet", Sensor(), cache, views=2, size=SIZE)
    build(tmp_path / "old" / "manifest.parquet", Painter(), cache, **options)
    assert verify(cache) == []
    assert digest(Cache.open(cache)) == DIGEST_OF_OLD


def test_what_a_build_takes_is_said_after_its_first_sample(make_manifest, tmp_path, monkeypatch):
    lines: list[str] = []
    build(make_manifest({"c": 5}, folder="c"), Sensor(), tmp_path / "fast", views=1, size=SIZE, say=lines.append)
    assert not lines
    monkeypatch.setattr(building, "WORTH_SAYING", 0.0)
    build(make_manifest({"room": 5}), Sensor(), tmp_path / "cache", views=1, size=SIZE, say=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("4 more samples will take about")
    build(make_manifest({"b": 1}, folder="b"), Sensor(), tmp_path / "cache-b", views=1, size=SIZE, say=lines.append)
    assert len(lines) == 1  # nothing is left to say it of


def test_plain_fields_are_read_where_they_lie(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float16)
    path = tmp_path / "chunk.zip"
    path.write_bytes(archive.encode_archive({"a": values}, {"n": 1}, encodings={"a": codec.PLAIN}))
    header, fields = archive.map_archive(path)
    assert header["n"] == 1
    assert np.array_equal(np.stack(fields["a"]), values)
    assert not fields["a"][0].flags.writeable
