"""Pictures of components: one colour space for a whole set, and the colours of a known basis."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from manyview import zoo
from manyview.errors import UserError
from manyview.pipelines.features import FeatureOptions, features
from manyview.pipelines.pca import fit_basis


def test_the_basis_is_that_of_a_singular_value_decomposition():
    generator = np.random.default_rng(0)
    maps = [generator.normal(size=(5, 7, 6)).astype(np.float32) * [9, 1, 5, 0.1, 3, 0.1] + 2 for _ in range(4)]
    basis = fit_basis(maps, 4)
    flat = np.concatenate([m.reshape(-1, 6) for m in maps])
    _, values, rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(basis.directions @ rows[:3].T), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(basis.explained, (values**2 / (values**2).sum())[:3], rtol=1e-4)
    assert (np.abs(basis.directions).argmax(1) == [0, 2, 4]).all()
    assert (basis.directions[[0, 1, 2], [0, 2, 4]] > 0).all()  # the sign does not depend on the solver
    colours = basis.colours(np.concatenate(maps))
    share = ((colours == 0) | (colours == 255)).mean()
    assert 0.015 < share < 0.04  # a percent at either end is clipped


def test_equal_patches_have_equal_colours_in_every_picture(tmp_path):
    left = np.zeros((56, 56, 3), np.uint8)
    left[:28] = (200, 30, 30)
    right = left[::-1].copy()
    network = zoo.build("dinov2-vits14", size="debug", seed=0)
    for name, tensor in network.named_parameters():
        if "pos_embed" in name:
            tensor.data.zero_()  # so that a patch is its colour, and not its place
    options = FeatureOptions(pca=True)
    found = features(iter([left, right]), model=network, size=56, out=tmp_path / "o", options=options)
    pictures = [np.array(Image.open(tmp_path / "o" / "pca" / f"{name}.png")) for name in found.names]
    assert pictures[0].shape == (56, 56, 3)
    assert np.abs(pictures[0].astype(int) - pictures[1][::-1]).max() <= 2
    assert np.abs(pictures[0][0, 0].astype(int) - pictures[0][-1, 0]).max() > 100
    assert Image.open(tmp_path / "o" / "pca.png").width > 200
    basis = load_file(tmp_path / "o" / "pca" / "basis.safetensors")
    assert basis["directions"].shape == (3, 8)
    assert found.info["pca"]["explained"] == pytest.approx(basis["explained"].tolist())


def test_too_few_patches_are_refused():
    with pytest.raises(UserError, match="too few"):
        fit_basis([np.ones((1, 2, 8), np.float32)], 1)
