"""`manyview data`: what a person sees of a scan, of a manifest and of its problems."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from manyview.cli.main import main
from manyview.data.manifest import Manifest


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("img1", "img2", "img10"):
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(folder / f"{name}.png")
    (folder / "img3.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def scene(photos):
    """The photos with cameras and depth."""
    Image.fromarray(np.full((30, 40), 900, np.uint16)).save(photos / "depth.png")
    known = {"K": [[40, 0, 20], [0, 40, 15], [0, 0, 1]], "cam2world": np.eye(4).tolist(), "depth": "depth.png"}
    frames = [{"file": f"{name}.png", **known} for name in ("img1", "img2", "img10")]
    (photos / "cameras.json").write_text(json.dumps({"frames": frames}))
    return photos


def test_scan_info_check(photos, tmp_path, capsys):
    out = tmp_path / "m.parquet"
    assert main(["data", "scan", str(photos), "--format", "folder", "-o", str(out), "--split", "test"]) == 0
    text = capsys.readouterr().out
    assert "1 file left out:\n  img3.jpg: empty file (0 bytes)" in text
    assert f"wrote {out}: 3 frames, 1 scene, images only" in text
    assert text.splitlines()[-1] == f"next: manyview reconstruct {photos} -o {tmp_path / 'm'}-scene"
    assert [f.frame for f in Manifest.load(out).frames] == ["img1", "img2", "img10"]

    assert main(["data", "info", str(out)]) == 0
    text = capsys.readouterr().out
    assert "3 frames" in text
    assert "40x30" in text
    assert "img3.jpg" in text
    assert "next: manyview data check" in text

    assert main(["data", "check", str(out)]) == 0
    assert "all files of 3 frames can be read" in capsys.readouterr().out
    (photos / "img2.png").write_bytes(b"broken")
    assert main(["data", "check", str(out)]) == 2
    assert "img2.png: not an image of a known format" in capsys.readouterr().out


def test_check_still_lists_when_the_first_file_is_gone(photos, tmp_path, capsys):
    out = str(tmp_path / "m.parquet")
    main(["data", "scan", str(photos), "--format", "folder", "-o", out])
    (photos / "img1.png").unlink()
    capsys.readouterr()
    assert main(["data", "check", out, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"] == [{"path": "img1.png", "reason": "no such file"}]
    assert main(["data", "info", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_posed_depth_points_to_the_cache(scene, tmp_path, capsys):
    out = tmp_path / "m.parquet"
    arguments = ["data", "scan", str(scene), "--format", "manyview", "-o", str(out), "--frames", "0:2"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "2 frames, 1 scene, intrinsics all, pose all, depth all" in text
    assert f"next: manyview cache build {out} --teacher sensor" in text


def test_json_is_one_object(scene, tmp_path, capsys):
    out = str(tmp_path / "m.parquet")
    assert main(["data", "scan", str(scene), "--format", "folder", "-o", out, "--json", "--dataset", "mine"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["frames"], answer["manifest"]) == (4, out)  # depth.png is an image to a plain folder scan
    assert answer["left_out"] == [{"path": "img3.jpg", "reason": "empty file (0 bytes)"}]
    assert main(["data", "info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenes"]["photos"]["dataset"] == "mine"


def test_mistakes_are_one_line_and_keep_the_older_manifest(scene, tmp_path, capsys):
    out = tmp_path / "m.parquet"
    scan = ["data", "scan", str(scene), "-o", str(out), "--format"]
    assert main([*scan, "manyview"]) == 0
    before = out.read_bytes()
    content = json.loads((scene / "cameras.json").read_text())
    content["frames"][1]["cam2world"][0][0] = float("nan")
    (scene / "cameras.json").write_text(json.dumps(content))
    capsys.readouterr()
    for arguments, message in [
        ([*scan, "manyview"], "frame 'img2.png': cam2world has NaN"),
        ([*scan, "colmapp"], "no source format 'colmapp'"),
        ([*scan, "folder", "--frames", "9:"], "no usable frame"),
        ([*scan, "folder", "--stride", "0"], "stride 0"),
        (["data", "info", str(tmp_path / "none.parquet")], "does not exist"),
        (["data", "check", str(scene)], "is a folder"),
    ]:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert out.read_bytes() == before
    assert main([*scan, "manyview", "--skip-bad"]) == 0
    assert len(Manifest.load(out)) == 2
