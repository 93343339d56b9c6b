"""Building a cache: resumable to the byte, sharded or not the same, and every mistake one clear line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from manyview import files
from manyview.cache.build import build
from manyview.cache.store import Cache, read_index, read_lines
from manyview.data.depths import read_depth
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.teachers.sensor import Sensor

SIZE = (24, 40)


def content(cache: Path) -> dict[str, bytes]:
    """Every file of a cache that is not a trace of the building process."""
    found = [path for path in cache.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("maps", ["float16", "compact"])
def test_build_and_read_back(make_manifest, tmp_path, maps):
    manifest = make_manifest({"room": 7, "hall": 2})
    report = build(tmp_path / "data.parquet", Sensor(), tmp_path / "cache", views=3, step=2, size=SIZE, maps=maps)
    assert (report.written, report.skipped, report.problems) == (4, 0, [])
    cache = Cache.open(tmp_path / "cache")
    assert [len(entry.frames) for entry in cache.entries] == [2, 3, 3, 3]  # hall has only two frames
    sample = cache.sample(2)
    assert sample.scene == "room"
    assert sample.frames == ["room-2.png", "room-3.png", "room-4.png"]
    live = Sensor()(load_views(manifest, [2, 3, 4], SIZE))
    for name, said in live.items():
        stored = sample.signals[name]
        assert stored.value.dtype == torch.float32
        assert torch.equal(stored.valid, said.valid)
        if maps == "float16":
            assert torch.equal(stored.value[stored.valid], said.value.half().float()[said.valid])
        elif "confidence" in name:
            assert (stored.value - said.value)[said.valid].abs().quantile(0.99) < 0.5  # of 1 to 10
        else:
            away = (stored.value - said.value).norm(dim=-1) / said.value.norm(dim=-1)
            assert away[said.valid].quantile(0.999) <= 1e-3
        if said.weight is not None:
            differ = (stored.weight - said.weight)[said.valid].abs()
            assert differ.quantile(0.99) < (1e-3 if maps == "float16" else 0.05)
    assert cache.meta.manifest == manifest.digest()
    assert (tmp_path / "cache" / cache.meta.manifest_path).resolve() == tmp_path / "data.parquet"


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e5])
def test_lengths_in_any_unit_survive(make_manifest, tmp_path, unit):
    manifest = make_manifest({"room": 3})
    frames = []
    for frame in manifest.frames:
        pose = frame.pose
        pose[:3, 3] *= unit
        frames.append(replace(frame, cam2world=tuple(pose.flatten().tolist()), depth_scale=0.001 * unit))
    other = Manifest(frames, manifest.root)
    for maps in ("compact", "float16"):
        build(manifest, Sensor(), tmp_path / f"{maps}-metres", views=3, size=SIZE, maps=maps)
        build(other, Sensor(), tmp_path / maps, views=3, size=SIZE, maps=maps)
        metres, others = (Cache.open(tmp_path / name).sample(0).signals for name in (f"{maps}-metres", maps))
        for name in ("pointmap", "pointmap_local"):
            valid = metres[name].valid
            assert torch.equal(others[name].valid, valid)
            away = (others[name].value / unit - metres[name].value).norm(dim=-1) / metres[name].value.norm(dim=-1)
            assert away[valid].quantile(0.999) < 2.5e-3
            assert torch.allclose(others[name].weight[valid], metres[name].weight[valid], atol=0.05)


def test_depth_is_never_interpolated(make_manifest, tmp_path):
    manifest = make_manifest({"room": 2})
    build(manifest, Sensor(), tmp_path / "cache", views=2, size=(31, 37), maps="float16")
    local = Cache.open(tmp_path / "cache").sample(0).signals["pointmap_local"]
    for view in range(2):
        source = read_depth(manifest.path(manifest[view].depth), 0.001)
        stored = local.value[0, view, ..., 2][local.valid[0, view]].numpy().astype(np.float16)
        assert set(stored.tolist()) <= set(source.astype(np.float16).flatten().tolist())
        assert len(stored) > 500


def test_one_view_can_be_read_alone(make_manifest, tmp_path):
    build(make_manifest({"room": 4}), Sensor(), tmp_path / "cache", views=4, size=SIZE)
    cache = Cache.open(tmp_path / "cache")
    whole, part = cache.sample(0), cache.sample(0, views=[3, 1])
    assert part.frames == ["room-3.png", "room-1.png"]
    for name, said in part.signals.items():
        assert torch.equal(said.value, whole.signals[name].value[:, [3, 1]])
    with pytest.raises(UserError, match="the sample has 4"):
        cache.sample(0, views=[4])


SLOW_BUILD = """
import sys, time
from manyview.cache.build import build
from manyview.teachers.sensor import Sensor

class Slow(Sensor):
    def __call__(self, views):
        time.sleep(0.03)
        return super().__call__(views)

