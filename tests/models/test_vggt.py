"""VGGT: views, chunks, mixed sizes, what the first view is, cameras, fresh state, and its file."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import manyview as mv
from manyview import UserError
from manyview.geometry import poses
from manyview.geometry.cameras import project
from manyview.layers.init import init_weights
from manyview.models.vggt.heads import LEAST_VIEW, CameraHead, decode_pose
from manyview.models.vggt.network import Vggt, VggtConfig, debug

MAPS = {"pointmap", "confidence", "depth", "depth_confidence", "pointmap_local", "confidence_local"}
CAMERAS = {"pose_encoding", "cam2world", "intrinsics"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def model() -> Vggt:
    torch.manual_seed(0)
    model = Vggt(debug(VggtConfig())).eval()
    for name, parameter in model.named_parameters():  # away from the near-constant fresh state
        if parameter.ndim > 1 or "gamma" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def ask(model: Vggt, images, **options):
    return model(images, **options)


def test_the_published_layout_has_its_1_190_596_120_parameters():
    with torch.device("meta"):
        model = Vggt(VggtConfig())
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    tokens = model.camera_token.numel() + model.register_token.numel()
    assert parts["encoder"] + parts["aggregator"] + tokens == 909_112_320
    assert (parts["camera"], parts["depth"], parts["points"]) == (216_174_610, 32_654_562, 32_654_628)
    assert sum(p.numel() for p in model.parameters()) == 1_190_596_120


def test_every_parameter_and_buffer_is_initialised():
    with torch.device("meta"):
        model = Vggt(debug(VggtConfig()))
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        torch.nn.init.constant_(tensor.data, float("nan"))
    init_weights(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert bool(tensor.isfinite().all()), name


def test_a_fresh_model_says_one_unit_ahead_of_cameras_that_stand_still():
    torch.manual_seed(0)
    pred = ask(Vggt(debug(VggtConfig())), torch.rand(1, 2, 3, 42, 56))
    for depth in (pred["depth"], pred["pointmap"][..., 2]):
        assert bool((depth > 0.1).all())
        assert 0.5 < float(depth.median()) < 2
    assert float((pred["cam2world"] - torch.eye(4)).abs().max()) < 0.2
    assert float(pred["intrinsics"][..., 1, 1].median()) == pytest.approx(21 / math.tan(0.5), rel=0.2)


@pytest.mark.parametrize("size", [(14, 14), (28, 42), (70, 28), (14, 98)])
@pytest.mark.parametrize("views", [1, 3])
def test_any_number_of_views_and_any_aspect(model, size, views):
    pred = ask(model, torch.rand(2, views, 3, *size))
    assert set(pred) == MAPS | CAMERAS
    for name in MAPS:
        tail = (3,) if "pointmap" in name else ()
        assert pred[name].shape == (2, views, *size, *tail)
    assert pred["pose_encoding"].shape == (2, views, 9)
    assert pred["cam2world"].shape == (2, views, 4, 4)
    assert pred["intrinsics"].shape == (2, views, 3, 3)
    assert all(bool(value.isfinite().all()) and value.dtype == torch.float32 for value in pred.values())
    assert bool((pred["confidence"] > 1).all())
    assert bool((pred["depth"] > 0).all())


def test_local_points_project_onto_their_own_pixels(model):
    pred = ask(model, torch.rand(1, 2, 3, 28, 42))
    pixels, depth = project(pred["pointmap_local"].flatten(2, 3), pred["intrinsics"])
    assert torch.equal(depth.view_as(pred["depth"]), pred["pointmap_local"][..., 2])
    torch.testing.assert_close(pixels[0, 1, 42 * 3 + 5], torch.tensor([5.5, 3.5]), rtol=1e-3, atol=1e-3)


def test_chunks_do_not_change_the_result(model):
    images = torch.rand(2, 3, 3, 28, 42)
    whole = ask(model, images, encoder_chunk=100, head_chunk=100)
    for encoder_chunk, head_chunk in ((1, 1), (4, 5)):
        parts = ask(model, images, encoder_chunk=encoder_chunk, head_chunk=head_chunk)
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], **CLOSE)
    with pytest.raises(ValueError, match="encoder_chunk"):
        model(images, encoder_chunk=0)


def test_views_after_the_first_have_no_order_and_the_first_is_the_frame(model):
    images = torch.rand(1, 4, 3, 28, 42)
    base = ask(model, images)
    order = [0, 3, 1, 2]
    permuted = ask(model, images[:, order])
    for name in base:
        torch.testing.assert_close(permuted[name], base[name][:, order], **CLOSE)
    swapped = ask(model, images[:, [1, 0, 2, 3]])
    assert not torch.allclose(swapped["pointmap"][:, [1, 0, 2, 3]], base["pointmap"], atol=1e-3)


def test_equal_pictures_differ_only_by_being_first(model):
    images = torch.rand(1, 1, 3, 28, 28).expand(1, 3, 3, 28, 28)
    points = ask(model, images)["pointmap"]
    torch.testing.assert_close(points[:, 1], points[:, 2], **CLOSE)
    assert not torch.allclose(points[:, 0], points[:, 1], atol=1e-3)


def test_scenes_of_a_batch_do_not_see_each_other(model):
    images = torch.rand(2, 2, 3, 28, 28)
    both, second = ask(model, images), ask(model, images[1:])
    for name in both:
        torch.testing.assert_close(both[name][1:], second[name], **CLOSE)


def test_views_of_different_sizes_come_as_lists(model):
    images = [torch.rand(2, 3, 28, 42), torch.rand(2, 3, 42, 28), torch.rand(2, 3, 14, 14)]
    pred = ask(model, images)
    assert [tuple(p.shape) for p in pred["pointmap"]] == [(2, 28, 42, 3), (2, 42, 28, 3), (2, 14, 14, 3)]
    assert pred["cam2world"].shape == (2, 3, 4, 4)
    assert pred["intrinsics"][0, :, 0, 2].tolist() == [21, 14, 7]
    order = [0, 2, 1]
    other = ask(model, [images[i] for i in order])
    torch.testing.assert_close(other["pose_encoding"], pred["pose_encoding"][:, order], **CLOSE)
    same = [torch.rand(1, 3, 28, 28) for _ in range(3)]
    stacked, listed = ask(model, torch.stack(same, 1)), ask(model, same)
    for name in MAPS:
        torch.testing.assert_close(torch.stack(listed[name], 1), stacked[name], **CLOSE)


def test_photos_of_two_sizes_become_a_scene(model):
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 90), (90, 60), (60, 90))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # noise has no cameras worth believing
        scene = mv.reconstruct(photos, model=model)
    assert [view.image.shape[:2] for view in scene.views] == [(28, 56), (56, 28), (28, 56)]
    assert all(view.cam2world is None or np.isfinite(view.cam2world).all() for view in scene.views)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_stays_near(model, dtype, bound):
    torch.manual_seed(2)
    fresh, images = Vggt(model.config).eval(), torch.rand(1, 2, 3, 28, 42)
    full, half = ask(fresh, images), ask(fresh.to(dtype), images.to(dtype))
    for name in full:
        assert half[name].dtype == torch.float32
        difference = (half[name] - full[name]).norm() / full[name].norm()
        assert float(difference) < bound, name


def test_gradients_reach_everything_that_is_used(model):
    pred = model.train()(torch.rand(1, 2, 3, 42, 28))
    sum(pred[name].mean() for name in ("pointmap", "confidence", "depth", "pose_encoding")).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    # The last round alone answers, and gradients do not reach back through the others.
    assert without == {"encoder.mask_token", "camera.nothing_yet"}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(1, 1, 3, 28, 30), {}, "multiples of 14"),
        (torch.rand(1, 2, 3, 14, 14), {"view_ids": [0, 1]}, "view_ids"),
    ],
)
def test_what_it_does_not_take_is_a_users_mistake(model, images, options, message):
    with pytest.raises(UserError, match=message):
        model(images, **options)


@pytest.mark.parametrize("change", [{"patch_embed": "dinov2-vits14-reg4"}, {"patch_embed": "mum"}])
def test_an_encoder_that_does_not_fit_is_a_users_mistake(change):
    with pytest.raises(UserError, match="patch_embed"):
        mv.zoo.build("vggt-1b", size="debug", **change)


def encode_pose(cam2world: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The reverse of decode_pose, with a unit quaternion; what intrinsics say of the principal point is lost."""
    world2cam = poses.invert(cam2world)
    quaternion = poses.quaternion_from_matrix(world2cam[..., :3, :3]).roll(-1, dims=-1)
    half = torch.tensor([size[0] / 2, size[1] / 2], device=cam2world.device)  # down, across
    focal = intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].flip(-1)
    return torch.cat([world2cam[..., :3, 3], quaternion, 2 * torch.atan2(half, focal)], dim=-1)


