"""Frames as columns: the same rows as objects would be, small, and found by whole-column questions."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from manyview.data import columns, manifest, shared
from manyview.data.columns import Frame, Frames, Groups, by_scene, suspects
from manyview.data.manifest import Manifest
from manyview.files import natural_key

POSE = tuple(float(x) for x in np.eye(4).ravel())


def rows(count: int = 40) -> list[Frame]:
    """Frames with and without everything, in no order."""
    rng, frames = np.random.default_rng(0), []
    for i in rng.permutation(count).tolist():
        frame = Frame("ab"[i % 2], f"room{i % 7}", f"img{i}", "train" if i % 3 else "", f"{i}.png", 8 + i, 6)
        if i % 2:
            frame = replace(frame, fx=float(i), fy=1.5, cx=2.0, cy=3.0, cam2world=POSE)
        if i % 5 == 0:
            frame = replace(frame, depth=f"{i}-depth.png", depth_scale=0.001, labels=f"{i}-labels.png")
        frames.append(frame)
    return frames


def test_rows_come_back_as_they_went_in_one_by_one_in_slices_and_in_turn():
    given = rows()
    frames = Frames.of(iter(given))
    assert list(frames) == given == [frames[i] for i in range(len(given))]
    assert frames[-1] == given[-1]
    assert frames[3:20:4] == given[3:20:4]
    assert frames == given
    assert frames != given[:-1]
    assert type(frames[0].width) is int
    with pytest.raises(IndexError):
        frames[len(given)]
    assert list(Frames.of([])) == []
    assert list(frames.take([5, 1])) == [given[5], given[1]]


def test_a_row_without_extras_costs_its_text_and_two_numbers():
    frames = Frames.of(Frame("d", "s", f"{i:06d}", "", f"train/{i:06d}.jpg", 500, 375) for i in range(50_000))
    assert frames.nbytes / len(frames) < 60


@pytest.mark.parametrize(("own_lens", "most"), [(False, 170), (True, 200)])
def test_a_row_with_camera_and_pose_costs_less_than_200_bytes(own_lens, most):
    """Names as long as ImageNet's; one camera a scene, or every frame its own, where nothing repeats."""
    rng, frames = np.random.default_rng(0), []
    for i in range(20_000):
        scene, pose = f"n{i % 1000:08d}", np.eye(4)
        pose[:3] = rng.normal(size=(3, 4))
        lens = (rng if own_lens else np.random.default_rng(i % 1000)).uniform(400, 600, 4)
        name = f"train/{scene}/{scene}_{i + 10_000_000}.JPEG"
        frame = Frame("imagenet", scene, str(i + 10_000_000), "train", name, 500, 375, *lens.tolist())
        frames.append(replace(frame, cam2world=tuple(pose.ravel().tolist())))
    kept = Frames.of(frames)
    assert kept == frames
    assert kept.nbytes / len(kept) < most
    assert kept.plain().nbytes / len(kept) > 230  # what it costs when it is kept as it is written


def test_nothing_that_is_kept_in_fewer_bytes_is_rounded(tmp_path):
    """Poses whose last row is another by a hair, numbers of many and of few values, in memory, on disk and mapped."""
    rng, given = np.random.default_rng(1), rows(400)
    for i in range(400):
        given[i] = replace(given[i], width=int(rng.integers(1, 2**31)), height=i % 200 + 1)
    assert Frames.of(given) == given
    assert Frames.of(given).table.schema.field("cam2world").type.list_size == 12
    for last in ((0.0, 0.0, 1e-7, 1.0), (0.0, 0.0, -0.0, 1.0), (0.0, 0.0, 0.0, 1 + 1e-7)):
        off = [*given[:-1], replace(given[-1], cam2world=(*POSE[:12], *last))]
        frames = Frames.of(off)
        assert [str(f.cam2world) for f in frames] == [str(f.cam2world) for f in off]
        assert frames.table.schema.field("cam2world").type.list_size == 16
        assert frames.fingerprint() != Frames.of([*given[:-1], replace(given[-1], cam2world=POSE)]).fingerprint()
    frames = Frames.of(given)
    frames.spill(tmp_path / "rows.arrow")
    for other in (
        Frames.mapped(tmp_path / "rows.arrow"),
        Manifest.load(Manifest(given, tmp_path).save(tmp_path / "m.parquet"), check_files=False).frames,
        frames.take(range(400)),
        Frames(frames.plain()),
    ):
        assert list(other) == given == [other[i] for i in range(400)]
        assert other.fingerprint() == frames.fingerprint()
        assert other.nbytes < frames.plain().nbytes
        for name in ("width", "height", "fx", "depth_scale"):
            wanted = [np.nan if (value := getattr(f, name)) is None else value for f in given]
            np.testing.assert_array_equal(other.numbers(name).astype(float), wanted)
        codes, texts = other.codes("height")
        assert [texts[code] for code in codes] == [f.height for f in given]


