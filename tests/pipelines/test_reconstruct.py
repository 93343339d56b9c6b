"""reconstruct, with a model that knows the room: what follows the network must be exact, or say why not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from analytic_room import AllKnowing, Shot, circle, colour_of, render, shots
from by_model import reconstruct
from manyview.errors import UserError
from manyview.geometry import alignment, cameras, poses
from manyview.images.inputs import Take
from manyview.models.model import ReconstructsViews
from manyview.pipelines.locate import locate
from manyview.pipelines.options import ReconstructOptions
from manyview.scene.options import LocateOptions


def run(taken, model=None, *, options=None, **known):
    """The scene, with any warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return reconstruct(
            [s.picture() for s in taken], model=model or AllKnowing(taken), options=options, device="cpu", **known
        )


def pose_errors(scene, taken, unit):
    """Degrees and room metres between each view's pose and the truth, in the first view's frame."""
    first_from_world = poses.invert(taken[0].cam2world)
    for view, shot in zip(scene.views, taken, strict=True):
        true, found = first_from_world @ shot.cam2world, torch.from_numpy(view.cam2world)
        angle = torch.rad2deg(poses.rotation_angle(true[:3, :3].T @ found[:3, :3]))
        yield float(angle), float((unit * found[:3, 3] - true[:3, 3]).norm())


@pytest.mark.parametrize("method", ["pnp", "similarity"])
@pytest.mark.parametrize("points", ["local", "global"])
def test_cameras_and_points_are_those_of_the_room(method, points):
    taken = shots(4)
    model = AllKnowing(taken, unit=2.0, local_units=[1.0, 3.0, 0.5, 2.0])  # every map in a unit of its own
    scene = run(taken, model, options=ReconstructOptions(poses=method, points=points))
    assert [view.info["pose"] for view in scene.views] == ["first", method, method, method]
    assert (scene.frame, scene.scale) == ("first_view", "relative")
    for angle, distance in pose_errors(scene, taken, 2.0):
        assert angle < 1e-3
        assert distance < 1e-4
    for view in scene.views:
        assert view.source.intrinsics[0, 0] == pytest.approx(300, rel=1e-4)
    xyz, rgb = scene.points(quantile=0)
    in_room = poses.apply(taken[0].cam2world, 2.0 * torch.from_numpy(xyz).double())
    wrong = (255 * colour_of(in_room) - torch.from_numpy(rgb)).abs()
    assert float(wrong.median()) < 1  # each point lies where its colour is


def test_noise_moves_both_kinds_of_pose_only_a_little():
    taken = shots(3)
    for method in ("pnp", "similarity"):
        scene = run(taken, AllKnowing(taken, noise=0.01), options=ReconstructOptions(poses=method))
        assert max(angle for angle, _ in pose_errors(scene, taken, 1.0)) < 0.3
        assert max(distance for _, distance in pose_errors(scene, taken, 1.0)) < 0.02
        assert scene.views[1].info["pnp_against_similarity_degrees"] < 0.3


def test_one_picture_works():
    taken = shots(1)
    scene = run(taken)
    assert len(scene) == 1
    assert np.array_equal(scene.views[0].cam2world, np.eye(4))
    assert len(scene.points(quantile=0)[0]) == 84 * 112


def test_mixed_sizes_and_orientations_go_to_the_model_as_they_are():
    sizes = [(240, 320), (320, 240), (200, 320), (90, 320)]
    taken = [
        Shot(pose, cameras.intrinsics_matrix(310, 310, w / 2, h / 2).double(), (h, w))
        for pose, (h, w) in zip(circle(4), sizes, strict=True)
    ]
    model = AllKnowing(taken)
    scene = run(taken, model)
    assert model.calls[0]["list"]
    assert [view.depth.shape for view in scene.views] == [(84, 112), (112, 84), (70, 112), (28, 112)]
    assert max(angle for angle, _ in pose_errors(scene, taken, 1.0)) < 0.01
    for view in scene.views:
        assert view.source.intrinsics[0, 0] == pytest.approx(310, rel=1e-3)


def test_views_of_one_size_share_the_median_focal_length():
    taken = shots(3)
    taken[1] = Shot(taken[1].cam2world, cameras.intrinsics_matrix(330, 330, 160, 120).double(), (240, 320))
    focals = [v.source.intrinsics[0, 0] for v in run(taken).views]
    assert focals == pytest.approx([300] * 3, rel=1e-3)
    alone = run(taken, options=ReconstructOptions(shared_focal=False))
    assert [v.source.intrinsics[0, 0] for v in alone.views] == pytest.approx([300, 330, 300], rel=1e-3)


def test_known_intrinsics_are_kept_to_the_letter():
    taken = shots(3)
    matrix = np.array([[300.0, 0, 163], [0, 290, 118], [0, 0, 1]])
    taken = [Shot(s.cam2world, torch.from_numpy(matrix), s.size) for s in taken]
    for given in (matrix, np.stack([matrix] * 3), torch.from_numpy(matrix)):
        scene = run(taken, intrinsics=given)
        for view in scene.views:
            assert np.array_equal(view.source.intrinsics, matrix)
        assert max(angle for angle, _ in pose_errors(scene, taken, 1.0)) < 0.01