def test_a_pose_encoding_made_by_hand():
    half = math.sqrt(0.5)
    # A quarter turn about y: world z becomes camera -x; then two units along camera z.
    encoding = torch.tensor([0.0, 0.0, 2.0, 0.0, -3 * half, 0.0, 3 * half, math.pi / 2, 2 * math.atan(2.0)])
    cam2world, intrinsics = decode_pose(encoding, (40, 60))
    world2cam = poses.invert(cam2world)
    moved = poses.apply(world2cam, torch.tensor([[0.0, 0.0, 1.0], [0.0, 5.0, 0.0]]))
    torch.testing.assert_close(moved, torch.tensor([[-1.0, 0.0, 2.0], [0.0, 5.0, 2.0]]))
    expected = torch.tensor([[15.0, 0.0, 30.0], [0.0, 20.0, 20.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(intrinsics, expected)


def test_cameras_survive_the_encoding():
    torch.manual_seed(3)
    eye = torch.randn(2, 4, 3)
    cam2world = poses.look_at(eye, torch.zeros(2, 4, 3))
    intrinsics = torch.eye(3).repeat(2, 4, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 50.0, 70.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 28.0, 21.0
    again, lens = decode_pose(encode_pose(cam2world, intrinsics, (42, 56)), (42, 56))
    torch.testing.assert_close(again, cam2world, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens, intrinsics, rtol=1e-4, atol=1e-4)


def test_a_field_of_view_of_nothing_still_gives_a_finite_lens():
    _, intrinsics = decode_pose(torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0, 9]), (28, 28))
    assert bool(intrinsics.isfinite().all())
    assert float(intrinsics[1, 1]) == pytest.approx(14 / math.tan(LEAST_VIEW / 2), rel=1e-3)


def test_camera_rounds_add_up_and_pass_no_gradient_on():
    torch.manual_seed(0)
    head = CameraHead(8, depth=1, heads=2, rounds=3, eps=1e-5, layer_scale=1.0)
    init_weights(head)
    tokens = torch.randn(2, 3, 8)
    answers = head(tokens)
    assert len(answers) == 3
    head.rounds = 1
    assert torch.equal(answers[0], head(tokens)[0])
    answers[2].sum().backward()
    assert head.nothing_yet.grad is None  # only the first round reads it
    assert head.embed.weight.grad is not None
    assert bool((answers[2][..., 7:] >= 0).all())


def test_the_official_file_round_trips_with_its_track_head(model, tmp_path):
    official = mv.zoo.export_official(model)
    assert {key.split(".")[0] for key in official} == {"aggregator", "camera_head", "depth_head", "point_head"}
    path, track = tmp_path / "model.pt", {"track_head.query_ref_token": torch.rand(1, 2, 3)}
    torch.save({**official, **track}, path)
    out = mv.zoo.convert(path, arch="vggt-1b", out=tmp_path / "m", taps=model.config.taps, camera_rounds=2)
    loaded = mv.load(out)
    assert loaded.config == model.config
    images = torch.rand(1, 2, 3, 28, 42)
    ours, theirs = ask(loaded, images), ask(model, images)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = mv.zoo.export_official(loaded)
    assert again.keys() == {*official, *track}
    assert all(torch.equal(again[key], tensor) for key, tensor in {**official, **track}.items())


def test_another_encoder_in_the_file_is_named(model, tmp_path):
    official = mv.zoo.export_official(model)
    dropped = {k: t for k, t in official.items() if not k.startswith("aggregator.patch_embed.blocks.1.")}
    torch.save(dropped, tmp_path / "model.pt")
    with pytest.raises(UserError, match="8 wide and 1 deep"):
        mv.zoo.convert(tmp_path / "model.pt", arch="vggt-1b", out=tmp_path / "m")
