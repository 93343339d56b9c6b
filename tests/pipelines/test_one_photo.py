"""One photo, or a transparent one, through the whole road: what it is worth is said, exports hold what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from manyview import zoo
from manyview.pipelines.reconstruct import reconstruct

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).resize((128, 96))


@pytest.fixture(scope="module")
def model():
    return zoo.build("manyview-tiny", size="debug").eval()


def test_one_photo_is_no_measurement(model, tmp_path):
    PHOTO.save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="one photo alone"):
        scene = reconstruct(tmp_path / "a.png", model=model, device="cpu")
    assert "which no second photo checks" in " ".join(scene.info["warnings"])


@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_an_export_shows_what_the_model_saw_and_no_transparent_points(model, tmp_path, kind):
    opacity = np.full((96, 128), 255, np.uint8)
    opacity[:, :64] = 0
    picture = PHOTO.convert(kind)
    picture.putalpha(Image.fromarray(opacity))
    (tmp_path / "photos").mkdir()
    picture.save(tmp_path / "photos/a.png")
    with pytest.warns(UserWarning, match="one photo alone"):
        scene = reconstruct(tmp_path / "photos", model=model, device="cpu")
    view = scene.views[0]
    half = view.valid.shape[1] // 2
    assert not view.valid[:, : half - 1].any()
    assert view.valid[:, half + 1 :].any()
    assert (view.image[:, : half - 2] > 250).all()
