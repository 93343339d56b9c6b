"""`manyview features --compare` and `--attention` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyview import zoo
from manyview.cli.features import parse_teachers
from manyview.cli.main import main


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A DUNE of two teachers, one of those, an encoder with neither."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "student": zoo.build("dune-vits14-336", size="debug", seed=0),
        "teacher": zoo.build("dinov2-vits14", size="debug", seed=1, dim=16, patch_size=16),
        "plain": zoo.build("dinov2-vits14", size="debug", seed=2),
    }
    card = {"licence": "CC BY-NC"}
    return {name: str(zoo.save_model(model, folder / name, card)) for name, model in made.items()}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        values = np.random.default_rng(index).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((80, 60)).save(folder / f"{index}.jpg")
    return folder


def words(photos, model, out, *more):
    return ["features", str(photos), "--model", model, "-o", str(out), "--size", "56", *more]


def test_both_pictures_are_written_and_listed(models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    line = words(photos, models["student"], out, "--compare", f"mast3r={models['teacher']}", "--attention", "4")
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "3 photos, axes from 3: compare.png" in printed
    assert "mast3r: cosine" in printed
    assert "photos resized to put its patches of 16 on the model's" in printed
    assert "4 maps per block: attention.png" in printed
    assert f"open {out}/compare.png" in printed
    assert main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [Path(file).relative_to(out).as_posix() for file in report["pictures"]] == [
        "compare.png",
        "attention.png",
        *(f"attention/{i}.jpg.png" for i in range(3)),
    ]
    assert all(Path(file).is_file() for file in report["pictures"])
    assert report["compare"]["teachers"]["mast3r"]["patch"] == 16
    assert report["compare"]["shown"] == ["0.jpg", "1.jpg", "2.jpg"]
    assert report["attention"]["blocks"] == ["last block", "dinov2 projector", "mast3r projector", "multihmr projector"]
    assert Image.open(out / "compare.png").width == 4 * 176 + 5 * 8  # photo, own, teacher, projection


def test_projections_alone_and_own_tokens_alone(models, photos, tmp_path, capsys):
    assert main(words(photos, models["student"], tmp_path / "a", "--compare", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["compare"]["projections"] == ["dinov2", "mast3r", "multihmr"]
    assert report["compare"]["teachers"] == {}
    assert main(words(photos, models["plain"], tmp_path / "b", "--compare", "--attention")) == 0
    printed = capsys.readouterr().out
    assert "no projectors, so only its own tokens" in printed
    assert "9 maps per block" in printed


def test_broken_photos_are_counted_and_left_out(models, photos, tmp_path, capsys):
    (photos / "0.jpg").write_bytes(b"")
    line = words(photos, models["student"], tmp_path / "out", "--compare", "--attention", "2")
    assert main(line) == 0
    captured = capsys.readouterr()
    assert captured.err.count("left out: ") == 1
    assert "2 photos, axes from 2" in captured.out
    assert not (tmp_path / "out" / "attention" / "0.jpg.png").exists()
    for path in photos.iterdir():
        path.write_bytes(b"")
    line[5] = str(tmp_path / "other")
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "no picture could be read" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("plain", ["--compare", "dinov2={teacher}"], "has no projectors, so no teacher"),
        ("student", ["--compare", "sam={teacher}"], "no projector 'sam'; it has dinov2, mast3r, multihmr"),
        ("student", ["--compare", "dinov2={plain}"], "has 8 channels, the projector"),
        ("student", ["--compare", "dinov2=nowhere"], "teacher dinov2: "),
        ("student", ["--compare", "dinov2"], "--compare takes TEACHER=SOURCE"),
        ("student", ["--compare", "dinov2={teacher}", "dinov2={plain}"], "names dinov2 twice"),
        ("student", ["--attention", "0"], "give a number from 1 up"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(models, photos, tmp_path, capsys, model, more, message):
    out = tmp_path / "out"
    assert main(words(photos, models[model], out, *(word.format(**models) for word in more))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_help_teaches_both_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["features", "--help"])
    printed = capsys.readouterr().out
    assert "--compare dinov2=dinov2-vitl14-reg4 mast3r=mast3r-vitl16" in printed
    assert "--attention" in printed
    assert parse_teachers(["dinov2=timm:a=b"]) == {"dinov2": "timm:a=b"}
