"""Rendered scenes: geometry that agrees with itself, labels that stay with their objects, the same bits again."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import pytest
import torch

from manyview.data.synthetic import CLASSES, furnishing, render_scene, textures, trajectories
from manyview.data.synthetic.materials import TEXTURES, Material
from manyview.data.synthetic.models import FURNITURE, SMALL, build, object_names
from manyview.data.synthetic.shading import albedo, surface
from manyview.data.synthetic.world import DENSE, World
from manyview.errors import UserError
from manyview.geometry import poses
from manyview.geometry.cameras import project
from manyview.geometry.pointmaps import depth_edges, normals, transform, unproject

SIZE = (72, 100)


@pytest.fixture(scope="module", params=[(0, "room"), (4, "room"), (2, "tabletop")], ids=lambda p: f"{p[1]}-{p[0]}")
def scene(request):
    seed, kind = request.param
    return render_scene(seed, views=4, size=SIZE, kind=kind)


def test_shapes_ranges_and_units(scene):
    views = 4
    assert scene.images.shape == (views, 3, *SIZE)
    assert scene.images.min() >= 0
    assert scene.images.max() <= 1
    assert scene.images.std() > 0.08  # a picture, not a wall of one colour
    assert scene.depth.shape == scene.labels.shape == scene.instances.shape == (views, *SIZE)
    assert scene.depth.min() > 0.02
    assert scene.depth.max() < 9  # metres: the diagonal of the largest room
    assert (scene.labels.dtype, scene.instances.dtype) == (torch.uint8, torch.int16)
    assert scene.labels.max() < len(CLASSES)
    assert scene.instances.min() >= 1
    torch.testing.assert_close(scene.normals.norm(dim=-1), torch.ones(views, *SIZE))
    rotation = scene.cam2world[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(views, 3, 3), atol=1e-5, rtol=0)


def test_one_view_predicts_the_depth_of_the_next(scene):
    """Points of view i, projected into view j, lie on what j sees or behind it, but for pixels at its edges."""
    world = transform(scene.cam2world, unproject(scene.depth, scene.intrinsics))
    edges = depth_edges(scene.depth)
    compared = 0
    for i, j in ((0, 1), (1, 2), (3, 2)):
        local = poses.apply(poses.invert(scene.cam2world[j]), world[i].flatten(0, 1))
        uv, z = project(local, scene.intrinsics[j])
        column, row = uv[:, 0].floor().long(), uv[:, 1].floor().long()
        inside = (z > 0.05) & (column >= 1) & (row >= 1) & (column < SIZE[1] - 1) & (row < SIZE[0] - 1)
        column, row, z = column[inside], row[inside], z[inside]
        # Compare on the plane of the pixel that is hit: move along its surface to where the point projects.
        hit, normal = (unproject(scene.depth[j], scene.intrinsics[j])[row, column], scene.normals[j, row, column])
        ray = local[inside] / z[:, None]
        there = (hit * normal).sum(-1) / (ray * normal).sum(-1)
        smooth = ~edges[j][row, column]
        # The same instance means the same surface, unless it hides itself.
        same = smooth & (scene.instances[i].flatten()[inside] == scene.instances[j][row, column])
        error = ((z - there) / z).abs()[same]
        compared += len(error)
        assert (error < 0.003).float().mean() > 0.8
        assert ((z - there) / z)[smooth].quantile(0.02) > -0.03  # nothing in front of what is seen
    assert compared > 2000


def test_normals_agree_with_the_points(scene):
    local = unproject(scene.depth, scene.intrinsics)
    measured = normals(local)
    assert ((scene.normals * local).sum(-1) < 1e-4).all()  # towards the camera
    # On a plane, inverse depth is affine in the pixel: where it bends, differences of points mean nothing.
    near = 1 / scene.depth
    flat = torch.zeros_like(near, dtype=torch.bool)
    bend_x = (near[:, 1:-1, 2:] + near[:, 1:-1, :-2] - 2 * near[:, 1:-1, 1:-1]).abs()
    bend_y = (near[:, 2:, 1:-1] + near[:, :-2, 1:-1] - 2 * near[:, 1:-1, 1:-1]).abs()
    flat[:, 1:-1, 1:-1] = torch.maximum(bend_x, bend_y) < 2e-5 * near[:, 1:-1, 1:-1]
    agreement = (measured * scene.normals).sum(-1)[flat]
    assert len(agreement) > 0.3 * scene.depth.numel()
    assert (agreement > 0.999).float().mean() > 0.99


def test_an_instance_has_one_label_in_all_views(scene):
    for instance in scene.instances.unique():
        assert scene.labels[scene.instances == instance].unique().numel() == 1
    assert scene.instances.unique().numel() >= 8


def test_shell_labels_match_the_geometry(scene):
    height = transform(scene.cam2world, unproject(scene.depth, scene.intrinsics))[..., 2]
    floor = scene.labels == CLASSES.index("floor")
    assert floor.any()
    torch.testing.assert_close(height[floor], torch.zeros_like(height[floor]), atol=1e-4, rtol=0)
    assert (height > -1e-4).all()


def test_the_same_seed_gives_the_same_bits_whatever_was_rendered_before():
    first = render_scene(11, views=3, size=SIZE)
    render_scene(12, views=2, size=(40, 56))
    torch.rand(5)
    second = render_scene(11, views=3, size=SIZE)
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    other = render_scene(13, views=3, size=SIZE)
    assert not torch.equal(first.depth, other.depth)


def test_auto_draws_rooms_and_tabletops_and_several_paths():
    scenes = [render_scene(seed, views=2, size=(24, 32)) for seed in range(9)]
    assert [scene.kind for scene in scenes].count("tabletop") == 3
    assert len({scene.trajectory for scene in scenes}) >= 3


@pytest.mark.parametrize("name", trajectories.NAMES)
def test_paths_stay_in_the_open_and_overlap(name):
    good = 0
    for seed in (0, 1, 2, 3):
        world = furnishing.build(seed, "tabletop" if seed == 2 else "room")
        path = trajectories.choose(world, Random(seed), views=6, size=(112, 154), name=name)
        assert path.name == name
        eyes = path.cam2world[:, :3, 3]
        inside = ((eyes > 0.1) & (eyes < torch.tensor(world.size) - 0.1)).all()
        step = (eyes[1:] - eyes[:-1]).norm(dim=-1)
        good += bool(inside) and trajectories._clear(world, path) == 1.0 and step.max().item() < 2.0
        assert (eyes - eyes.mean(0)).norm(dim=-1).max() > 0.02  # it moves
    assert good >= 3


def test_consecutive_views_overlap():
    overlaps = []
    for seed in (0, 1, 2):
        scene = render_scene(seed, views=5, size=(36, 50))
        path = trajectories.Path("given", scene.cam2world, scene.intrinsics)
        overlaps.append(trajectories._overlap(scene.depth, path, torch.ones(3, 1)).mean())
    assert min(overlaps) > 0.4


def test_wrong_requests_are_the_users_mistake():
    with pytest.raises(UserError, match="did you mean 'tabletop'"):
        render_scene(0, kind="tabeltop")
    with pytest.raises(UserError, match="trajectory 'fly'"):
        render_scene(0, trajectory="fly")
    with pytest.raises(UserError, match="8x8"):
        render_scene(0, size=(4, 100))
    with pytest.raises(UserError, match="views=0"):
        render_scene(0, views=0)


def test_every_class_can_be_built_in_many_ways_and_stands_on_the_ground():
    built = {build(name, Random(0)).name for name in object_names()}
    assert set(FURNITURE) | set(SMALL) <= built
    assert len(FURNITURE) + len(SMALL) >= 20
    for name in object_names():
        sizes = set()
        for seed in range(12):
            model = build(name, Random(seed))
            low, high = model.bounds
            sizes.add(tuple((high - low).round(3)))
            if name not in ("picture", "wall clock"):
                assert abs(low[2]) < 0.07, name
            assert all(low[a] < high[a] for a in range(3))
            assert (high - low).max() < 2.6, name
            for top in model.tops:
                assert 0 < top.z <= high[2] + 0.02
                assert top.width > 0
                assert top.depth > 0
        assert len(sizes) > 3, f"{name} always has the same size"


def test_furniture_does_not_stand_in_furniture():
    for seed in range(6):
        world = furnishing.build(seed, "room")
        solid = [block for block in world.blocks if block.solid]
        for i, one in enumerate(solid):
            for other in solid[:i]:
                depth = [min(one.high[a], other.high[a]) - max(one.low[a], other.low[a]) for a in range(3)]
                # chairs are drawn up to tables, whose bounds are mostly air
                assert min(depth) < 0.45, f"seed {seed}: {one} and {other}"


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_answer_colours_and_fade_with_distance(texture):
    """On one side of a box: colours in range; where a pixel covers a metre, nothing is left to alias."""
    material = Material((0.7, 0.4, 0.2), (0.1, 0.2, 0.5), texture, 0.1, phase=3.7)
    world = World((4.0, 4.0, 3.0), [material] * 6)
    table = world.appearance()
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(3, 500, generator=generator) * torch.tensor([[0.0], [4.0], [3.0]])  # the wall x = 0
    view = torch.tensor([[-1.0], [0.0], [0.0]]).expand(3, 500)
    seen = torch.zeros(500, dtype=torch.int32)
    rows = table[:DENSE].index_select(1, seen)
    spots = surface(table, rows, seen, points, view)
    torch.testing.assert_close(spots.normal, torch.tensor([[1.0], [0.0], [0.0]]).expand(3, 500))
    near, far = (albedo(table, rows, seen, spots, torch.full((500,), blur)) for blur in (0.002, 1.0))
    assert torch.isfinite(near).all()
    assert near.min() >= 0
    assert near.max() < 2.5
    assert textures._NO_DRAWS.getstate() == Random(0).getstate()  # the same place has the same colour
    if texture != "plain":
        assert near.std(1).max() > 0.01
    if texture in ("checks", "stripes", "dots", "plaid", "zigzag", "hexagons", "wallpaper", "folds", "keyboard"):
        assert far.std(1).max() < 0.25 * near.std(1).max()
