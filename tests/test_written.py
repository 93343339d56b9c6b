"""Nothing of the user's is replaced or deleted, wherever a command is stopped; what is ours is known by a record."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from manyview import written
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.files import clear_drafts, draft_name, fresh_file
from manyview.scene.scene import Scene
from manyview.scene.views import SceneView, Source


def scene_of(value: int, views: int = 2) -> Scene:
    """A scene whose every number is `value`."""
    k = np.array([[20.0, 0, 6], [0, 20, 4], [0, 0, 1]])
    return Scene(
        [
            SceneView(
                name=f"{index}.png",
                image=np.full((8, 12, 3), value, np.uint8),
                depth=np.full((8, 12), value, np.float32),
                confidence=np.full((8, 12), value, np.float32),
                intrinsics=k,
                cam2world=np.eye(4),
                source=Source(size=(8, 12), affine=np.eye(3), intrinsics=k, path=None, frame=None, pixels=None),
                rests_on="model",
            )
            for index in range(views)
        ]
    )


def write(folder: Path, files: dict[str, str], **options) -> None:
    with written.fresh_directory(folder, what="thing", **options) as draft:
        for name, text in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    """Every visible file and what it holds."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_text(errors="replace") for path in paths}
    return {name: text for name, text in named.items() if not name.startswith(".manyview")}


OLD, NEW = {"a": "old", "b/c": "old", "b/gone": "old"}, {"a": "new", "b/c": "new", "b/more": "new"}
MINE = {"notes.txt": "mine", "b/mine": "mine"}


class Stopped(BaseException):
    """A kill."""


@pytest.fixture
def stop(monkeypatch):
    """Stop at the n-th rename from now on; `stop(None)` lets everything pass again."""

    def at(number: int | None) -> None:
        monkeypatch.undo()
        calls = iter(range(1, 1000))
        for name in ("replace", "rename"):
            real = getattr(os, name)

            def patched(source, target, *, _real=real):
                if number is not None and next(calls) >= number:
                    raise Stopped
                return _real(source, target)

            monkeypatch.setattr(os, name, patched)

    yield at
    monkeypatch.undo()


@pytest.mark.parametrize("number", range(1, 7))
def test_a_kill_at_any_rename_leaves_the_old_or_the_new_and_everything_of_the_user(tmp_path, stop, number):
    write(tmp_path, OLD)
    for name, text in MINE.items():
        (tmp_path / name).write_text(text)
    stop(number)
    try:
        write(tmp_path, NEW)
        assert number > 5  # NEXT, three files, the record
    except Stopped:
        pass
    stop(None)
    assert content(tmp_path).items() >= MINE.items()
    written.settle(tmp_path)
    assert content(tmp_path) in ({**OLD, **MINE}, {**NEW, **MINE})
    write(tmp_path, NEW)
    assert content(tmp_path) == {**NEW, **MINE}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [written.RECORD]


