"""What a view of a scene sees: not what lies behind its surfaces, before them, behind it or beside the picture."""

from __future__ import annotations

import numpy as np

from manyview.scene.views import SceneView, Source
from manyview.scene.visibility import look

SIZE, FOCAL = (40, 60), 50.0


def view(depth: np.ndarray, *, at: tuple[float, float, float] = (0, 0, 0), back: bool = False) -> SceneView:
    """A camera that looks along +z (or -z) with these depths."""
    matrix = np.array([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]])
    pose = np.diag([-1.0, 1, -1, 1]) if back else np.eye(4)
    pose[:3, 3] = at
    source = Source(SIZE, np.eye(3), matrix)
    depth = np.broadcast_to(depth, SIZE).astype(np.float32)
    return SceneView("v", np.zeros((*SIZE, 3), np.uint8), depth, np.ones(SIZE, np.float32), matrix, pose, source)


def sees(seen_by: SceneView, *points: tuple[float, float, float], tolerance: float = 0.1) -> list[bool]:
    return look(seen_by, np.array(points, np.float64), tolerance)[0].tolist()


def test_a_point_behind_a_wall_or_before_it_is_not_seen():
    wall = view(np.array(4.0))
    assert sees(wall, (0, 0, 4), (0, 0, 4.3), (0, 0, 3.7)) == [True, True, True]
    assert sees(wall, (0, 0, 4.5), (0, 0, 9), (0, 0, 3.5), (0, 0, 1)) == [False] * 4
    assert sees(wall, (0, 0, 4.5), (0, 0, 3.5), tolerance=0.2) == [True, True]


def test_a_near_object_hides_what_is_behind_it_and_nothing_else():
    depth = np.full(SIZE, 4.0)
    depth[:, :30] = 2.0  # the left half of the picture
    left, right = -1.0, 1.0  # metres beside the axis at four metres
    assert sees(view(depth), (left, 0, 4), (right, 0, 4), (left / 2, 0, 2)) == [False, True, True]


def test_pixels_are_where_the_points_fall():
    _, pixels = look(view(np.array(4.0)), np.array([[0.0, 0, 4], [1, 0.5, 4]]), 0.1)
    assert np.allclose(pixels, [[30, 20], [30 + 12.5, 20 + 6.25]])


def test_nothing_outside_the_picture_or_behind_the_camera_is_seen():
    wall = view(np.array(4.0))
    assert sees(wall, (2.39, 0, 4), (2.41, 0, 4), (-2.41, 0, 4), (0, 1.61, 4), (0, 0, -4)) == [True] + [False] * 4
    assert sees(view(np.array(0.0)), (0, 0, 4)) == [False]  # no depth, no word


def test_two_rooms_behind_one_wall_do_not_see_each_other():
    """Two cameras face each other with a wall between them: each sees its own side alone."""
    here, beyond = view(np.array(2.0)), view(np.array(2.0), at=(0, 0, 8), back=True)
    assert sees(here, (0, 0, 2), (0, 0, 6)) == [True, False]
    assert sees(beyond, (0, 0, 2), (0, 0, 6)) == [False, True]
