"""The sensor teacher on scenes whose geometry is known: points, frames, and what its confidence says
where."""

from __future__ import annotations

import math

import pytest
import torch

from manyview.errors import UserError
from manyview.geometry import cameras, pointmaps, poses
from manyview.geometry.measured import plane_step
from manyview.teachers.base import TEACHERS
from manyview.teachers.sensor import Sensor
from manyview.types import Views, WeightRule

HEIGHT, WIDTH = 40, 56
BOX_LOW, BOX_HIGH = torch.tensor([-0.5, -0.4, 0.0]), torch.tensor([0.5, 0.4, 0.8])


def scene() -> tuple[Views, torch.Tensor, torch.Tensor]:
    """Three views of a box on a floor (z = 0): the Views, the true world points (1, 3, H, W, 3), which see
    the box."""
    eyes = torch.tensor([[3.0, 0.4, 2.0], [2.2, 2.0, 1.6], [2.0, -2.1, 2.4]])
    cam2world = poses.look_at(eyes, torch.tensor([0.0, 0.0, 0.3]).expand(3, 3))
    intrinsics = cameras.intrinsics_matrix(60.0, 62.0, 27.0, 21.0).expand(3, 3, 3)
    rays = cameras.rays(intrinsics, HEIGHT, WIDTH)
    direction = (rays[..., None, :] @ cam2world[:, None, None, :3, :3].transpose(-1, -2))[..., 0, :].double()
    origin = eyes[:, None, None].double()
    floor = -origin[..., 2] / direction[..., 2]
    near_far = torch.stack([(BOX_LOW.double() - origin) / direction, (BOX_HIGH.double() - origin) / direction])
    enter, leave = near_far.min(0).values.max(-1).values, near_far.max(0).values.min(-1).values
    on_box = (enter < leave) & (enter > 0) & (enter < floor)
    depth = torch.where(on_box, enter, floor)  # rays have z = 1, so the ray's parameter is the depth
    world = origin + depth[..., None] * direction
    depth = torch.where((depth > 0) & (depth < 20), depth, 0)
    views = Views(
        images=torch.zeros(1, 3, 3, HEIGHT, WIDTH),
        intrinsics=intrinsics[None],
        cam2world=cam2world[None],
        depth=depth.float()[None],
        names=[["a.png", "b.png", "c.png"]],
    )
    return views, world.float()[None], on_box[None]


def test_points_of_all_views_lie_on_the_true_surface():
    views, world, on_box = scene()
    signals = Sensor()(views)
    valid = signals["pointmap"].valid
    assert valid.float().mean() > 0.9
    assert bool((on_box & valid).flatten(2).any(-1).all())
    first_from_world = poses.invert(views.cam2world[:, :1]).expand(1, 3, 4, 4)
    expected = pointmaps.transform(first_from_world, world)
    assert torch.allclose(signals["pointmap"].value[valid], expected[valid], atol=1e-4)
    local = pointmaps.transform(poses.invert(views.cam2world), world)
    assert torch.allclose(signals["pointmap_local"].value[valid], local[valid], atol=1e-4)


def test_every_view_puts_the_top_of_the_box_in_the_same_place_of_the_world():
    views, _, on_box = scene()
    points = Sensor()(views)["pointmap"].value
    world = pointmaps.transform(views.cam2world[:, :1].expand(1, 3, 4, 4), points)
    for view in range(3):
        high = on_box[0, view] & (world[0, view, ..., 2] > 0.7995)
        top = world[0, view][high]
        assert len(top) > 20
        assert torch.allclose(top[:, 2], torch.full_like(top[:, 2], 0.8), atol=6e-4)
        assert bool(((top[:, :2].abs() - BOX_HIGH[:2]) < 1e-4).all())
        # seen from the first camera, another view's top points lie on the surface the first camera measured
        uv, depth = cameras.project(poses.apply(poses.invert(views.cam2world[0, 0]), top), views.intrinsics[0, 0])
        own = 1 / sample_inverse(views.depth[0, 0], uv)
        inside = sample_inverse((on_box[0, 0] & (world[0, 0, ..., 2] > 0.7995)).float(), uv) == 1
        assert int(inside.sum()) > 10
        assert torch.allclose(own[inside], depth[inside], rtol=1e-3)


