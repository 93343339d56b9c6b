"""The data sets of MuM's table: cameras, depth and sequences as their official layouts hold them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from manyview.data.loading import load_views
from manyview.data.overlap import groups_of
from manyview.data.sources import ScanOptions, scan
from manyview.data.sources.poses import rigid
from manyview.errors import UserError
from official_layouts import CAM2WORLD, GL, LENS, SIZE, WORLD2CAM, check_cameras, colmap_binary, map16, picture, text


@pytest.fixture
def wild(tmp_path):
    scene = tmp_path / "wild" / "apple" / "scenes" / "scene_007"
    for i in range(3):
        picture(scene / "rgb" / f"{i:05d}.png")
        map16(scene / "depth" / f"{i:05d}.png", 1500)
    text(scene / "cam_poses.txt", *([i, *pose.ravel()] for i, pose in enumerate(CAM2WORLD)))
    text(scene / "metadata", json.dumps({"w": SIZE[0], "h": SIZE[1], "K": LENS.T.ravel().tolist()}))
    return scene


def test_wildrgbd(wild):
    for src in (wild, wild.parents[1], wild.parents[2]):
        manifest, problems = scan(src, format="wildrgbd")
        assert problems == []
        check_cameras(manifest.frames)
    assert list(manifest.scenes()) == ["apple/scene_007"]
    depth = load_views(manifest, [0, 1], (28, 28)).depth
    assert np.allclose(depth, 1.5, atol=1e-6)


def test_wildrgbd_without_its_text_files_and_with_broken_maps(wild):
    (wild / "cam_poses.txt").unlink()
    (wild / "metadata").write_text('{"w": 64}')
    (wild / "depth" / "00001.png").write_bytes(b"no")
    (wild / "depth" / "00002.png").unlink()
    picture(wild / "rgb" / "00003.png").write_bytes(b"")
    manifest, problems = scan(wild, format="wildrgbd")
    assert [frame.depth is not None for frame in manifest.frames] == [True, False, False]
    assert {frame.fx for frame in manifest.frames} == {None}
    reasons = {problem.path: problem.reason for problem in problems}
    assert "KeyError" in reasons["metadata"] or "'K'" in reasons["metadata"]
    assert "no such file" in reasons["cam_poses.txt"]
    assert "damaged" in reasons["depth/00001.png"]
    assert "no such file" in reasons["depth/00002.png"]
    assert "empty" in reasons["rgb/00003.png"]
    strict, _ = scan(wild, format="wildrgbd", options=ScanOptions(skip_bad=True))
    assert [frame.frame for frame in strict.frames] == ["00000"]


def test_a_pose_that_is_no_rotation_leaves_the_frame_without_one(wild):
    lines = [[i, *pose.ravel()] for i, pose in enumerate(CAM2WORLD)]
    lines[0][1] = 7.0
    lines[1][4] = float("-inf")
    text(wild / "cam_poses.txt", *lines)
    manifest, problems = scan(wild, format="wildrgbd")
    assert [frame.pose is not None for frame in manifest.frames] == [False, False, True]
    assert [(p.path, "not rigid" in p.reason) for p in problems] == [("rgb/00000.png", True)]  # -inf: unknown


def test_3dstreetview_regions_in_order_cut_every_24(tmp_path):
    for i in range(60):
        picture(tmp_path / "s" / "0018" / f"0018_{i}_7_{i // 5}.jpg", (8, 8))
    picture(tmp_path / "s" / "0002" / "0002_1_1_1.jpg", (8, 8))
    picture(tmp_path / "s" / "0018" / "overview.jpg", (8, 8))
    manifest, problems = scan(tmp_path / "s", format="3dstreetview")
    assert problems == []
    assert {name: len(rows) for name, rows in manifest.scenes().items()} == {"0002": 1, "0018": 60}
    groups = groups_of(manifest)
    assert [len(group) for group in groups] == [1, 24, 36]
    assert [manifest[i].frame.split("_")[1] for i in groups[1][:3]] == ["0", "1", "2"]


def shots(names, *, size=SIZE, lens=LENS, **more):
    entries = [{"file_path": name, "transform_matrix": (CAM2WORLD[i] @ GL).tolist()} for i, name in enumerate(names)]
    camera = {"w": size[0], "h": size[1], "fl_x": lens[0, 0], "fl_y": lens[1, 1], "cx": lens[0, 2]}
    return {**camera, "cy": lens[1, 2], "camera_model": "OPENCV", "k1": 0.01, "frames": entries, **more}


def test_dl3dv_takes_the_small_images_and_scales_their_cameras(tmp_path):
    for k, scene in enumerate(("1K/abc", "2K/def/nerfstudio")):
        folder = tmp_path / "d" / scene
        names = [f"images/frame_{i + 1:05d}.png" for i in range(3)]
        for name in names:
            picture(folder / name.replace("images", "images_8"))
            if k == 0:
                picture(folder / name, (SIZE[0] * 8, SIZE[1] * 8))
        large = LENS.copy()
        large[:2] *= 8
        text(folder / "transforms.json", json.dumps(shots(names, size=(SIZE[0] * 8, SIZE[1] * 8), lens=large)))
    manifest, problems = scan(tmp_path / "d", format="dl3dv")
    assert problems == []
    assert list(manifest.scenes()) == ["1K/abc", "2K/def"]
    check_cameras(manifest.frames[:3])
    check_cameras(manifest.frames[3:])
    assert "images_8/" in manifest[0].image
    assert manifest.info["distortion"] == "not corrected"


def re10k(folder, stamps, images):
    lines = ["https://www.youtube.com/watch?v=x"]
    for stamp, pose in zip(stamps, WORLD2CAM, strict=True):
        lens = [LENS[0, 0] / SIZE[0], LENS[1, 1] / SIZE[1], LENS[0, 2] / SIZE[0], LENS[1, 2] / SIZE[1]]
        lines.append(" ".join(map(str, [stamp, *lens, 0, 0, *pose[:3].ravel()])))
    text(folder / "train" / "0af3.txt", *lines)
    for stamp in stamps:
        picture(images / f"{stamp}.jpg")


@pytest.mark.parametrize("place", ["train/0af3", "frames/train/0af3", "0af3"])
def test_re10k(tmp_path, place):
    re10k(tmp_path / "r", ("0", "33400000", "100100000"), tmp_path / "r" / place)
    manifest, problems = scan(tmp_path / "r", format="re10k")
    assert problems == []
    check_cameras(manifest.frames)
    assert [(f.scene, f.frame, f.split) for f in manifest.frames][1] == ("0af3", "33400000", "train")


def test_re10k_with_a_damaged_list_and_frames_nobody_lists(tmp_path):
    folder = tmp_path / "r"
    re10k(folder, ("1", "2", "3"), folder / "train" / "0af3")
    picture(folder / "train" / "0af3" / "4.jpg")
    manifest, problems = scan(folder, format="re10k")
    assert problems == []
    assert [frame.pose is not None for frame in manifest.frames] == [True, True, True, False]
    text(folder / "train" / "0af3.txt", "https://x", "1 0.5 0.5 0.5 0.5 0 0 1 0 0")
    manifest, problems = scan(folder, format="re10k")
    assert len(manifest) == 4
    assert ["10 words, not 19" in problem.reason for problem in problems] == [True]
    with pytest.raises(UserError, match=r"no CLIP\.txt with a CLIP folder"):
        scan(folder / "train" / "0af3", format="re10k")


def test_imagenet_images_are_scenes_of_their_own(tmp_path):
    for name in ("train/n01440764/n01440764_10.JPEG", "train/n02/n02_1.JPEG", "val/n02/ILSVRC_2.JPEG"):
        picture(tmp_path / "i" / name, (9, 7))
    (tmp_path / "i" / "train" / "n02" / "n02_9.JPEG").write_bytes(b"\xff\xd8")
    manifest, problems = scan(tmp_path / "i", format="imagenet")
    assert [(f.scene, f.frame, f.split) for f in manifest.frames] == [
        ("train/n02/n02_1", "n02_1", "train"),
        ("train/n01440764/n01440764_10", "n01440764_10", "train"),
        ("val/n02/ILSVRC_2", "ILSVRC_2", "val"),
    ]
    assert [p.path for p in problems] == ["train/n02/n02_9.JPEG"]
    one, _ = scan(tmp_path / "i" / "train", format="imagenet", options=ScanOptions(max_frames=1))
    assert len(one) == 1
    assert {f.dataset for f in manifest.frames} == {"imagenet"}


def test_megascenes_chains_by_shared_points(tmp_path):
    """Two halves that share no point, each a chain of 24 or more; names are file names only."""
    root = tmp_path / "m"
    names = [f"p{i}.jpg" for i in range(54)]
    for name in names:
        picture(root / "images/001/234/commons/Arch/0/pictures" / name)
    seen = [list(range(100 * (i % 2), 100 * (i % 2) + 60)) for i in range(54)]
    model = root / "reconstruct/001/234/sparses/0"
    turned = Rotation.random(54, rng=0) ** 0.2  # by at most 36 degrees
    world2cam = [*WORLD2CAM, *(rigid(turn, [0, 0, 4]) for turn in turned.as_matrix()[3:])]
    camera = [50.0, 52.0, 33.25, 22.75]
    colmap_binary(model, names, seen, model=1, numbers=camera, world2cam=world2cam)
    colmap_binary(root / "reconstruct/001/234/sparses/1", names[:5], seen, model=1, numbers=[50.0, 52, 33, 22])
    manifest, problems = scan(root, format="megascenes")
    assert problems == []
    assert {name: len(rows) for name, rows in manifest.scenes().items()} == {"001/234": 54}
    check_cameras([manifest.frames[rows] for rows in (0, 1, 2)])
    groups = groups_of(manifest)
    assert groups
    for group in groups:
        assert len({int(manifest[i].frame[1:]) % 2 for i in group}) == 1
        assert len(group) >= 24
        axes = np.stack([manifest[i].pose[:3, 2] for i in group])
        assert (axes[1:] * axes[:-1]).sum(1).max() < np.cos(np.radians(9.9))  # never the same way twice


def test_megascenes_with_a_truncated_model(tmp_path):
    root = tmp_path / "m"
    names = [f"p{i}.jpg" for i in range(12)]
    for name in names:
        picture(root / "images/000/007/commons/A/0/pictures" / name, (8, 6))
    for part in "01":
        colmap_binary(
            root / f"reconstruct/000/007/sparses/{part}", names, [[1, 2]] * 12, model=0, numbers=[9.0, 32, 24]
        )
    broken = root / "reconstruct/000/007/sparses/0/images.bin"
    broken.write_bytes(broken.read_bytes()[:-10])
    manifest, problems = scan(root, format="megascenes")
    assert list(manifest.scenes()) == ["000/007/1"]
    assert len(groups_of(manifest)[0]) == 12  # no chain of 24: the scene stays whole
    assert ["ends in the middle" in problem.reason for problem in problems] == [True]
