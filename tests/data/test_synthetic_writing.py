"""Scenes on disk: what is read back equals what was rendered, runs go on where they stopped, settings must agree."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.synthetic import CLASSES, render_scene, write_scenes, writing
from manyview.errors import UserError

SETTINGS = {"views": 3, "size": (32, 44), "seed": 5}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "set"
    write_scenes(out, scenes=3, normals=True, **SETTINGS)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_read_back_is_what_was_rendered(written):
    manifest = Manifest.load(written / "manifest.parquet")
    assert len(manifest) == 9
    assert list(manifest.scenes()) == ["scene_000000", "scene_000001", "scene_000002"]
    for index in range(3):
        scene = render_scene(5_000_000 + index, views=3, size=(32, 44))  # alone; above, after others
        views = load_views(manifest, manifest.scenes()[f"scene_{index:06d}"], (32, 44))
        assert (views.images[0] - scene.images).abs().max() < 0.5 / 255 + 1e-5
        assert (views.depth[0] - scene.depth).abs().max() < 0.00051
        torch.testing.assert_close(views.intrinsics[0], scene.intrinsics, check_dtype=False)
        torch.testing.assert_close(views.cam2world[0], scene.cam2world, check_dtype=False)
        for view in range(3):
            frame = manifest[index * 3 + view]
            labels = cv2.imread(str(manifest.path(frame.labels)), cv2.IMREAD_UNCHANGED)
            instances = cv2.imread(str(manifest.path(frame.instances)), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(labels, scene.labels[view].numpy())
            np.testing.assert_array_equal(instances, scene.instances[view].numpy())
            stored = cv2.imread(str(written / f"scene_{index:06d}/normals/{view:04d}.png"))[..., ::-1] / 127.5 - 1
            assert np.abs(stored - scene.normals[view].numpy()).max() < 0.5 / 127.5 + 1e-3


def test_the_layout_says_its_own_conventions(written):
    from manyview.data.sources import scan

    content = json.loads((written / "scene_000001" / "cameras.json").read_text())
    assert content["pixel_centres"] == 0.5
    assert tuple(content["label_names"]) == CLASSES
    assert content["settings"]["seed"] == 5_000_001
    scanned, problems = scan(written, format="manyview")
    assert not problems
    mine = Manifest.load(written / "manifest.parquet")
    assert [frame.image for frame in scanned.frames] == [frame.image for frame in mine.frames]
    for a, b in zip(scanned.frames, mine.frames):
        np.testing.assert_allclose(a.intrinsics, b.intrinsics)
        np.testing.assert_allclose(a.pose, b.pose)
        assert (a.depth, a.depth_scale, a.labels, a.instances) == (b.depth, b.depth_scale, b.labels, b.instances)


def test_an_interrupted_run_goes_on_and_ends_alike(written, tmp_path, monkeypatch):
    real, calls = writing.render_scene, []

    def failing(seed, **arguments):
        calls.append(seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(seed, **arguments)

    monkeypatch.setattr(writing, "render_scene", failing)
    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write_scenes(out, scenes=3, normals=True, **SETTINGS)
    assert not (out / "scene_000002").exists()
    leftover = out / ".scene_000002.partial" / "images"
    leftover.mkdir(parents=True)
    (leftover / "0000.png").write_bytes(b"half")
    write_scenes(out, scenes=3, normals=True, **SETTINGS)
    assert calls == [5_000_000, 5_000_001, 5_000_002, 5_000_002]  # what was there is not rendered again
    assert contents(out) == contents(written)


def test_more_scenes_are_added_and_fewer_keep_the_rest(tmp_path):
    out = tmp_path / "set"
    write_scenes(out, scenes=1, **SETTINGS)
    first = contents(out / "scene_000000")
    path = write_scenes(out, scenes=2, **SETTINGS)
    assert contents(out / "scene_000000") == first
    assert len(Manifest.load(path)) == 6
    write_scenes(out, scenes=1, **SETTINGS)
    assert len(Manifest.load(path)) == 3
    assert (out / "scene_000001").exists()


def test_two_processes_write_the_same_files(written, tmp_path):
    write_scenes(tmp_path / "set", scenes=3, workers=2, normals=True, **SETTINGS)
    assert contents(tmp_path / "set") == contents(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed=5000000"),
        ({"size": (32, 48)}, "size"),
        ({"views": 4}, "views=3"),
        ({"kind": "room"}, "kind=auto"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(written, change, message):
    before = contents(written)
    with pytest.raises(UserError, match=message) as error:
        write_scenes(written, scenes=3, normals=True, **{**SETTINGS, **change})
    assert "\n" not in str(error.value)
    assert contents(written) == before


def test_foreign_folders_are_not_touched(tmp_path):
    (tmp_path / "scene_000000").mkdir()
    (tmp_path / "scene_000000" / "cameras.json").write_text('{"frames": []}')
    with pytest.raises(UserError, match="not written by manyview"):
        write_scenes(tmp_path, scenes=1, **SETTINGS)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="is a file"):
        write_scenes(file, scenes=1, **SETTINGS)
    with pytest.raises(UserError, match="at least 1"):
        write_scenes(tmp_path / "new", scenes=0, **SETTINGS)
    with pytest.raises(UserError, match="no kind"):
        write_scenes(tmp_path / "new", scenes=1, kind="palace")
    assert not (tmp_path / "new").exists()