def sample_inverse(values: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Linear between pixel centres: 1/values of a depth map (exact on planes), or the values of a 0/1 map."""
    mask = bool(((values == 0) | (values == 1)).all())
    grid = (uv / torch.tensor([WIDTH, HEIGHT]) * 2 - 1)[None, None]
    image = (values if mask else 1 / values.clamp(min=1e-6))[None, None]
    return torch.nn.functional.grid_sample(image, grid, align_corners=False)[0, 0, 0]


def test_in_the_first_view_global_is_local():
    signals = Sensor()(scene()[0])
    assert torch.allclose(signals["pointmap"].value[:, 0], signals["pointmap_local"].value[:, 0], atol=1e-6)


def test_far_away_worlds_keep_their_precision():
    views, _, _ = scene()
    near = Sensor()(views)["pointmap"].value
    views.cam2world = views.cam2world.double()
    views.cam2world[..., :3, 3] += torch.tensor([4e5, 5e6, 100.0], dtype=torch.float64)
    assert torch.allclose(Sensor()(views)["pointmap"].value, near, atol=1e-4)


def wall(tilt: float) -> Views:
    """One view of a plane 2 m away whose normal is `tilt` degrees from the optical axis."""
    intrinsics = cameras.intrinsics_matrix(400.0, 400.0, WIDTH / 2, HEIGHT / 2)[None, None]
    rays = cameras.rays(intrinsics, HEIGHT, WIDTH)
    normal = torch.tensor([math.sin(math.radians(tilt)), 0.0, math.cos(math.radians(tilt))])
    return Views(torch.zeros(1, 1, 3, HEIGHT, WIDTH), intrinsics, depth=2 * normal[2] / (rays @ normal))


@pytest.mark.parametrize(("tilt", "expected"), [(0, 10.0), (50, 10.0), (80, None), (89, 1.0)])
def test_confidence_falls_smoothly_with_grazing_angle(tilt, expected):
    views = wall(tilt)
    signals = Sensor()(views)
    if expected is not None:
        middle = signals["confidence"].value[0, 0, HEIGHT // 2, WIDTH // 2]
        assert float(middle) == pytest.approx(expected, abs=0.1)
        return
    ray = torch.nn.functional.normalize(cameras.rays(views.intrinsics, HEIGHT, WIDTH), dim=-1)[0, 0]
    normal = torch.tensor([math.sin(math.radians(80)), 0.0, math.cos(math.radians(80))])
    part = (ray @ normal).abs() / 0.5
    expected = 1 + 9 * part.square() * (3 - 2 * part)
    assert torch.allclose(signals["confidence"].value[0, 0, 1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.02)


def test_a_step_is_an_edge_and_a_slanted_plane_is_not():
    views = wall(70)
    step = plane_step(views.depth, views.depth > 0)
    assert float(step[..., 1:-1, 1:-1].max()) < 1e-4
    views.depth[..., WIDTH // 2 :] *= 1.2
    confidence = Sensor()(views)["confidence_local"].value[0, 0, 5:-5]
    assert float(confidence[:, WIDTH // 2 - 1 : WIDTH // 2 + 1].max()) < 1.01
    assert float(confidence[:, WIDTH // 2 + 2].min()) > 5


def test_plane_step_matches_a_loop():
    generator = torch.Generator().manual_seed(0)
    depth = 1 + torch.rand(6, 7, generator=generator)
    valid = torch.rand(6, 7, generator=generator) > 0.3
    expected = torch.zeros(6, 7)
    for y in range(6):
        for x in range(7):
            if not valid[y, x]:
                continue
            for dy, dx in ((0, 1), (1, 0)):
                total = 0.0
                for sign in (-1, 1):
                    j, i = y + sign * dy, x + sign * dx
                    if 0 <= j < 6 and 0 <= i < 7 and valid[j, i]:
                        total += 1 / float(depth[j, i]) - 1 / float(depth[y, x])
                expected[y, x] = max(float(expected[y, x]), abs(total) * float(depth[y, x]))
    assert torch.allclose(plane_step(depth, valid), expected, atol=1e-5)


def test_what_is_not_measured_is_invalid_and_poisons_nothing():
    views = wall(0)
    views.depth[0, 0, 3, 4:9] = torch.tensor([float("nan"), float("inf"), -1.0, 0.0, -float("inf")])
    signals = Sensor()(views)
    for name, signal in signals.items():
        assert not bool(signal.valid[0, 0, 3, 4:9].any()), name
        assert int((~signal.valid).sum()) == 5
        assert bool(torch.isfinite(signal.value).all()), name
    assert bool((signals["confidence"].value[0, 0, 3, 4:9] == 1).all())
    assert bool((signals["confidence"].value[~signals["confidence"].valid] == 1).all())


def test_weights_follow_from_confidence():
    signals = Sensor()(scene()[0])
    for name, confidence in (("pointmap", "confidence"), ("pointmap_local", "confidence_local")):
        raw = signals[confidence].value
        assert float(raw.min()) >= 1
        assert float(raw.max()) <= 10
        assert torch.equal(signals[name].weight, (raw / 10).clamp(0.1, 1))
    assert WeightRule(10, 0.1, 1)(torch.tensor([0.0, 5.0, 100.0])).tolist() == pytest.approx([0.1, 0.5, 1.0])


@pytest.mark.parametrize(
    ("field", "words"), [("depth", "measured depth"), ("intrinsics", "fx, fy"), ("cam2world", "cam2world")]
)
def test_missing_inputs_name_the_frame(field, words):
    views, _, _ = scene()
    setattr(views, field, None)
    with pytest.raises(UserError, match=rf"'a\.png'.*{words}") as error:
        Sensor()(views)
    assert "\n" not in str(error.value)


def test_nan_in_a_pose_names_the_frame():
    views, _, _ = scene()
    views.cam2world[0, 2, 1, 3] = float("nan")
    with pytest.raises(UserError, match=r"'c\.png'.*pose"):
        Sensor()(views)


def test_one_view_needs_no_pose():
    signals = Sensor()(wall(0))
    assert torch.equal(signals["pointmap"].value, signals["pointmap_local"].value)


def test_digest_says_when_answers_can_differ():
    assert Sensor().digest() == Sensor().digest()
    assert Sensor().digest() != Sensor(edge_step=0.05).digest()


def test_registry_knows_it_and_guesses():
    assert TEACHERS.get("sensor") is Sensor
    with pytest.raises(UserError, match="did you mean 'sensor'"):
        TEACHERS.get("senser")
