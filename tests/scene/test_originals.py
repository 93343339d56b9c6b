"""Exports show what the network saw, whatever the original: transparency, 16 bits, palettes, EXIF."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from by_model import reconstruct
from manyview.errors import UserError
from manyview.geometry import cameras
from manyview.images.video import iter_video, read_frames
from manyview.scene.scene import Scene


class Wall:
    """A reconstructor that sees the same flat wall in every picture, whatever its colours are."""

    def __init__(self, long_side: int) -> None:
        self.config = SimpleNamespace(image_size=long_side, patch_size=14)

    def __call__(self, images: torch.Tensor, view_ids: None = None) -> dict[str, torch.Tensor]:
        batch, count, _, height, width = images.shape
        rays = cameras.rays(cameras.intrinsics_matrix(100, 100, width / 2, height / 2), height, width)
        points = 2 * rays.expand(batch, count, height, width, 3).float()
        ones = torch.ones(batch, count, height, width)
        return {"pointmap": points, "confidence": ones, "pointmap_local": points, "confidence_local": ones}


SIZE = (112, 154)  # one the model takes as it is, so that no pixel is resampled


def _rgba(pixels: np.ndarray, path: Path) -> None:
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :60], alpha[:, 60:80] = 0, 128
    Image.fromarray(np.dstack([pixels, alpha])).save(path)


def _grey_alpha(pixels: np.ndarray, path: Path) -> None:
    image = Image.fromarray(pixels).convert("L")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))))
    image.save(path)


def _palette(pixels: np.ndarray, path: Path) -> None:
    image = Image.fromarray(pixels).quantize(200)
    image.save(path, transparency=image.getpixel((70, 50)))


def _clear_colour(pixels: np.ndarray, path: Path) -> None:
    pixels = pixels.copy()
    pixels[:, :60] = (0, 0, 1)
    Image.fromarray(pixels).save(path, transparency=(0, 0, 1))


def _deep_grey(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(path)


def _sideways(pixels: np.ndarray, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


@pytest.mark.parametrize(
    "write", [_rgba, _grey_alpha, _palette, _clear_colour, _deep_grey, _sideways], ids=lambda w: w.__name__
)
def test_views_points_and_exported_pictures_have_one_colour(tmp_path, write):
    for index in range(2):
        small = np.random.default_rng(index).integers(0, 256, (8, 11, 3), np.uint8)
        write(np.repeat(np.repeat(small, 14, 0), 14, 1), tmp_path / f"{index}.png")
    scene = reconstruct([tmp_path / "0.png", tmp_path / "1.png"], model=Wall(154), device="cpu")
    colmap, nerf = scene.export_colmap(tmp_path / "c"), scene.export_nerfstudio(tmp_path / "n")
    for view in scene.views:
        assert view.image.shape[:2] == view.source.size == SIZE
        for folder in (colmap, nerf):
            with Image.open(folder / "images" / view.name) as picture:
                assert picture.mode in ("RGB", "L")
                assert np.array_equal(np.asarray(picture.convert("RGB")), view.image)
    if write in (_rgba, _clear_colour):
        assert (scene.views[0].image[:, :60] == 255).all()  # white, not what lies under the transparency
    import trimesh

    seen = {tuple(colour) for view in scene.views for colour in view.image.reshape(-1, 3)}
    path = scene.export(tmp_path / "x.ply", quantile=0.0)
    ply = np.asarray(trimesh.load(path).colors)[:, :3]
    world = trimesh.load(scene.export(tmp_path / "x.glb", quantile=0.0))
    glb = np.asarray(world.geometry[world.graph["points"][1]].colors)[:, :3]
    expected = np.concatenate([view.image[view.valid] for view in scene.views])
    assert np.array_equal(ply, expected)
    assert np.array_equal(glb, expected)
    assert {tuple(colour) for colour in ply} <= seen


def _film(path: Path, count: int) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for index in range(count):
        writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.release()


def test_frames_are_read_again_in_any_order_as_they_were_first(tmp_path):
    _film(tmp_path / "a.avi", 8)
    first = dict(iter_video(tmp_path / "a.avi"))
    for numbers in ([0, 3, 4, 7], [5, 2, 2, 6, 0]):
        again = list(read_frames(tmp_path / "a.avi", numbers))
        assert len(again) == len(numbers)
        for number, frame in zip(numbers, again, strict=True):
            assert np.array_equal(frame, first[number])
    with pytest.raises(UserError, match="frame 8 cannot be read"):
        list(read_frames(tmp_path / "a.avi", [7, 8]))


def test_a_video_that_became_shorter_says_which_view_and_what_to_do(tmp_path):
    _film(tmp_path / "a.avi", 3)
    scene = reconstruct(tmp_path / "a.avi", model=Wall(56), device="cpu")
    _film(tmp_path / "a.avi", 2)
    with pytest.raises(UserError, match=r"original of a-000002\.jpg can no longer be read.*--size model"):
        scene.export_colmap(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    scene.save(tmp_path / "s")
    Scene.load(tmp_path / "s").export_colmap(tmp_path / "c", size="model")