def test_known_poses_give_their_world_and_unit():
    taken = shots(4)
    given = torch.stack([s.cam2world for s in taken])
    scene = run(taken, AllKnowing(taken, unit=2.5, local_units=[1, 2, 3, 4]), cam2world=given)
    assert (scene.frame, scene.scale, scene.scale_source) == ("world", "metric", "the unit of the given cameras")
    for view, pose in zip(scene.views, given, strict=True):
        assert np.array_equal(view.cam2world, pose.numpy())
    xyz, rgb = scene.points(quantile=0)
    assert xyz.min(0) == pytest.approx([-3, -2.5, 0], abs=0.01)  # the room's own corner, in metres
    assert float((255 * colour_of(torch.from_numpy(xyz).double()) - torch.from_numpy(rgb)).abs().median()) < 1


def test_poses_without_a_distance_do_not_pretend_to_be_metric():
    taken = shots(2)
    taken[1] = Shot(taken[0].cam2world, taken[1].intrinsics, taken[1].size)
    with pytest.warns(UserWarning, match="do not fix the unit"):
        scene = reconstruct(
            [s.picture() for s in taken],
            model=AllKnowing(taken),
            device="cpu",
            cam2world=torch.stack([s.cam2world for s in taken]),
        )
    assert scene.scale == "relative"


def test_masked_pixels_have_no_point_and_no_say():
    taken = shots(3)
    masks = [np.ones((240, 320), bool) for _ in taken]
    masks[1][:, :150] = False

    class Liar(AllKnowing):
        def __call__(self, images, **rest):
            answer = super().__call__(images, **rest)
            answer["pointmap"][0, 1, :, :52] = torch.nan  # under the mask of view 1
            answer["pointmap_local"][0, 1, :, :52] = 7.0
            return answer

    scene = run(taken, Liar(taken), masks=masks)
    assert not scene.views[1].valid[:, :52].any()
    assert scene.views[1].valid[:, 53:].all()
    assert np.isnan(scene.views[1].pointmap[:, :52]).all()
    assert max(angle for angle, _ in pose_errors(scene, taken, 1.0)) < 0.01
    assert np.isfinite(scene.points(quantile=0)[0]).all()


def test_a_view_the_model_does_not_understand_is_named():
    taken = shots(4)
    with pytest.warns(UserWarning, match=r"no camera: view-0003\.png"):
        scene = reconstruct([s.picture() for s in taken], model=AllKnowing(taken, confuse=[3]), device="cpu")
    assert [view.rests_on for view in scene.views] == ["model", "model", "model", "nothing"]
    assert not any(view.registered for view in scene.views)
    assert scene.views[3].cam2world is None
    assert np.isnan(scene.views[3].pointmap).all()
    assert [view.component for view in scene.views] == [0, 0, 0, 1]
    scene.views = scene.views[:3]
    assert max(angle for angle, _ in pose_errors(scene, taken[:3], 1.0)) < 0.01  # the others are not harmed


class Muddled(AllKnowing):
    """Knows each view by itself, but its global head is noise of another unit."""

    def __call__(self, images, **rest):
        answer = super().__call__(images, **rest)
        noise = torch.randn(answer["pointmap"].shape, generator=torch.Generator().manual_seed(1))
        return {**answer, "pointmap": 0.01 * noise}


def test_a_useless_global_head_places_no_view_and_keeps_their_own_unit():
    taken = shots(3)
    with pytest.warns(UserWarning, match="have no camera"):
        scene = reconstruct([s.picture() for s in taken], model=Muddled(taken), device="cpu")
    assert [view.info["pose"] for view in scene.views] == ["first", "identity", "identity"]
    assert np.array_equal(scene.views[0].cam2world, np.eye(4))
    assert [view.cam2world for view in scene.views[1:]] == [None, None]
    for view, shot in zip(scene.views, taken, strict=True):
        matrix = torch.from_numpy(view.intrinsics)
        assert np.allclose(view.depth, render(shot.cam2world, matrix, 84, 112)[0], rtol=0.01)


def test_given_cameras_that_the_model_contradicts_are_kept_but_not_called_metric():
    taken = shots(3)
    given = torch.stack([s.cam2world for s in taken])
    with pytest.warns(UserWarning, match="do not fix the unit"):
        scene = reconstruct([s.picture() for s in taken], model=Muddled(taken), device="cpu", cam2world=given)
    assert scene.scale == "relative"
    assert np.array_equal(scene.views[2].cam2world, given[2].numpy())


def test_the_other_road_is_taken_when_the_preferred_one_fails(monkeypatch):
    taken = shots(2)
    failed = alignment.PoseFit(torch.eye(4), 0.0, False)
    monkeypatch.setattr(alignment, "pose_from_pointmap", lambda *_: failed)
    scene = run(taken)
    assert scene.views[1].info["pose"] == "similarity"
    assert max(angle for angle, _ in pose_errors(scene, taken, 1.0)) < 1e-3


