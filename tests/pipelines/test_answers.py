"""Pair models and models that say their own cameras, through the same road as all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analytic_room import AllKnowing, shots
from by_model import reconstruct
from manyview import zoo
from manyview.geometry import poses
from manyview.models.model import ReconstructsPairs
from manyview.pipelines.options import ReconstructOptions


class Pair(ReconstructsPairs):
    """Knows the room, but only two views at a time; counts what it is asked."""

    def __init__(self, taken) -> None:
        self.taken, self.encoded, self.decoded = taken, 0, []
        self.config = AllKnowing(taken).config

    def __call__(self, views):
        return self.decode(*self.encode_views(views))

    def encode_views(self, views):
        self.encoded += 1
        views = list(views[0]) if isinstance(views, torch.Tensor) else [view[0] for view in views]
        return list(zip(views, self.taken if len(self.taken) == 2 else self.taken * 2, strict=True))

    def decode(self, first, second, heads=None):
        self.decoded.append((tuple(first[0].shape), heads))
        maps = AllKnowing([first[1], second[1]], unit=2.0)([first[0][None], second[0][None]])
        same = first[0].shape == second[0].shape
        maps = {name: maps[name] for name in ("pointmap", "confidence")}
        return {name: torch.stack(value, 1) for name, value in maps.items()} if same else maps


class WithCameras(AllKnowing):
    """Also says where its cameras are and what their lenses do."""

    def __call__(self, images, view_ids=None, **chunks):
        maps = super().__call__(images, view_ids, **chunks)
        first_from_world = poses.invert(self.shots[0].cam2world)
        cam2world = torch.stack([first_from_world @ shot.cam2world for shot in self.shots])
        cam2world[:, :3, 3] /= self.unit
        scale = self.image_size / max(self.shots[0].size)
        intrinsics = torch.stack([shot.intrinsics * scale for shot in self.shots])
        return {**maps, "cam2world": cam2world[None], "intrinsics": intrinsics[None]}


def errors(scene, taken, unit):
    first_from_world = poses.invert(taken[0].cam2world)
    for view, shot in zip(scene.views, taken, strict=True):
        difference = poses.invert(first_from_world @ shot.cam2world) @ torch.from_numpy(view.cam2world)
        difference[:3, 3] += (
            (unit - 1) * (first_from_world @ shot.cam2world)[:3, :3].T @ torch.from_numpy(view.cam2world[:3, 3])
        )
        yield float(difference.sub(torch.eye(4)).abs().max())


def test_a_pair_model_is_encoded_once_and_asked_in_both_orders():
    taken = shots(2)
    model = Pair(taken)
    scene = reconstruct([s.picture() for s in taken], model=model, device="cpu")
    assert (model.encoded, len(model.decoded)) == (1, 2)
    assert model.decoded[0][1] == ("pointmap",)
    assert [view.info["pose"] for view in scene.views] == ["first", "pnp"]
    assert max(errors(scene, taken, 2.0)) < 1e-3
    assert scene.views[1].source.intrinsics[0, 0] == pytest.approx(300, rel=1e-3)


def test_a_single_picture_is_paired_with_itself():
    taken = shots(1)
    scene = reconstruct([taken[0].picture()], model=Pair(taken), device="cpu")
    assert len(scene) == 1
    assert scene.views[0].valid.any()


@pytest.mark.parametrize(("prefer", "method"), [("auto", "model"), ("model", "model"), ("pnp", "pnp")])
def test_a_models_own_cameras_are_taken_where_it_says_them(prefer, method):
    taken = shots(3)
    options = ReconstructOptions(poses=prefer)
    model = WithCameras(taken, unit=2.0)
    scene = reconstruct([s.picture() for s in taken], model=model, device="cpu", options=options)
    assert [view.info["pose"] for view in scene.views] == ["first", method, method]
    assert max(errors(scene, taken, 2.0)) < 1e-3
    assert scene.views[2].source.intrinsics[0, 0] == pytest.approx(300, rel=1e-3)


def test_a_camera_that_its_own_points_contradict_is_not_taken():
    taken = shots(3)

    class Wrong(WithCameras):
        def __call__(self, images, view_ids=None, **chunks):
            maps = super().__call__(images, view_ids, **chunks)
            maps["cam2world"][0, 1, :3, 3] += 5
            return maps

    scene = reconstruct([s.picture() for s in taken], model=Wrong(taken), device="cpu")
    assert [view.info["pose"] for view in scene.views] == ["first", "pnp", "model"]


@pytest.mark.parametrize(
    ("name", "count"), [("dust3r-vitl16-512-dpt", 2), ("mast3r-vitl16", 2), ("sab3r-cd", 1), ("fast3r-vitl16", 3)]
)
def test_networks_of_the_zoo_go_through(name, count):
    if name not in zoo.names():
        pytest.skip(f"{name} is not built yet")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(count)]
    model = zoo.build(name, size="debug", seed=0).eval()
    with pytest.warns(UserWarning, match="views"):  # random weights agree with nothing
        scene = reconstruct(pictures, model=model, device="cpu")
    assert len(scene) == count
    assert scene.views[0].depth.shape == (48, 64)


def test_metric_models_give_metric_scenes():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(2)]
    for name, scale in (("mast3r-vitl16", "metric"), ("dust3r-vitl16-512-dpt", "relative")):
        with pytest.warns(UserWarning, match="views"):
            scene = reconstruct(pictures, model=zoo.build(name, size="debug", seed=0), device="cpu")
        assert scene.scale == scale