def test_large_tables_travel_as_a_file_that_goes_when_they_go(monkeypatch, tmp_path):
    monkeypatch.setattr(columns, "SPILL", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    frames = Frames.of(rows())
    sent = pickle.dumps(frames)
    assert len(sent) < 400
    assert pickle.loads(sent) == frames
    assert pickle.dumps(frames) == sent  # one file for all workers
    assert len(list(tmp_path.iterdir())) == 1
    del frames
    assert not list(tmp_path.iterdir())


def test_a_large_manifest_is_read_once_and_mapped_by_all_others(monkeypatch, tmp_path, caplog):
    path = Manifest(rows(), tmp_path).save(tmp_path / "m.parquet")
    monkeypatch.setattr(manifest, "LARGE", 10)
    monkeypatch.setattr(shared.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    read, table = [], manifest._read_table
    monkeypatch.setattr(manifest, "_read_table", lambda path: read.append(path) or table(path))
    one, other = (Manifest.load(path, check_files=False) for _ in range(2))
    assert len(read) == 1
    assert list(one.frames) == list(other.frames) == rows()
    [file] = (tmp_path / "tmp").glob("*/*.arrow")
    assert file.parent.stat().st_mode & 0o077 == 0  # nobody else's
    assert pickle.loads(pickle.dumps(other.frames)) == rows()
    assert one.fingerprint() == Manifest(rows(), tmp_path).fingerprint()
    changed = Manifest(rows()[1:], tmp_path).save(path)
    assert len(Manifest.load(changed, check_files=False)) == len(rows()) - 1  # another file under the same name
    del one
    assert not file.exists()  # goes with the process that made it, and others keep what they look at
    assert other.frames[3] == rows()[3]
    monkeypatch.setattr(columns, "SPILL", 0)
    assert pickle.loads(pickle.dumps(other.frames)) == rows()  # written anew for a process that loads

    def full(self: Frames, path: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Frames, "spill", full)
    again = Manifest(rows()[2:], tmp_path).save(path)
    assert len(Manifest.load(again, check_files=False)) == len(rows()) - 2
    assert "no space left on device): every process keeps its own" in caplog.text


def test_whole_columns_answer_as_a_walk_over_the_rows_would():
    given = rows()
    frames = Frames.of(given)
    assert frames.known("fx").tolist() == [f.fx is not None for f in given]
    assert frames.known("instances").tolist() == [False] * len(given)
    codes, texts = frames.codes("scene")
    assert [texts[code] for code in codes] == [f.scene for f in given]
    assert frames.where_image(["7.png", "none.png"]).tolist() == [[f.image for f in given].index("7.png"), -1]
    naive: dict[tuple[str, str], list[int]] = {}
    for i, frame in enumerate(given):
        naive.setdefault((frame.dataset, frame.scene), []).append(i)
    names, groups = by_scene(frames)
    assert names == sorted(naive, key=lambda key: (natural_key(key[1]), natural_key(key[0])))
    for name, group in zip(names, groups, strict=True):
        assert group == sorted(naive[name], key=lambda i: natural_key(given[i].frame))


def test_a_fingerprint_is_the_content_s_however_it_was_put_together(monkeypatch):
    given = rows()
    once = Frames.of(given).fingerprint()
    assert Frames.of(rows(60)).take([i for i, f in enumerate(rows(60))][:40]).fingerprint() != once
    backwards = Frames.of(given[::-1]).take(range(len(given) - 1, -1, -1))
    assert backwards.fingerprint() == once
    for change in ({"width": 9}, {"image": "x.png"}, {"depth": "y"}, {"scene": "room"}, {"fx": 7.5}):
        other = [replace(given[0], **change), *given[1:]]
        assert Frames.of(other).fingerprint() != once, change
    shifted = [replace(given[0], frame="img1" + given[1].frame), replace(given[1], frame=""), *given[2:]]
    assert Frames.of(shifted).fingerprint() != once


def test_groups_keep_what_is_asked_for():
    groups = Groups.of([[3, 1], [], [0], [2, 4, 5]])
    assert list(groups) == [[3, 1], [], [0], [2, 4, 5]]
    kept = groups.only(np.array([True, True, False, False, True, True]))
    assert list(kept) == [[1], [0], [4, 5]]
    assert list(groups.only(np.ones(6, bool), least=2)) == [[3, 1], [2, 4, 5]]
    assert kept.lengths.tolist() == [1, 1, 2]


@pytest.mark.parametrize("row", [0, 17])
def test_a_nonsensical_row_is_suspected_wherever_it_is(row):
    good = rows()
    assert suspects(Frames.of(good)).tolist() == []
    posed = replace(good[row], fx=1.0, fy=1.0, cx=1.0, cy=1.0, depth="d", depth_scale=1.0)
    for change in (
        {"width": 0},
        {"fx": None},
        {"fy": -1.0},
        {"cx": np.nan},
        {"depth_scale": None},
        {"depth_scale": 0.0},
        {"cam2world": tuple(2 * x for x in POSE)},
        {"cam2world": tuple(-x for x in POSE[:15]) + (1.0,)},
    ):
        bad = [*good[:row], replace(posed, **change), *good[row + 1 :]]
        assert suspects(Frames.of(bad)).tolist() == [row], change
    assert Counter(f.image for f in good).most_common(1)[0][1] == 1
