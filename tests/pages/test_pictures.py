"""Pictures and pages: near points cover far ones, invalid pixels are grey, text cannot become markup."""

from __future__ import annotations

import re

import numpy as np

from manyview.pages.charts import Wedge, line_chart, link_chart, plan_chart
from manyview.pages.page import Page
from manyview.pages.pictures import PAPER, cloud_picture, colour_map, depth_range, grid, legend, two_sides

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


def test_a_legend_has_every_colour_and_fits_its_width():
    names = [("sofa", (255, 0, 0)), ("x" * 5000, (0, 160, 0)), ("диван 🛋", (0, 0, 255)), ("", (200, 200, 0))]
    shown = legend(names, 120)
    assert shown.shape[1:] == (120, 3)
    for _, colour in names:
        assert (shown == colour).all(-1).sum() > 50
    rows = [int(np.flatnonzero((shown == colour).all(-1).any(1))[0]) for _, colour in names]
    assert rows == sorted(rows)
    assert len(set(rows)) > 2  # a long name has a row of its own
    assert (shown[:, -3:] == PAPER).all()
    assert legend([], 120).shape == (0, 120, 3)
    assert legend(names, 10).shape[1] == 10  # narrower than a letter


def test_chart_survives_nan_and_emptiness():
    svg = line_chart({"loss": ([1, 2, 3], [1.0, float("nan"), 0.1])}, x_label="step", y_label="loss", log=True)
    assert svg.count("<polyline") == 1
    assert "nan" not in svg
    assert "nothing" in line_chart({"loss": ([], [])}, x_label="", y_label="")


def test_links_are_lines_and_many_photos_keep_the_strongest():
    few = np.array([[9, 5, 0], [5, 9, 1], [0, 1, 9]])
    svg = link_chart(few, ["#000000"] * 3, [0, 0, 0])
    assert svg.count("<circle") == 3
    assert "<title>0 and 1 share 5</title>" in svg
    assert svg.count("<title>") == 2
    assert "dash" not in svg
    dashed = link_chart(few, ["#000000"] * 3, [0, 0, 1], refused={(0, 2): "7 matches, <too few>"})
    assert dashed.count("stroke-dasharray") == 2  # the pair, and the legend
    assert "<title>0 and 2: 7 matches, &lt;too few&gt;</title>" in dashed
    assert "matched, but refused" in dashed
    many = link_chart(np.random.default_rng(0).integers(1, 1000, (40, 40)), ["#000000"] * 40, [0] * 40)
    assert 40 * 3 <= many.count("<title>") <= 40 * 6


def test_a_plan_keeps_cameras_in_the_frame_and_says_its_length():
    wedges = [Wedge(np.array([[x, 0], [x - 1, 2], [x + 1, 2.0]]), "#112233", x) for x in (0, 10)]
    points = np.random.default_rng(0).uniform([-5, 20], [15, 30], (200, 2))
    svg = plan_chart(wedges, points, unit="m")
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    corners = [float(v) for of in re.findall(r'polygon points="(.*?)"', svg) for v in of.replace(",", " ").split()]
    assert len(corners) == 12
    assert min(corners) > 0
    assert max(corners[::2]) < width
    assert max(corners[1::2]) < height
    assert corners[1] > corners[3]  # forward is up
    assert "5 m</text>" in svg or "10 m</text>" in svg


def test_one_steps_back_until_what_must_be_seen_is():
    xyz = np.random.default_rng(0).normal([0, 0, 3], 0.4, (500, 3))
    aside = np.array([[1.1, 0, 2.0]])
    cloud, colours = np.concatenate([xyz, aside]), np.concatenate([np.tile(RED, (500, 1)), BLUE[None]])
    seen = two_sides(cloud, colours, within=aside)
    assert all((picture == BLUE).all(-1).any() for picture in seen)
    assert not all((picture == BLUE).all(-1).any() for picture in two_sides(cloud, colours))


def test_page_escapes_and_stands_alone(tmp_path):
    page = Page("<b>", "a & b")
    page.table(["<th>"], [["<script>"]], bold={(0, 0)})
    page.pictures([("caption <i>", np.zeros((2, 2, 3), np.uint8))])
    page.write(tmp_path / "sub/report.html")
    html = (tmp_path / "sub/report.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "data:image/jpeg;base64," in html
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["report.html"]
