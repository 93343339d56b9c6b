"""Probes without training: places of surfaces (NAVI, ScanNet-1500) and keypoints (SPair-71k) by the nearest feature."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import nn

from manyview.data.sources import scan
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.pair_lists import listed_pairs
from manyview.evaluation.semantic_correspondence import SemanticCorrespondence
from manyview.evaluation.surface_correspondence import SurfaceCorrespondence
from manyview.models.model import EncodesImages
from manyview.models.vit import EncoderConfig
from manyview.types import Features
from official_layouts import text

SIDE, PATCH, FOCAL = 96, 4, 110.0


@dataclass(frozen=True)
class View:
    image: np.ndarray
    depth: np.ndarray  # metres, 0 off the object
    world2cam: np.ndarray


def board(turn: tuple[float, float, float], width: int = SIDE) -> View:
    """A board of 60 cm whose colours say where on it one looks, seen from a metre away, turned by so many degrees."""
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    world2cam = np.eye(4)
    world2cam[:3, :3], world2cam[2, 3] = rotation, 1.0
    v, u = np.mgrid[:SIDE, :width] + 0.5
    rays = np.stack([(u - width / 2) / FOCAL, (v - SIDE / 2) / FOCAL, np.ones_like(u)], -1)
    depth = rotation[:, 2] @ [0, 0, 1.0] / (rays @ rotation[:, 2])
    place = (rays * depth[..., None] - world2cam[:3, 3]) @ rotation
    on = (np.abs(place[..., :2]) < 0.3).all(-1)
    colour = np.stack([0.5 + place[..., 0] / 0.7, 0.5 + place[..., 1] / 0.7, np.full_like(u, 0.5)], -1)
    picture = np.where(on[..., None], colour, 0.5) * 255
    return View(picture.round().astype(np.uint8), np.where(on, depth, 0), world2cam)


class Colours(nn.Module, EncodesImages):
    """Tokens of which equal ones mean equal colours; of noise when untrained."""

    config = EncoderConfig(dim=16, patch_size=PATCH, image_size=SIDE)

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed, self.blocks = seed, nn.ModuleList()
        self.scale = nn.Parameter(torch.ones(1))

    def untrained(self, seed: int) -> Colours:
        return Colours(seed)

    def encode(self, images, mask=None, norm=True, layers=None) -> Features:
        grid = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        colour = nn.functional.avg_pool2d(images, PATCH).flatten(2).transpose(1, 2)[..., :2]
        angles = torch.cat([colour * 3.14 * k for k in (0.5, 1, 2, 4)], -1)
        tokens = torch.cat([angles.sin(), angles.cos()], -1)
        if self.seed is not None:
            tokens = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(int(images.sum() * 1e3) % 10**6))
        return Features(tokens, None, None, grid)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def navi(root: Path, turns: list[tuple[float, float, float]]) -> Path:
    said, folder = [], root / "dino_bowl" / "wild_set"
    for i, turn in enumerate(turns):
        view = board(turn)
        save(folder / "images" / f"{i:03d}.jpg", view.image)
        Image.fromarray(view.image).save(folder / "images" / f"{i:03d}.jpg", quality=98, subsampling=0)
        inverse = np.where(view.depth > 0, 655350 / np.maximum(view.depth * 1000, 1), 0)
        save(folder / "depth" / f"{i:03d}.png", inverse.round().astype(np.uint16))
        x, y, z, w = Rotation.from_matrix(view.world2cam[:3, :3]).as_quat()
        camera = {"q": [w, x, y, z], "t": (1000 * view.world2cam[:3, 3]).tolist(), "focal_length": FOCAL}
        said.append({"filename": f"{i:03d}.jpg", "split": "val", "image_size": [SIDE, SIDE], "camera": camera})
    (folder / "annotations.json").write_text(json.dumps(said))
    return root


TURNS = [(0.0, 0, 0), (0, 20, 0), (15, 0, 5), (0, -25, 10)]


def rows_of(summary: dict) -> dict[str, dict]:
    return {row["method"]: row for row in summary["rows"]}


def test_navi_from_its_folders_colours_that_say_the_place_find_it_and_noise_does_not(tmp_path):
    data, problems = scan(navi(tmp_path / "navi", TURNS), format="navi")
    assert problems == []
    assert (data[0].scene, data[0].split) == ("dino_bowl/wild_set", "test")
    protocol = SurfaceCorrespondence(every=1, matches=200, reduce=2)
    summary = evaluate(protocol, Colours(), data, tmp_path / "o")
    rows = rows_of(summary)
    assert (summary["pairs"], summary["skipped"]) == (4, {})
    assert rows["model"]["within_2cm"] > 0.85
    assert rows["model"]["within_5cm"] > 0.97
    assert max(rows[name]["within_2cm"] for name in ("untrained", "noise")) < 0.1
    assert summary["by_angle"]["model"]["within_2cm"][-1] is None  # no pair is turned by 120 degrees
    cropped = rows_of(
        evaluate(SurfaceCorrespondence(every=1, reduce=2, crop="object"), Colours(), data, tmp_path / "c")
    )
    assert cropped["model"]["within_5cm"] > 0.9


def test_navi_s_own_list_of_pairs_and_collections_of_both_versions(tmp_path):
    root = navi(tmp_path / "navi", TURNS)
    (root / "dino_bowl" / "wild_set").rename(root / "dino_bowl" / "multiview-00-pixel_5")
    data, _ = scan(root, format="navi")
    assert {(frame.scene, frame.split) for frame in data.frames} == {("dino_bowl/multiview-00-pixel_5", "train")}
    name = "dino_bowl/multiview-00-pixel_5/images/{:03d}.jpg"
    listed = text(tmp_path / "pairs-multiview.txt", f"{name.format(1)} {name.format(3)} 45.0")
    assert listed_pairs(listed, data) == [(1, 3)]


def test_a_wrong_camera_is_noticed(tmp_path):
    root = navi(tmp_path / "navi", TURNS)
    file = root / "dino_bowl" / "wild_set" / "annotations.json"
    said = json.loads(file.read_text())
    for number, entry in enumerate(said):
        entry["camera"]["t"][0] += 60 * number  # millimetres
    file.write_text(json.dumps(said))
    data, _ = scan(root, format="navi")
    rows = rows_of(evaluate(SurfaceCorrespondence(every=1, reduce=2), Colours(), data, tmp_path / "o"))
    assert rows["model"]["within_2cm"] < 0.1


def scannet_1500(root: Path) -> Path:
    """As LoFTR publishes it: scenes, test.npz and intrinsics.npz."""
    for i, turn in enumerate(TURNS):
        view = board(turn, width=128)
        scene = root / "scene0707_00"
        save(scene / "color" / f"{15 * i}.jpg", view.image)
        save(scene / "depth" / f"{15 * i}.png", (1000 * view.depth).round().astype(np.uint16))
        text(scene / "pose" / f"{15 * i}.txt", *np.linalg.inv(view.world2cam))
    lens = np.array([[FOCAL * 5, 0, 320], [0, FOCAL * 5, 240], [0, 0, 1]])
    np.savez(root / "intrinsics.npz", scene0707_00=lens)
    np.savez(root / "test.npz", name=np.array([[707, 0, 0, 15], [707, 0, 45, 30]]))
    return root


def test_scannet_1500_with_loftr_s_list(tmp_path):
    root = scannet_1500(tmp_path / "scannet_test_1500")
    data, _ = scan(root, format="scannet")
    assert listed_pairs(root / "test.npz", data) == [(0, 1), (3, 2)]
    super_glue = "scans_test/scene0707_00/sens/frame-{:06d}.color.jpg"
    listed = text(tmp_path / "pairs.txt", f"{super_glue.format(0)} {super_glue.format(30)} 0 0 1 2 3")
    assert listed_pairs(listed, data) == [(0, 2)]
    protocol = SurfaceCorrespondence(pair_list=str(root / "test.npz"), reduce=2)
    rows = rows_of(evaluate(protocol, Colours(), data, tmp_path / "o"))
    assert rows["model"]["pairs"] == 2
    assert rows["model"]["within_5px"] > 0.9
    assert rows["noise"]["within_5px"] < 0.1


def test_bad_lists_are_one_line(tmp_path):
    data, _ = scan(scannet_1500(tmp_path / "s"), format="scannet")
    pickled = tmp_path / "0015_0.1_0.3.npz"
    np.savez(pickled, pair_infos=np.array([((0, 1), 0.3)], object))
    cases = {
        str(
            text(tmp_path / "gone.txt", "a.jpg b.jpg", "color/0.jpg color/15.jpg")
        ): "1 of 2 pairs .* first a.jpg; scan",
        str(text(tmp_path / "one.txt", "a.jpg")): "line 1 names one image",
        str(text(tmp_path / "none.txt", "# nothing")): "holds no pair",
        str(tmp_path / "missing.txt"): "no list of pairs at",
        str(pickled): "pickled objects, which are not run",
    }
    for path, said in cases.items():
        with pytest.raises(UserError, match=said) as caught:
            listed_pairs(Path(path), data)
        assert "\n" not in str(caught.value)


def test_a_grid_that_does_not_fit_and_frames_without_partners_are_one_line(tmp_path):
    data, _ = scan(navi(tmp_path / "navi", TURNS[:1]), format="navi")
    with pytest.raises(UserError, match="no frame has a partner"):
        evaluate(SurfaceCorrespondence(), Colours(), data, tmp_path / "o")
    with pytest.raises(UserError, match="size 90x90: both sides must be multiples of the patch, 4"):
        evaluate(SurfaceCorrespondence(size=90), Colours(), data, tmp_path / "p")
    with pytest.raises(UserError, match="head=clip: the feature spaces of this model are none"):
        evaluate(SurfaceCorrespondence(head="clip"), Colours(), data, tmp_path / "q")


def spair(root: Path) -> Path:
    """Two things of a kind with three corners each, of colours of their own, at different places."""
    corners, colours = [(20, 20), (68, 24), (40, 56)], np.array([[230, 20, 128], [20, 230, 128], [230, 230, 128]])
    places = []
    for i in range(3):
        image = np.full((72, 96, 3), 128, np.uint8)
        image[..., :2] = 10
        keys = np.roll(corners, i, axis=0)  # no corner is where it was in another picture
        for (x, y), colour in zip(keys, colours, strict=True):
            image[y - 4 : y + 4, x - 4 : x + 4] = colour
        path = root / "JPEGImages" / "cat" / f"2007_{i:06d}.jpg"
        save(path, image)
        Image.fromarray(image).save(path, quality=98, subsampling=0)
        places.append(keys.tolist())
    for number, (a, b) in enumerate([(0, 1), (1, 2), (2, 0)]):
        said = {
            "filename": f"{number:06d}-2007_{a:06d}-2007_{b:06d}:cat",
            "category": "cat",
            "src_imname": f"2007_{a:06d}.jpg",
            "trg_imname": f"2007_{b:06d}.jpg",
            "trg_bndbox": [10, 10, 80, 66],
            "src_kps": places[a],
            "trg_kps": places[b],
            "viewpoint_variation": number % 2,
        }
        file = root / "PairAnnotation" / "test" / f"{number:06d}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(said))
    return root


def test_spair_from_its_folders(tmp_path):
    data, problems = scan(spair(tmp_path / "SPair-71k"), format="spair")
    assert problems == []
    assert len(data.info["keypoint_pairs"]) == 3
    rows = rows_of(evaluate(SemanticCorrespondence(), Colours(), data, tmp_path / "o"))
    assert rows["model"]["pck"] == 1
    assert max(rows[name]["pck"] for name in ("untrained", "place")) < 0.5
    assert set(rows["model"]["by_views"]) == {"0", "1"}
    published = rows_of(evaluate(SemanticCorrespondence(published=True), Colours(), data, tmp_path / "p"))
    assert published["model"]["pck"] > 0.5


def test_spair_without_its_images_or_pairs_is_one_line(tmp_path):
    root = spair(tmp_path / "SPair-71k")
    (root / "JPEGImages" / "cat" / "2007_000001.jpg").unlink()
    data, _ = scan(root, format="spair")
    with pytest.raises(UserError, match=r"2 images of the pairs are missing, first JPEGImages/cat/2007_000001\.jpg"):
        evaluate(SemanticCorrespondence(), Colours(), data, tmp_path / "o")
    data.info.pop("keypoint_pairs")
    with pytest.raises(UserError, match="no pairs with keypoints; scan SPair-71k"):
        evaluate(SemanticCorrespondence(), Colours(), data, tmp_path / "o")
