"""Every case of the folder of inputs that fail, made as it says, with the right value; skipped without the folder."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import manyview as mv
from manyview import zoo
from manyview.cli.main import main
from manyview.data.loading import load_views
from manyview.images.reading import read_image
from manyview.scene.originals import original_pixels
from manyview.scene.scene import Scene


@pytest.fixture
def case(shared, tmp_path, monkeypatch):
    """Makes a case in the current folder, an empty one."""
    cases = shared / "cases"
    if not cases.is_dir():
        pytest.skip("the folder of real data has no cases")
    monkeypatch.chdir(tmp_path)

    def make(name: str) -> Path:
        script = cases / name / "make.py"
        assert script.is_file(), f"no case {name}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(script)])
            runpy.run_path(str(script))
        return tmp_path / "in"

    make.folder = cases
    return make


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "m"
    zoo.save_model(zoo.build("manyview-tiny", size="debug"), folder)
    return str(folder)


def reconstruct(*words: object, model: str, code: int = 0) -> None:
    line = ["reconstruct", *words, "--model", model, "--cameras", "model", "--no-report"]
    assert main([str(word) for word in line]) == code


def scan(source: Path, layout: str) -> mv.Manifest:
    out = source.parent / f"{source.name}.parquet"
    assert main(["data", "scan", str(source), "--format", layout, "-o", str(out)]) == 0
    return mv.Manifest.load(out)


def test_every_case_has_a_test(case):
    here = Path(__file__).read_text(encoding="utf-8")
    assert [p.name for p in case.folder.iterdir() if p.is_dir() and f'"{p.name}"' not in here] == []


def test_alpha(case, model, tmp_path):
    photos = case("alpha")
    for kind in ("rgba", "la", "palette", "trns"):
        reconstruct(photos / kind, "-o", tmp_path / kind, model=model)
        scene = Scene.load(tmp_path / kind)
        seen = original_pixels(scene[0])
        assert np.array_equal(seen, read_image(photos / kind / "0.png")), kind  # laid on white, as the model saw it
        clear = (seen == 255).all(-1).mean()
        assert clear > 0.2, kind
        assert scene[0].valid.mean() == pytest.approx(1 - clear, abs=0.03), kind  # no points where nothing is


def test_colmap_models(case, capsys):
    models = case("colmap-models")
    frame = scan(models / "SIMPLE_DIVISION", "colmap")[0]
    assert (frame.fx, frame.fy, frame.cx, frame.cy) == (500, 500, 320, 240)
    for name in ("EQUIRECTANGULAR", "binary11"):
        frame = scan(models / name, "colmap")[0]
        assert frame.fx is None
        assert frame.cam2world is not None
        assert "pinhole" in capsys.readouterr().err


def test_colmap_shared_images(case, capsys):
    manifest = scan(case("colmap-shared-images") / "submodels", "colmap")
    assert sorted(Path(frame.image).name for frame in manifest.frames) == ["a.jpg", "b.jpg", "c.jpg"]
    assert "1 of 2 images are taken from sparse/0, which is larger or first" in capsys.readouterr().err


def test_convert_containers(case, tmp_path):
    files = sorted(case("convert-containers").glob("*.pth"))
    assert len(files) == 9
    plain = None
    for path in sorted(files, key=lambda path: path.stem != "plain"):
        loaded = mv.load(zoo.convert(path, "dinov2-vits14", tmp_path / path.stem)).state_dict()
        plain = plain or loaded
        assert all(torch.equal(loaded[key], plain[key]) for key in plain if "mask_token" not in key), path.stem


def test_depth_sentinels(case):
    made = case("depth-sentinels")
    for name, layout, true in (("seven", "manyview", 2.0), ("vk", "vkitti2", 10.0), ("ta", "tartanair", 5.0)):
        depth = load_views(scan(made / name, layout), [0, 1, 2, 3], (42, 56)).depth
        assert sorted(torch.unique(depth).tolist()) == [0.0, true], name
        assert 0.2 < float((depth == 0).float().mean()) < 0.6


def test_masks(case, model, tmp_path, capsys):
    made = case("masks")
    for name in ("white", "alpha_only", "rgba_cutout", "zero_one", "green"):
        reconstruct(made / "photos", "--masks", made / name, "-o", tmp_path / name, model=model)
        kept = np.mean([view.valid.mean() for view in Scene.load(tmp_path / name)])
        assert kept == pytest.approx(0.32, abs=0.03), name
    reconstruct(made / "a", made / "b", "--masks", made / "shared", "-o", tmp_path / "two", model=model)
    for view in Scene.load(tmp_path / "two"):
        assert view.valid.mean() == pytest.approx(0.32, abs=0.03), view.name


def test_one_camera_for_all(case, model, tmp_path, capsys):
    photos = case("one-K-for-all")
    reconstruct(photos, "--intrinsics", "525,525,320,240", "-o", tmp_path / "s", model=model, code=2)
    assert "one camera is given for photos of 3 sizes or orientations" in capsys.readouterr().err
    for camera in ("2100,2100,1280,960", "0.82,1.09,0.5,0.5"):
        reconstruct(photos / "0.jpg", "--intrinsics", camera, "-o", tmp_path / "s", model=model, code=2)
    assert not (tmp_path / "s").exists()


def test_scannet_as_it_is_exported(case):
    manifest = scan(case("scannet-default-export"), "scannet")
    assert all(frame.depth for frame in manifest.frames) or "aspect" in json.dumps(manifest.info)
    assert sum(frame.cam2world is not None for frame in manifest.frames) == 3


def test_single_view(case, model, tmp_path, capsys):
    photos = case("single-view-silence")
    for name in ("pano.jpg", "blank.jpg", "pixel.png"):
        assert main(["reconstruct", str(photos / name), "-o", str(tmp_path / name), "--model", model]) == 0
        assert "warning: " in capsys.readouterr().err, name
        assert "overlap" not in (tmp_path / name / "report.html").read_text(encoding="utf-8")
    assert "twice as wide as high" in json.dumps(Scene.load(tmp_path / "pano.jpg").info["warnings"])


def test_transforms(case):
    made = case("transforms-json")
    frame = scan(made / "blender", "nerfstudio")[0]
    assert frame.fx == pytest.approx(40 / np.tan(0.345), rel=1e-6)
    manifest = scan(made / "depthscale", "nerfstudio")
    assert load_views(manifest, [0], (60, 80)).depth.max() == pytest.approx(1.0, abs=1e-3)
    assert scan(made / "dots", "nerfstudio")[0].image == "images/frame_0.5s.png"


def test_videos_of_variable_rate(case, capsys):
    pytest.importorskip("av", reason="the case is made with av")
    for name in ("vfr.mp4", "vfr.mkv"):
        out = case("vfr-video") / f"{name}.parquet"
        assert main(["data", "scan", f"in/{name}", "--format", "video", "--fps", "1", "-o", str(out)]) == 0
        assert 9 <= len(mv.Manifest.load(out)) <= 11
        assert "cut off" not in capsys.readouterr().err


def test_huge_photo(case, model, tmp_path, capfd):
    reconstruct(case("huge-photo") / "phone200mp.jpg", "-o", tmp_path / "s", model=model)
    scene = Scene.load(tmp_path / "s")
    assert scene[0].source.size == (12240, 16320)
    assert "Bomb" not in capfd.readouterr().err


def test_places_as_people_have_them(case, model, tmp_path, monkeypatch, capsys):
    """The cases "out-folders" and "os-errors", without the mount."""
    photo = case.folder.parent / "data/redkitchen_000_499/images/000000.jpg"
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    reconstruct(photo, "-o", tmp_path / "link", model=model)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/scene.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    reconstruct(photo, "-o", ".", model=model)
    assert os.getcwd() == str(tmp_path / "here")
    assert Path("scene.json").is_file()
    (tmp_path / "afile").touch()
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for place in (tmp_path / "afile/scene", tmp_path / "loop/s", tmp_path / ("x" * 300)):
        capsys.readouterr()
        reconstruct(photo, "-o", place, model=model, code=2)
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting needs root")
def test_a_mounted_folder_and_a_full_disk(case, model, tmp_path, capsys):
    """The cases "disk-full" and "out-folders"."""
    photo = case.folder.parent / "data/redkitchen_000_499/images/000000.jpg"
    place = tmp_path / "m"
    place.mkdir()
    for size, code in (("16m", 0), ("24k", 2)):
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(mounted, capture_output=True).returncode:
            pytest.skip("this machine mounts nothing")
        try:
            reconstruct(photo, "-o", place, model=model, code=code)
            if code:
                said = capsys.readouterr().err.splitlines()[-1]
                kept = re.search(r"no space left on the disk; the scene is kept in (\S+):", said)
                assert kept, said
                assert len(Scene.load(kept[1])) == 1
                shutil.rmtree(kept[1])
            else:
                scene = Scene.load(place)
                scene.export(tmp_path / "whole.ply")
        finally:
            subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)], check=True)
    try:
        scene.save(tmp_path / "s")
        assert main(["export", str(tmp_path / "s"), "-o", str(place / "x.ply")]) == 2
        assert "no space left on the disk" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_one_number_that_is_none(case, tmp_path):
    """The case "dune-one-nan", as it is run there; in small in tests/engine/test_loop.py and tests/teachers."""
    assert main(["data", "synth", "rooms", "--scenes", "4", "--views", "6", "--size", "56x70"]) == 0
    script = case.folder / "dune-one-nan/run.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert "non-finite tensors in the trained student: []" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "project finite: True" in done.stdout
    assert "standardise (eval) finite share: 1.0" in done.stdout
    assert "resumed to 60" in done.stdout
