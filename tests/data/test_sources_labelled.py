"""Data sets for segmentation in their official layouts: ADE20K, Cityscapes, ScanNet's labels, NYU Depth v2."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from manyview.batches.pictures import PictureBatches, PictureWish
from manyview.cli.main import main
from manyview.data.depths import read_depth
from manyview.data.loading import read_classes
from manyview.data.manifest import Manifest
from manyview.data.sources import ScanOptions, scan
from manyview.data.sources.labelled import ScannetOptions
from manyview.data.sources.nyuv2 import NyuOptions
from manyview.errors import UserError
from manyview.images.reading import ImageProblem, read_image
from manyview.recipes.dense import DenseConfig
from official_layouts import CAM2WORLD, SIZE, map16, picture, text


def numbers(path, values, dtype=np.uint8):
    """A label file with one row of pixels per stored number, as large as the pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.resize(np.asarray(values, dtype), SIZE[1])
    Image.fromarray(np.repeat(rows[:, None], SIZE[0], 1)).save(path)
    return path


def classes_of(manifest, index=0):
    """Stored number of a row of pixels -> its class."""
    return read_classes(manifest, manifest[index].labels)[:, 0].tolist()


def ade20k(root):
    for split, stem in (("training", "ADE_train"), ("validation", "ADE_val")):
        for i in (1, 2):
            picture(root / "images" / split / f"{stem}_{i:08d}.jpg")
            numbers(root / "annotations" / split / f"{stem}_{i:08d}.png", [0, 1, 2, 150])
    rows = [f"{i}\t0.1\t9\t1\tname {i}, other name" for i in range(1, 151)]
    text(root / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", *rows)


def test_ade20k(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    ade20k(root)
    for src in (root, tmp_path):
        manifest, problems = scan(src, format="ade20k")
        assert problems == []
        assert [(f.split, f.frame) for f in manifest.frames] == [
            ("training", "ADE_train_00000001"),
            ("training", "ADE_train_00000002"),
            ("validation", "ADE_val_00000001"),
            ("validation", "ADE_val_00000002"),
        ]
        assert len(manifest.scenes()) == 4
        assert classes_of(manifest)[:4] == [-1, 0, 1, 149]
    assert len(manifest.info["classes"]) == 150
    assert manifest.info["classes"][1] == "name 2"
    assert set(np.unique(read_classes(manifest, manifest[0].labels)).tolist()) == {-1, 0, 1, 149}
    (root / "objectInfo150.txt").write_text("Idx\n1\ta\n")
    manifest, problems = scan(root, format="ade20k")
    assert [p.path for p in problems] == ["objectInfo150.txt"]
    assert manifest.info["classes"][0] == "class 1"


def test_what_is_missing_or_damaged_is_listed(tmp_path):
    ade20k(tmp_path)
    pictures, labels = tmp_path / "images" / "training", tmp_path / "annotations" / "training"
    (labels / "ADE_train_00000001.png").unlink()
    whole = picture(pictures / "ADE_train_00000002.jpg", (320, 240)).read_bytes()
    (pictures / "ADE_train_00000002.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (SIZE[1], SIZE[0])).save(tmp_path / "annotations" / "validation" / "ADE_val_00000001.png")
    (tmp_path / "annotations" / "validation" / "ADE_val_00000002.png").write_bytes(b"\x89PNG")
    manifest, problems = scan(tmp_path, format="ade20k")
    reasons = {p.path.split("/")[-1]: p.reason for p in problems}
    assert reasons["ADE_train_00000001.png"] == "no such file"
    assert "truncated" in reasons["ADE_train_00000002.jpg"]
    assert "another aspect" in reasons["ADE_val_00000001.png"]
    assert "damaged" in reasons["ADE_val_00000002.png"]
    assert [frame.labels for frame in manifest.frames] == [None] * 3
    with pytest.raises(UserError, match="no usable frame"):
        scan(tmp_path, format="ade20k", options=ScanOptions(skip_bad=True))


def test_a_label_file_that_is_cut_off_is_named_when_it_is_read(tmp_path):
    ade20k(tmp_path)
    manifest, _ = scan(tmp_path, format="ade20k")
    file = manifest.path(manifest[0].labels)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ImageProblem, match="label map") as caught:
        classes_of(manifest)
    assert "\n" not in str(caught.value)


def test_cityscapes(tmp_path):
    stored = [0, 7, 8, 9, 11, 26, 33, 34, 255]
    for split, city in (("train", "aachen"), ("val", "lindau"), ("test", "berlin"), ("train_extra", "bonn")):
        for i in (19, 20):
            name = f"{city}_000000_0000{i}"
            picture(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            if split != "train_extra":
                numbers(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", stored)
    manifest, problems = scan(tmp_path, format="cityscapes")
    assert problems == []
    known = {f.scene: (f.split, f.labels is not None) for f in manifest.frames}
    assert known == {
        "aachen": ("train", True),
        "lindau": ("val", True),
        "berlin": ("test", False),
        "bonn": ("train_extra", False),
    }
    first = next(i for i, frame in enumerate(manifest.frames) if frame.scene == "lindau")
    assert manifest[first].frame == "lindau_000000_000019"
    assert classes_of(manifest, first)[:9] == [-1, 0, 1, -1, 2, 13, 18, -1, -1]
    assert len(manifest.info["classes"]) == 19
    assert manifest.info["classes"][13] == "car"
    (tmp_path / "gtFine" / "train" / "aachen" / "aachen_000000_000020_gtFine_labelIds.png").unlink()
    _, problems = scan(tmp_path, format="cityscapes")
    assert [p.reason for p in problems] == ["no such file"]


INTRINSIC = [[1170.0, 0, 648, 0], [0, 1170, 484, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def scannet(root):
    for scene in ("scene0000_00", "scene0001_00"):
        for i in (0, 20):
            picture(root / "scans" / scene / "color" / f"{i}.jpg")
            text(root / "scans" / scene / "pose" / f"{i}.txt", *CAM2WORLD[0])
            numbers(root / "scans" / scene / "label-filt" / f"{i}.png", [0, 1, 2, 1163, 9000], np.uint16)
        text(root / "scans" / scene / "intrinsic" / "intrinsic_color.txt", *INTRINSIC)
    rows = ["id\traw_category\tnyu40id", "1\twall\t1", "2\tblinds\t13", "1163\tottoman\t39", "7\tthing\t40"]
    text(root / "scannetv2-labels.combined.tsv", *rows)
    text(root / "scannetv2_val.txt", "scene0001_00")


def test_scannets_labels(tmp_path):
    scannet(tmp_path)
    manifest, problems = scan(tmp_path / "scans", format="scannet")
    assert problems == []
    assert [frame.split for frame in manifest.frames] == ["", "", "val", "val"]
    assert classes_of(manifest)[:5] == [-1, 0, -1, 19, -1]  # blinds are none of the twenty
    assert (len(manifest.info["classes"]), manifest.info["classes"][19]) == (20, "other furniture")
    all_of, _ = scan(tmp_path / "scans", format="scannet", options=ScannetOptions(classes=40))
    assert classes_of(all_of)[:5] == [-1, 0, 12, 38, -1]
    assert len(all_of.info["classes"]) == 40
    with pytest.raises(UserError, match="--classes 13"):
        scan(tmp_path / "scans", format="scannet", options=ScannetOptions(classes=13))
    assert (all_of.info["classes"][12], all_of.info["classes"][39]) == ("blinds", "other objects")
    assert {frame.instances for frame in all_of.frames} == {None}
    for i in (0, 20):
        numbers(tmp_path / "scans" / "scene0000_00" / "instance-filt" / f"{i}.png", [0, 3, 7])
    found, problems = scan(tmp_path / "scans", format="scannet")
    assert problems == []
    names = [frame.instances and frame.instances.rpartition("/")[2] for frame in found.frames]
    assert names == ["0.png", "20.png", None, None]
    (tmp_path / "scannetv2-labels.combined.tsv").unlink()
    manifest, problems = scan(tmp_path / "scans", format="scannet")
    assert ["labels are left out" in p.reason for p in problems] == [True]
    assert {frame.labels for frame in manifest.frames} == {None}


def nyuv2(folder, *, splits=True, frames=3):
    h5py = pytest.importorskip("h5py", reason="NYU Depth v2 is an HDF5 file")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)  # N, H, W, 3
    labels = np.resize(np.array([0, 1, 2, 894], np.uint16), (frames, 48, 64))
    depth = rng.uniform(0.7, 9, (frames, 48, 64)).astype(np.float32)
    raw = np.where(labels == 0, 0, depth)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        for name, maps in (("depths", depth), ("rawDepths", raw), ("labels", labels)):
            file[name] = maps.transpose(0, 2, 1)
        names = []
        for i in range(frames):
            file[f"#refs#/{i}"] = np.array([[ord(c)] for c in f"kitchen_{i // 2:04d}"], np.uint16)
            names.append(file[f"#refs#/{i}"].ref)
        file["scenes"] = np.array([names], h5py.ref_dtype)
    to40 = np.full(894, 40)
    to40[:2] = 5, 0
    savemat(folder / "classMapping40.mat", {"mapClass": to40[None]})
    to13 = np.full((1, 40), 7)
    to13[0, 4] = 4
    savemat(folder / "class13Mapping.mat", {"classMapping13": {"labels13": to13, "className": ["a"] * 13}})
    if splits:
        savemat(folder / "splits.mat", {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[3]])})
    return images, raw


def test_nyuv2_labelled_frames(tmp_path):
    images, raw = nyuv2(tmp_path / "nyu")
    out = tmp_path / "m" / "nyu.parquet"
    assert main(["data", "scan", str(tmp_path / "nyu"), "--format", "nyuv2", "-o", str(out)]) == 0
    manifest = Manifest.load(out)
    assert [(f.scene, f.frame, f.split) for f in manifest.frames] == [
        ("kitchen_0000", "0001", "train"),
        ("kitchen_0000", "0002", "train"),
        ("kitchen_0001", "0003", "test"),
    ]
    assert np.array_equal(read_image(manifest.path(manifest[2].image)), images[2])
    depth = read_depth(manifest.path(manifest[1].depth), manifest[1].depth_scale)
    assert np.abs(depth - raw[1]).max() < 0.00051
    assert read_classes(manifest, manifest[0].labels)[0, :4].tolist() == [-1, 4, -1, 39]
    assert len(manifest.info["classes"]) == 40


def test_nyuv2s_lists_of_classes(tmp_path):
    nyuv2(tmp_path / "nyu", splits=False)
    where = {"extract_to": tmp_path / "m_frames"}
    found = {}
    for count in (40, 13, 894):
        manifest, problems = scan(
            tmp_path / "nyu", format="nyuv2", options=NyuOptions(classes=count, max_frames=1, **where)
        )
        assert [p.path for p in problems] == ["splits.mat"]
        assert len(manifest.info["classes"]) == count
        found[count] = read_classes(manifest, manifest[0].labels)[0, :4].tolist()
    assert found == {40: [-1, 4, -1, 39], 13: [-1, 3, -1, 6], 894: [-1, 0, 1, 893]}
    (tmp_path / "nyu" / "class13Mapping.mat").unlink()
    for count, why in ((13, "class13Mapping.mat beside"), (7, "40, 13 or 894")):
        with pytest.raises(UserError, match=why):
            scan(tmp_path / "nyu", format="nyuv2", options=NyuOptions(classes=count, **where))
    (tmp_path / "nyu" / "classMapping40.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(UserError, match="MATLAB file") as caught:
        scan(tmp_path / "nyu", format="nyuv2", options=ScanOptions(**where))
    assert "\n" not in str(caught.value)


def test_nyuv2_goes_on_and_refuses_damaged_files(tmp_path):
    h5py = pytest.importorskip("h5py", reason="NYU Depth v2 is an HDF5 file")
    nyuv2(tmp_path / "nyu")
    options = ScanOptions(extract_to=tmp_path / "m_frames")
    scan(tmp_path / "nyu", format="nyuv2", options=options)
    kept = tmp_path / "m_frames" / "images" / "0001.png"
    (tmp_path / "m_frames" / "images" / "0002.png").unlink()
    before = kept.stat().st_mtime_ns
    scan(tmp_path / "nyu", format="nyuv2", options=options)
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "m_frames" / "images" / "0002.png").is_file()
    file = tmp_path / "nyu" / "nyu_depth_v2_labeled.mat"
    with h5py.File(file, "a") as stored:
        labels = stored["labels"][:, :, :40]
        del stored["labels"]
        stored["labels"] = labels
    with pytest.raises(UserError, match="no usable frame"):
        scan(tmp_path / "nyu", format="nyuv2", options=options)
    with h5py.File(file, "a") as stored:
        del stored["labels"]
    whole = file.read_bytes()
    for content in (whole, whole[: len(whole) // 2], b"MATLAB 5.0"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="download it again") as caught:
            scan(tmp_path / "nyu", format="nyuv2", options=options)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="need a place"):
        scan(tmp_path / "nyu", format="nyuv2")


def test_nyuv2_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    text(tmp_path / "nyu_depth_v2_labeled.mat", "MATLAB 7.3")
    options = NyuOptions(extract_to=tmp_path / "m_frames", classes=894)
    with pytest.raises(UserError, match=r"manyview\[datasets\]"):
        scan(tmp_path, format="nyuv2", options=options)


def test_nyuv2_folders_of_synchronised_frames(tmp_path):
    for scene in ("train/kitchen_0004", "train/kitchen_0005", "test/bathroom"):
        for i in (0, 1):
            picture(tmp_path / scene / f"rgb_{i:05d}.jpg")
            map16(tmp_path / scene / f"sync_depth_{i:05d}.png", 2500)
    (tmp_path / "test" / "bathroom" / "sync_depth_00001.png").unlink()
    manifest, problems = scan(tmp_path, format="nyuv2")
    assert [p.path for p in problems] == ["test/bathroom/sync_depth_00001.png"]
    assert list(manifest.scenes()) == ["test/bathroom", "train/kitchen_0004", "train/kitchen_0005"]
    assert {frame.split for frame in manifest.frames} == {"train", "test"}
    frame = manifest.frames[-1]
    assert read_depth(manifest.path(frame.depth), frame.depth_scale).mean() == pytest.approx(2.5)


def test_what_is_learned_from_labels_sees_the_classes(tmp_path):
    ade20k(tmp_path)
    manifest, _ = scan(tmp_path, format="ade20k", options=ScanOptions(max_frames=2))
    wish = PictureWish(target="labels", batch=2, size=(16, 16), augmentation=DenseConfig().augmentation)
    images = PictureBatches([manifest], wish)
    assert set(images(0).signals["labels"].value.unique().tolist()) <= {-1, 0, 1, 149}