def test_nothing_at_all_from_the_model_still_gives_finite_cameras():
    taken = shots(2)

    class Mute(AllKnowing):
        def __call__(self, images, **rest):
            return {name: torch.full_like(value, torch.nan) for name, value in super().__call__(images, **rest).items()}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scene = reconstruct([s.picture() for s in taken], model=Mute(taken), device="cpu")
    assert "no believable focal length" in str(caught[0].message)
    assert "views without a single point: view-0000.png, view-0001.png" in str(caught[1].message)
    assert len(caught) == 2
    for view in scene.views:
        assert np.isfinite(view.intrinsics).all()
        assert not view.valid.any()
    assert len(scene.points()[0]) == 0


def test_chunks_and_sizes_reach_the_model():
    taken = shots(2)
    model = AllKnowing(taken, image_size=84)
    run(taken, model, options=ReconstructOptions(image_size=84, encoder_chunk=2, head_chunk=1))
    assert model.calls == [{"list": False, "encoder_chunk": 2, "head_chunk": 1}]


def test_stride_and_max_frames_pick_pictures():
    taken = shots(5)
    scene = reconstruct(
        [s.picture() for s in taken],
        model=AllKnowing(taken[::2][:2]),
        device="cpu",
        options=ReconstructOptions(take=Take(stride=2, max_frames=2)),
    )
    assert len(scene) == 2


def test_a_module_in_training_stays_in_training():
    taken = shots(2)

    class Net(torch.nn.Module, ReconstructsViews):
        def __init__(self):
            super().__init__()
            self.knowing = AllKnowing(taken)
            self.config = self.knowing.config
            self.modes = []

        def forward(self, images, **rest):
            self.modes.append((self.training, torch.is_grad_enabled()))
            return self.knowing(images, **rest)

    net = Net().train()
    run(taken, net)
    assert net.modes == [(False, False)]
    assert net.training


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"cam2world": np.full((2, 4, 4), np.nan)}, "not finite"),
        ({"cam2world": np.eye(4)}, r"shape \(4, 4\)"),
        ({"cam2world": np.stack([2 * np.eye(4)] * 2)}, "not rigid|last row"),
        ({"cam2world": np.stack([np.diag([1.0, 1, -1, 1])] * 2)}, "not rigid|last row"),
        ({"intrinsics": np.zeros((3, 3))}, "no camera matrix"),
        ({"intrinsics": np.eye(3)[None]}, r"shape \(1, 3, 3\)"),
        ({"intrinsics": "f=300"}, "cannot be read as numbers"),
        ({"masks": [np.ones((10, 10))] * 2}, r"mask of view-0000\.png is \(10, 10\)"),
        ({"masks": [np.ones((240, 320))]}, "1 masks for 2 pictures"),
        ({"options": ReconstructOptions(image_size=10)}, "under 14 pixels"),
        ({"options": ReconstructOptions(take=Take(stride=0))}, "take nothing"),
    ],
)
def test_wrong_input_is_one_line(known, says):
    taken = shots(2)
    with pytest.raises(UserError, match=says) as caught:
        reconstruct([s.picture() for s in taken], model=AllKnowing(taken), device="cpu", **known)
    assert "\n" not in str(caught.value)


class Speaking(AllKnowing):
    """It also says that the left half of each view is a sofa, in a space of two channels."""

    def __call__(self, images, view_ids=None, **chunks):
        maps = super().__call__(images, view_ids, **chunks)
        height, width = (side // 7 for side in maps["pointmap"].shape[2:4])
        features = torch.zeros(1, len(self.shots), height, width, 2)
        features[..., : width // 2, 0], features[..., width // 2 :, 1] = 5.0, 2.0
        return {**maps, "features": {"two": features}}


def test_features_of_a_models_heads_answer_to_words(tmp_path):
    taken, words = shots(2), {"sofa": [1.0, 0.0], "wall": [0.0, 1.0]}
    with pytest.raises(UserError, match="no features"):
        locate(run(taken), ["sofa"])
    found = locate(
        [s.picture() for s in taken],
        ["sofa", "lamp"],
        model=Speaking(taken),
        encoder=lambda texts: np.array([words.get(text, [-1.0, -1.0]) for text in texts]),
        options=LocateOptions(background="wall, floor"),
        reconstruction=ReconstructOptions(cameras="model"),
    )
    assert found.scene.info["features"] == {"two": {"channels": 2, "text_encoder": None}}
    assert found.scene.views[0].features["two"].dtype == np.float16
    height, width = found.scene.views[0].depth.shape
    assert found.scene.views[0].features["two"].shape == (height // 7, width // 7, 2)
    assert [one.there for one in found.found] == [True, False]
    assert found["sofa"].sights[0].box[2] == pytest.approx(taken[0].size[1] / 2, abs=15)
    assert len(found["sofa"].places) >= 1
    found.scene.save(tmp_path / "scene")
    again = locate(
        tmp_path / "scene", ["wall"], encoder=lambda texts: np.array([words.get(t, [1.0, 0.0]) for t in texts])
    )
    assert again["wall"].there