build(sys.argv[1], Slow(), sys.argv[2], views=2, step=1, size=(48, 64))
"""


def test_killed_and_resumed_equals_uninterrupted(make_manifest, tmp_path):
    make_manifest({"room": 60})
    manifest, options = tmp_path / "data.parquet", {"views": 2, "step": 1, "size": (48, 64)}
    command = [sys.executable, "-c", SLOW_BUILD, str(manifest), str(tmp_path / "b")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    folder = tmp_path / "b" / "samples"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("[0-9]*.zip")) if folder.exists() else []) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    archives, indexed = sorted(folder.glob("[0-9]*.zip")), read_index(tmp_path / "b", "sensor")
    assert 3 <= len(archives) < 59
    assert len(archives) - len(indexed) in (0, 1)  # at most the sample in work
    before = {path.name: path.stat().st_mtime_ns for path in archives[: len(indexed)]}
    report = build(manifest, Sensor(), tmp_path / "b", **options)
    assert report.skipped == len(indexed)
    assert {path.name: path.stat().st_mtime_ns for path in archives[: len(indexed)]} == before
    build(manifest, Sensor(), tmp_path / "a", **options)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert len(content(tmp_path / "a")) == 59 + 2
    assert not list((tmp_path / "b").rglob(".manyview-draft-*"))


class Killed(BaseException):
    """Stands for the end of the process: no code that mends errors sees it."""


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_loses_at_most_one_sample(make_manifest, tmp_path, monkeypatch, call, after):
    manifest, samples = make_manifest({"room": 3}), 3
    build(manifest, Sensor(), tmp_path / "whole", views=1, size=SIZE)
    real, crash_at, calls = getattr(os, call), 0, []

    def crashing(*arguments):
        calls.append(arguments)
        crash = len(calls) == crash_at
        if crash and not after:
            raise Killed
        real(*arguments)
        if crash:
            raise Killed

    for crash_at in range(1, 20):
        calls.clear()
        out = tmp_path / f"crash{crash_at}"
        monkeypatch.setattr(os, call, crashing)
        try:
            build(manifest, Sensor(), out, views=1, size=SIZE)
        except Killed:
            monkeypatch.undo()
        else:
            break  # there are no more writes to crash at
        archives = len(list(out.glob("samples/[0-9]*.zip")))
        report = build(manifest, Sensor(), out, views=1, size=SIZE)
        assert report.skipped >= archives - 1
        assert report.written + report.skipped == samples
        assert content(out) == content(tmp_path / "whole")
        assert not list(out.rglob(".manyview-draft-*"))
    assert crash_at > samples


@pytest.mark.parametrize("damage", ["torn line", "lost archive", "short archive", "half-written file"])
def test_resume_mends_what_a_crash_leaves(make_manifest, tmp_path, damage):
    manifest = make_manifest({"room": 5})
    build(manifest, Sensor(), tmp_path / "a", views=1, size=SIZE)
    build(manifest, Sensor(), tmp_path / "b", views=1, size=SIZE)
    index, archive = tmp_path / "b" / "index.jsonl", tmp_path / "b" / "samples" / "000002.zip"
    if damage == "torn line":
        index.write_bytes(index.read_bytes()[:-30])
        assert len(Cache.open(tmp_path / "b")) == 4  # readable before it is mended
    elif damage == "lost archive":
        archive.unlink()
    elif damage == "short archive":
        archive.write_bytes(archive.read_bytes()[:-100])
    else:
        (archive.parent / files.draft_name("000002.zip")).write_bytes(b"half")
    report = build(manifest, Sensor(), tmp_path / "b", views=1, size=SIZE)
    assert report.written == (0 if damage == "half-written file" else 1)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert not list((tmp_path / "b").rglob(".manyview-draft-*"))


def test_shards_together_are_the_unsharded_cache(make_manifest, tmp_path):
    manifest = make_manifest({"room": 5, "hall": 4})
    build(manifest, Sensor(), tmp_path / "whole", views=1, size=SIZE)
    for part in (2, 0, 1):
        report = build(manifest, Sensor(), tmp_path / "parts", views=1, size=SIZE, shard=(part, 3))
        assert report.written == 3
    whole, parts = Cache.open(tmp_path / "whole"), Cache.open(tmp_path / "parts")
    assert whole.entries == parts.entries
    assert {n: b for n, b in content(tmp_path / "whole").items() if n.endswith("zip")} == {
        n: b for n, b in content(tmp_path / "parts").items() if n.endswith("zip")
    }
    report = build(manifest, Sensor(), tmp_path / "parts", views=1, size=SIZE)  # nothing is left for a build of all
    assert (report.written, report.skipped) == (0, 9)
    assert Cache.open(tmp_path / "parts").entries == whole.entries
    with pytest.raises(UserError, match="shard 3/3"):
        build(manifest, Sensor(), tmp_path / "parts", views=1, size=SIZE, shard=(3, 3))


def test_other_settings_are_named_with_both_values(make_manifest, tmp_path):
    manifest = make_manifest({"room": 4})
    good = {"views": 2, "size": SIZE}
    build(manifest, Sensor(), tmp_path / "cache", **good)
    before = content(tmp_path / "cache")
    for change, words in [
        ({"size": (48, 80)}, "size = 24x40, this build has 48x80"),
        ({"views": 4}, "views = 2, this build has 4"),
        ({"step": 1}, "step = 2, this build has 1"),
    ]:
        with pytest.raises(UserError, match=words):
            build(manifest, Sensor(), tmp_path / "cache", **{**good, **change})
    with pytest.raises(UserError, match=r"settings.edge_step = 0.03, this build has 0.1"):
        build(manifest, Sensor(edge_step=0.1), tmp_path / "cache", **good)
    with pytest.raises(UserError, match="manifest = "):
        build(manifest.select("0:2"), Sensor(), tmp_path / "cache", **good)
    assert content(tmp_path / "cache") == before


def test_a_lost_depth_file_costs_its_samples_only(make_manifest, tmp_path):
    manifest = make_manifest({"room": 6})
    good = {name: bytes_ for name, bytes_ in _built(manifest, tmp_path / "good").items()}
    lost = manifest.path(manifest[3].depth)
    kept = lost.read_bytes()
    lost.unlink()
    report = build(manifest, Sensor(), tmp_path / "cache", views=2, size=SIZE)
    assert report.written == 2
    assert [problem.file for problem in report.problems] == ["samples/000001.zip"]
    assert "'room-3.png' has no depth file" in report.problems[0].reason
    lost.write_bytes(kept)
    assert build(manifest, Sensor(), tmp_path / "cache", views=2, size=SIZE).written == 1
    assert content(tmp_path / "cache") == good  # the index too, though its lines were written in another order


def _built(manifest, out: Path) -> dict[str, bytes]:
    build(manifest, Sensor(), out, views=2, size=SIZE)
    return content(out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": None}, "no measured depth"),
        ({"cam2world": None}, "no pose"),
        ({"fx": None}, "no intrinsics"),
        ({"cam2world": (float("nan"),) * 16}, "NaN"),
        ({"cam2world": (0.0,) * 16}, "pose"),
    ],
)
def test_nothing_can_be_made_without_depth_cameras_or_poses(make_manifest, tmp_path, change, words):
    import dataclasses

    manifest = make_manifest({"room": 2})
    manifest = Manifest([dataclasses.replace(frame, **change) for frame in manifest.frames], manifest.root)
    with pytest.raises(UserError, match=f"'room-0.png'.*{words}") as error:
        build(manifest, Sensor(), tmp_path / "cache", views=2, size=SIZE)
    assert "\n" not in str(error.value)
    manifest = make_manifest({"room": 2}, folder="mended")
    assert build(manifest, Sensor(), tmp_path / "cache", views=2, size=SIZE).written == 1  # the empty cache is reused


@pytest.mark.parametrize("when", ["archive", "index"])
def test_a_full_disk_keeps_what_is_written(make_manifest, tmp_path, monkeypatch, when):
    manifest = make_manifest({"room": 5})
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        # 2 of cache.json, 2 of the index (file and folder), then 2 of the archive and 1 of the line of each sample
        if len(calls) >= {"archive": 11, "index": 13}[when]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(UserError, match=r"(?i)no space left.*the 2 samples written before are kept") as error:
        build(manifest, Sensor(), tmp_path / "cache", views=1, size=SIZE)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert len(Cache.open(tmp_path / "cache")) >= 2
    build(manifest, Sensor(), tmp_path / "cache", views=1, size=SIZE)
    build(manifest, Sensor(), tmp_path / "whole", views=1, size=SIZE)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_two_builds_of_one_shard_do_not_mix(make_manifest, tmp_path):
    manifest = make_manifest({"room": 2})
    (tmp_path / "cache").mkdir()
    held = FileLock(tmp_path / "cache" / ".building-0-of-1")
    with held, pytest.raises(UserError, match="another build"):
        build(manifest, Sensor(), tmp_path / "cache", views=1, size=SIZE)
    assert build(manifest, Sensor(), tmp_path / "cache", views=1, size=SIZE).written == 2


def test_a_folder_with_other_files_is_left_alone(make_manifest, tmp_path):
    manifest = make_manifest({"room": 2})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"me\.jpg"):
        build(manifest, Sensor(), tmp_path / "photos", views=1, size=SIZE)
    with pytest.raises(UserError, match=r"data\.parquet is a file; give a folder"):
        build(manifest, Sensor(), tmp_path / "data.parquet", views=1, size=SIZE)
    with pytest.raises(UserError, match="no teacher is named"):
        build(manifest, [], tmp_path / "cache", views=1, size=SIZE)
    with pytest.raises(UserError, match="'sensor'; give each a name of its own"):
        build(manifest, [Sensor(), Sensor()], tmp_path / "cache", views=1, size=SIZE)
    with pytest.raises(UserError, match="no pixels"):
        build(manifest, Sensor(), tmp_path / "cache", views=1, size=(0, 4))
    assert not (tmp_path / "cache").exists()


def test_a_damaged_index_line_is_told_and_named(tmp_path):
    path = tmp_path / "index.jsonl"
    path.write_text('{"archive": "samples/000000.zip"}\n')
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_lines(path, "sensor")
    path.write_text('{"archive": "samp')
    assert read_lines(path, "sensor") == []
