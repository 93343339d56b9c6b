"""Published caches are read to the pixel: what a picture shows and what its map says belong together again."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from manyview.batches.scenes import SceneBatches, SceneWish
from manyview.cache.store import Cache
from manyview.cache.verify import verify
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.teachers.released import open_released, seen_by_fast3r

SIZES = {"wide": (300, 400), "tall": (400, 300), "square": (320, 320)}
"""(H, W) of the pictures."""


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def shown(height: int, width: int) -> np.ndarray:
    """A picture whose red grows to the right and whose green grows downwards."""
    v, u = (np.mgrid[:height, :width] + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([255 * u, 255 * v, np.full_like(u, 90)], -1).round().astype(np.uint8)


@pytest.fixture
def released(tmp_path):
    """Samples of two views of every aspect; x and y of each point are where in the picture it was seen, in [0, 1]."""
    for kind, (height, width) in SIZES.items():
        sample, pictures = tmp_path / f"theirs/toy/{kind}_sample00", tmp_path / f"pictures/toy/{kind}"
        sample.mkdir(parents=True), pictures.mkdir(parents=True)
        top, left, bottom, right = seen_by_fast3r(height, width)
        v, u = (np.mgrid[:224, :518] + 0.5) / np.array([224, 518]).reshape(2, 1, 1)
        where = [(left + u * (right - left)) / width, (top + v * (bottom - top)) / height, np.full_like(u, 2.0)]
        points = np.stack([np.stack(where, -1)] * 2).astype(np.float16)
        points[1, :50, :100] = np.nan
        sure = np.full((2, 224, 518), 5, np.float16)
        sure[1, :50, :100] = 0
        masks = np.empty(2, object)
        masks[:] = Trap(), [0, 224 * 518]
        np.savez_compressed(
            sample / "consolidated.npz",
            xyz_local=points,
            xyz_global=points + np.float16(1),
            conf_local=sure,
            conf_global=sure,
            masks=np.frombuffer(pickle.dumps(masks), np.uint8) if kind == "wide" else masks,
            num_views=2,
        )
        names = [f"/their/disk/images/toy/{kind}/{number}.png" for number in range(2)]
        for number in range(2):
            Image.fromarray(shown(height, width)).save(pictures / f"{number}.png")
        about = {"dataset": "toy", "scene_id": kind, "sampled_image_paths": names}
        (sample / "sampled_views.json").write_text(json.dumps(about))
    return tmp_path


def test_pictures_and_maps_agree_in_every_aspect(released):
    out = released / "cache"
    assert main(["cache", "import", f"{released}/theirs", "--images", f"{released}/pictures", "-o", f"{out}"]) == 0
    assert verify(out) == []
    cache = Cache.open(out)
    assert len(cache) == 3
    batches = SceneBatches(out, wish=SceneWish(views=2, batch=1))
    seen = set()
    for index in range(12):
        views = batches(index)
        signal = views.signals["pointmap_local"]
        seen.add(views.size)
        valid = signal.valid[0]
        assert valid[0].float().mean() > 0.7  # a square loses a quarter, as the published loader crops it
        assert 0.02 < float((valid[0] & ~valid[1]).float().mean()) < 0.2, "NaN is nothing to learn from"
        for channel in (0, 1):
            away = (views.images[0, 0, channel] - signal.value[0, 0, ..., channel]).abs()[valid[0]]
            assert away.quantile(0.99) < 0.01, "the colour says where the point was seen"
        moved = views.signals["pointmap"].value - signal.value
        assert (moved[0][valid] - 1).abs().max() < 0.02
    assert len(seen) == 3
    assert {size[0] > size[1] for size in seen} == {True, False}
    assert main(["cache", "import", f"{released}/theirs", "--images", f"{released}/pictures", "-o", f"{out}"]) == 0


def test_what_is_wrong_is_one_line(released):
    with pytest.raises(UserError, match="no such picture lies below"):
        open_released(released / "theirs", released / "theirs")
    with pytest.raises(UserError, match="holds no published cache"):
        open_released(released / "pictures", released / "pictures")
    broken = released / "theirs/toy/wide_sample00"
    whole = (broken / "consolidated.npz").read_bytes()
    (broken / "consolidated.npz").write_bytes(whole[: len(whole) // 2])
    out = released / "cache"
    line = ["cache", "import", f"{released}/theirs", "--images", f"{released}/pictures", "-o", f"{out}"]
    assert main(line) == 2, "said, and the others are kept"
    assert [entry.scene for entry in Cache.open(out).entries] == ["square", "tall"]
    (broken / "sampled_views.json").write_text("{}")
    with pytest.raises(UserError, match="names no pictures"):
        open_released(released / "theirs", released / "pictures")