@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_a_scene_whose_saving_was_killed_is_the_old_or_the_new_when_it_is_read(tmp_path, stop, number):
    scene_of(1).save(tmp_path / "s")
    (tmp_path / "s/images/mine.png").write_bytes(b"mine")
    stop(number)
    with pytest.raises(Stopped):
        scene_of(2, views=3).save(tmp_path / "s")
    stop(None)
    read = Scene.load(tmp_path / "s")
    values = {(len(read), *np.unique(view.depth), *np.unique(view.image)) for view in read.views}
    assert values in ({(2, 1, 1)}, {(3, 2, 2)})
    assert (tmp_path / "s/images/mine.png").read_bytes() == b"mine"
    scene_of(3, views=1).save(tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s/images").iterdir()) == ["0000.png", "mine.png"]


@pytest.mark.parametrize("to", ["colmap", "nerfstudio"])
def test_an_export_keeps_what_the_user_added_and_refuses_to_replace_what_he_changed(tmp_path, to):
    scene, out = scene_of(4), tmp_path / "out"
    scene.export(out, to=to, size="model")
    (out / "sparse/1").mkdir(parents=True)
    (out / "sparse/1/points3D.txt").write_text("refined by me")
    (out / "images/extra.jpg").write_bytes(b"a photo of mine")
    scene.export(out, to=to, size="model")
    assert (out / "sparse/1/points3D.txt").read_text() == "refined by me"
    assert (out / "images/extra.jpg").read_bytes() == b"a photo of mine"
    refined = out / ("sparse/0/points3D.txt" if to == "colmap" else "transforms.json")
    refined.write_text("refined by me")
    with pytest.raises(UserError, match=f"{refined.name} was changed since it was written; .*--overwrite"):
        scene.export(out, to=to, size="model")
    assert refined.read_text() == "refined by me"
    scene.export(out, to=to, size="model", overwrite=True)
    assert refined.read_text() != "refined by me"


def test_a_second_model_of_colmap_meets_one_of_the_users(tmp_path):
    scene = scene_of(4)
    scene.export(tmp_path, to="colmap", size="model")
    (tmp_path / "sparse/1").mkdir()
    (tmp_path / "sparse/1/cameras.txt").write_text("mine")
    scene.views[1].component = 1
    with pytest.raises(UserError, match=r"sparse/1/cameras.txt is there and was not written by this program"):
        scene.export(tmp_path, to="colmap", size="model")
    assert (tmp_path / "sparse/1/cameras.txt").read_text() == "mine"


def test_photos_beside_no_export_of_ours_stay(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.png").write_bytes(b"a photo of mine")
    with pytest.raises(UserError, match=r"not empty \(images\) and holds no COLMAP export of ours; .*--overwrite"):
        scene_of(4).export(tmp_path, to="colmap", size="model")
    assert (tmp_path / "images/0.png").read_bytes() == b"a photo of mine"


def test_a_link_stays_a_link_and_the_current_folder_the_same(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    number = (tmp_path / "real").stat().st_ino
    write(tmp_path / "link", OLD)
    monkeypatch.chdir(tmp_path / "real")
    write(Path("."), NEW)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_ino == number
    assert content(tmp_path / "real") == NEW
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
    (tmp_path / "b.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    with fresh_file(tmp_path / "a.txt") as draft:
        draft.write_text("new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "b.txt").read_text() == "new"


def test_a_link_inside_the_folder_leads_nowhere_else(tmp_path):
    """Neither a link of the user's nor a record that came with the files reaches out of the folder."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/c").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").symlink_to(tmp_path / "photos")
    with pytest.raises(UserError, match="leads out of"):
        write(tmp_path / "out", OLD, overwrite=True)
    known = written.digest(tmp_path / "photos/c")
    record = {"thing": {"b/c": known, "../photos/c": known}}
    (tmp_path / "out" / written.RECORD).write_text(json.dumps(record))
    assert written.read(tmp_path / "out") == {"thing": {}}
    write(tmp_path / "out", {"a": "new"})
    assert (tmp_path / "photos/c").read_text() == "mine"


def test_a_failed_work_leaves_no_folder_and_a_killed_one_is_cleaned_by_the_next(tmp_path):
    with pytest.raises(ZeroDivisionError), written.fresh_directory(tmp_path / "a/b", what="thing"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    killed = draft_name("folder").rpartition(".")[0] + ".999999999"
    (tmp_path / killed).mkdir()
    (tmp_path / draft_name("alive")).write_text("half")
    (tmp_path / ".mine.123.tmp").write_text("mine")
    clear_drafts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([draft_name("alive"), ".mine.123.tmp"])


@pytest.mark.parametrize("words", [("--to", "ply"), ("--to", "glb")])
def test_a_single_file_is_replaced_only_when_it_is_as_we_wrote_it(tmp_path, capsys, words):
    scene_of(3).save(tmp_path / "s")
    place = tmp_path / f"cloud.{words[1]}"
    line = ["export", str(tmp_path / "s"), *words, "-o", str(place)]
    assert main(line) == main(line) == 0
    place.write_text("edited by me")
    assert main(line) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert place.read_text() == "edited by me"
    assert main([*line, "--overwrite"]) == 0
    assert place.stat().st_size > 100


def test_a_manifest_replaces_no_file_of_another_program(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "photos/a.png")
    place = tmp_path / "thesis.tex"
    place.write_text("years")
    line = ["data", "scan", str(tmp_path / "photos"), "--format", "folder", "-o"]
    assert main([*line, str(place)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert place.read_text() == "years"
    assert main([*line, str(tmp_path / "m.parquet")]) == main([*line, str(tmp_path / "m.parquet")]) == 0


def too_deep(root: Path) -> Path:
    (root / "afile").write_text("")
    return root / "afile/scene"


def looping(root: Path) -> Path:
    (root / "x").symlink_to(root / "y")
    (root / "y").symlink_to(root / "x")
    return root / "x/scene"


def too_long(root: Path) -> Path:
    return root / ("n" * 300)


@pytest.mark.parametrize("make", [too_deep, looping, too_long])
@pytest.mark.parametrize(
    "words",
    [
        ("reconstruct", "none.jpg"),
        ("features", "none.jpg", "--model", "manyview-tiny"),
        ("export", "none", "--to", "ply"),
        ("data", "synth"),
        ("data", "scan", "none", "--format", "folder"),
        ("eval", "linear-depth", "--model", "none", "--data", "none.parquet"),
        ("convert", "none.pth", "--arch", "dust3r-vitl16-224"),
        ("cache", "build", "none.parquet", "--teacher", "sensor"),
        ("train", "distill3r", "--cache", "none"),
        ("onnx", "none"),
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path, capsys, make, words):
    place = str(make(tmp_path))
    out = [place] if words[:2] == ("data", "synth") else ["-o", place]
    assert main([*words, *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write to" in line
    assert line.endswith("choose another place with -o")


def test_what_is_wrong_with_what_was_written_is_named(tmp_path):
    write(tmp_path, OLD)
    assert written.changed(tmp_path, "thing") == []
    (tmp_path / "b/c").write_text("0ld")
    (tmp_path / "a").unlink()
    assert written.changed(tmp_path, "thing") == ["a", "b/c"]
    shutil.rmtree(tmp_path / "b")
    assert written.changed(tmp_path, "thing") == ["a", "b/c", "b/gone"]


@pytest.fixture
def student():
    from manyview import zoo

    return zoo.build("manyview-tiny", size="debug", seed=0)


@pytest.mark.parametrize("number", range(1, 6))
def test_a_model_whose_writing_was_killed_is_the_old_or_the_new(tmp_path, student, stop, number):
    from manyview import zoo

    zoo.save_model(student, tmp_path, {"name": "old"})
    (tmp_path / "mine.txt").write_text("mine")
    stop(number)
    with pytest.raises(Stopped):
        zoo.save_model(student, tmp_path, {"name": "new"}, half=True)
    stop(None)
    found = (zoo.load(tmp_path, verify=True).card["name"], (tmp_path / "model.safetensors").stat().st_size)
    again = [zoo.save_model(student, tmp_path / name, half=half) for name, half in (("o", False), ("n", True))]
    sizes = [(path / "model.safetensors").stat().st_size for path in again]
    assert found in (("old", sizes[0]), ("new", sizes[1]))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_conversion_replaces_nothing_of_a_project(tmp_path, monkeypatch, capsys):
    project = tmp_path / "project"
    project.mkdir()
    (project / "README.md").write_text("my project")
    (project / "model.safetensors").write_text("my weights")
    before = content(project)
    monkeypatch.chdir(project)
    for source in ("model.safetensors", "."):
        assert main(["convert", source, "--arch", "manyview-tiny", "-o", "."]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert content(project) == before


def test_every_flipped_bit_of_a_scene_and_a_model_is_found_by_verify(tmp_path, student):
    from manyview import zoo

    scene_of(1).save(tmp_path / "s")
    zoo.save_model(student, tmp_path / "m")
    draw = np.random.default_rng(0)
    for folder, load in ((tmp_path / "s", Scene.load), (tmp_path / "m", zoo.load)):
        load(folder, verify=True)
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != written.RECORD):
            whole = path.read_bytes()
            flipped = bytearray(whole)
            flipped[draw.integers(len(whole))] ^= 1 << int(draw.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(UserError, match=f"{path.name} is not as it was written"):
                load(folder, verify=True)
            path.write_bytes(whole)
    (tmp_path / "s" / written.RECORD).unlink()
    with pytest.raises(UserError, match="carries no digests"):
        Scene.load(tmp_path / "s", verify=True)


@pytest.mark.parametrize("name", ["manyview-tiny", "manyview-small"])
def test_the_bundled_models_are_as_they_were_written(name):
    from manyview.zoo.models import ASSETS

    assert written.changed(ASSETS / name, "model") == []
    written.refuse_changed(ASSETS / name, "model")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_file_that_is_added_to_a_work_is_ours_wherever_it_was_stopped(tmp_path, stop, number):
    def put(text: str) -> None:
        written.add(tmp_path, "thing", "report.html", lambda draft: draft.write_text(text))

    write(tmp_path, OLD)
    put("old")
    stop(number)
    try:
        put("new")
        assert number == 3 + 1  # the record, the file, the record
    except Stopped:
        pass
    stop(None)
    assert (tmp_path / "report.html").read_text() in ("old", "new")
    write(tmp_path, NEW)
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"report.html is there and was not written by this program"):
        put("newer")
    assert (tmp_path / "report.html").read_text() == "mine"
