"""Pictures and pages: near points cover far ones, invalid pixels are grey, text cannot become markup."""

from __future__ import annotations

import numpy as np

from manyview.pages.charts import line_chart
from manyview.pages.page import Page
from manyview.pages.pictures import cloud_picture, colour_map, depth_range, grid, two_sides

RED, BLUE = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)


def test_near_points_cover_far_ones_whatever_their_order():
    points = np.array([[0, 0, 1.0], [0, 0, 3.0]])
    for order in ([0, 1], [1, 0]):
        picture = cloud_picture(points[order], np.stack([RED, BLUE])[order], np.eye(4), size=(20, 30))
        assert (picture[10, 15] == RED).all()
        assert not (picture == BLUE).all(-1).any()


def test_points_behind_the_camera_and_empty_clouds_are_no_pictures():
    behind = cloud_picture(np.array([[0, 0, -1.0]]), RED[None], np.eye(4), size=(8, 8))
    assert (behind == behind[0, 0]).all()
    assert [p.shape for p in two_sides(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), size=(8, 8))] == [(8, 8, 3)] * 2


def test_a_cloud_is_in_view_from_both_sides():
    xyz = np.random.default_rng(0).normal([0, 0, 3], 0.4, (500, 3))
    for picture in two_sides(xyz, np.tile(RED, (500, 1))):
        rows, columns = np.nonzero((picture == RED).all(-1))
        assert len(rows) > 300
        assert abs(rows.mean() - 150) < 60
        assert abs(columns.mean() - 210) < 60


def test_invalid_pixels_are_grey_and_do_not_set_the_range():
    depth = np.array([[0.0, 1.0, 2.0, np.nan]])
    low, high = depth_range(depth)
    assert 1 <= low < high <= 2
    picture = colour_map(depth, low, high, valid=np.array([[False, True, True, False]]))
    assert (picture[0, 0] == 224).all()
    assert not (picture[0, 1] == picture[0, 2]).all()
    assert depth_range(np.zeros((2, 2))) == (0.0, 1.0)


def test_grid_pads_rows_of_different_widths():
    tall, wide = np.zeros((4, 6, 3), np.uint8), np.zeros((2, 9, 3), np.uint8)
    assert grid([[tall], [wide, wide]], gap=1).shape == (4 + 1 + 2, 9 + 1 + 9, 3)


def test_chart_survives_nan_and_emptiness():
    svg = line_chart({"loss": ([1, 2, 3], [1.0, float("nan"), 0.1])}, x_label="step", y_label="loss", log=True)
    assert svg.count("<polyline") == 1
    assert "nan" not in svg
    assert "nothing" in line_chart({"loss": ([], [])}, x_label="", y_label="")


def test_page_escapes_and_stands_alone(tmp_path):
    page = Page("<b>", "a & b")
    page.table(["<th>"], [["<script>"]], best=0)
    page.pictures([("caption <i>", np.zeros((2, 2, 3), np.uint8))])
    page.write(tmp_path / "sub/report.html")
    html = (tmp_path / "sub/report.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "data:image/jpeg;base64," in html
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["report.html"]
