"""The report of a scene: what it says, and that a browser shows it without asking anyone for anything."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from analytic_room import shots
from coloured_wall import GREEN, RED, coloured_wall, near
from manyview.cli.main import main
from manyview.scene.report import write_report
from manyview.scene.scene import Scene
from manyview.scene.trust import COLOURS, failures, parts, rgb, shared_points, trust, verdict

MATCHES, UNCHECKED = rgb(COLOURS["matches"]), rgb(COLOURS["model"])


@pytest.mark.parametrize(
    ("worth", "first", "drawn"),
    [
        (["matches"] * 3, "All 3 photos are registered. Their cameras rest: 3 on verified matches with parallax.", 1),
        (["matches", "matches", "nothing"], "2 of 3 photos are registered.", 1),
        (["given", "given"], "Both photos are registered. Their cameras rest: 2 on the camera that was given.", 1),
        (["nothing"] * 3, "This scene has no cameras: none of its 3 photos could be tied to another one.", 0),
        (["model"] * 3, "No camera of this scene is checked: where its 3 photos stand is the network's word alone.", 1),
        (["model"], "One photo: its depth and its points are the network's guess, and no second photo checks them.", 1),
    ],
)
def test_the_first_sentence_says_what_the_cameras_are_worth(worth, first, drawn):
    scene = coloured_wall(worth)
    assert verdict(scene).startswith(first)
    assert len(parts(scene)) == drawn


def test_a_photo_alone_in_its_frame_has_no_place_whatever_its_pose_says():
    scene = coloured_wall(["matches", "matches", "nothing"])
    scene.views[2] = replace(scene.views[2], rests_on="model")
    assert trust(scene) == ["matches", "matches", "nothing"]
    scene.views[2] = replace(scene.views[2], rests_on="nothing", cam2world=None)
    assert parts(scene) == {0: [0, 1]}
    assert failures(scene) == ["Without a place, for lack of verified matches with other photos: 2 (2.png)."]


def test_scenes_that_nothing_joins_are_counted():
    scene = coloured_wall(["matches"] * 5)
    for view in scene.views[3:]:
        view.component = 1
    assert verdict(scene).startswith("All 5 photos are registered, in 2 scenes of 3 + 2 photos that nothing joins.")
    assert parts(scene) == {0: [0, 1, 2], 1: [3, 4]}


def test_a_scene_without_fault_has_no_failures_and_weak_ones_are_named():
    scene = coloured_wall(["matches"] * 3)
    assert failures(scene) == []
    scene.views[1].inliers = 11
    scene.info["skipped"] = ["bad.jpg: not an image"]
    assert failures(scene)[0] == "Left out: bad.jpg: not an image."
    assert "fewer than 30 observations: 1 (1.png, 11)." in failures(scene)[1]


def test_refused_pairs_are_drawn_and_listed_with_why(tmp_path):
    scene = coloured_wall()
    pair = {"views": ["1.png", "3.png"], "matches": 41, "agreeing": 12, "why": "too few matches agree"}
    scene.info["unlinked"] = [pair, {**pair, "views": ["1.png", "gone.png"]}]
    scene.save(tmp_path / "s")
    text = write_report(Scene.load(tmp_path / "s"), tmp_path / "report.html").read_text()
    assert "<title>1 and 3: 41 matches, too few matches agree</title>" in text
    assert "<td>1 and 3</td><td>41</td><td>12</td><td>too few matches agree</td>" in text
    assert "stroke-dasharray" in text
    assert "matched, but refused" in text
    scene.info["unlinked"] = []
    assert "but refused" not in write_report(scene, tmp_path / "report.html").read_text()


def test_shared_points_count_each_point_once():
    shared = shared_points(coloured_wall())
    assert shared[0, 1] == 60
    assert shared[0, 2] == shared[1, 2] == 40
    assert shared[:, 3].sum() == 0
    assert shared_points(replace(coloured_wall(), tracks=None)).sum() == 0


def test_names_cannot_become_markup_and_thirty_photos_stay_small(tmp_path):
    scene = coloured_wall(["matches"] * 30)
    rng = np.random.default_rng(0)
    for view in scene.views:
        view.name = f"<script>{view.name}"
        view.image = Image.fromarray(rng.integers(0, 255, (37, 50, 3), np.uint8))  # as busy as a photo
        view.image = np.asarray(view.image.resize((518, 392), Image.Resampling.BICUBIC))
        view.depth, view.confidence = (np.full((392, 518), value, np.float32) for value in (2, 3))
    text = write_report(scene, tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 60
    assert len(text) < 4e6


def test_reconstruct_ends_with_a_report_unless_told_not_to(tmp_path, capsys):
    for index, shot in enumerate(shots(2, size=(84, 112), focal=105)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(shot.picture()).save(tmp_path / f"photos/p{index}.jpg")
    (tmp_path / "photos/bad.jpg").write_bytes(b"junk")
    line = ["reconstruct", str(tmp_path / "photos"), "--model", "manyview-tiny", "-o", str(tmp_path / "s")]
    assert main([*line, "--json"]) == 0
    report = tmp_path / "s/report.html"
    assert json.loads(capsys.readouterr().out)["report"] == str(report)
    text = report.read_text()
    assert verdict(Scene.load(tmp_path / "s")) in text
    assert "bad.jpg: not an image" in text
    assert verdict(Scene.load(tmp_path / "s")).startswith("This scene has no cameras") != ("--to glb" in text)
    assert main([*line, "--no-report"]) == 0
    assert "report" not in capsys.readouterr().out
    assert not report.exists()  # it spoke of an older scene


def open_report(browser, scene, path):
    """The page, what it asked for beside itself, and what it complained of."""
    write_report(scene, path)
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    beside = [url for url in asked if url != path.as_uri() and not url.startswith("data:")]
    return page, beside, complaints


def pixels(shot: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


def test_a_browser_shows_the_report_and_fetches_nothing(browser, tmp_path):
    scene = coloured_wall()
    scene.info["skipped"] = ["bad.jpg: not an image of a known format"]
    page, beside, complaints = open_report(browser, scene, tmp_path / "report.html")
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 2 + 2 + 4  # the cloud from two sides, two pairs, a strip per photo
    assert min(widths) > 100
    assert (beside, complaints) == ([], [])
    words = page.inner_text("body")
    assert "3 of 4 photos are registered" in words
    assert "Left out: bad.jpg: not an image of a known format." in words
    assert "Without a place, for lack of verified matches with other photos: 3 (3.png)." in words
    assert page.locator("svg title").all_inner_texts() or page.locator("svg title").count() == 3
    for image in page.locator("img").all()[:2]:
        cloud = pixels(image.screenshot())
        assert near(cloud, RED) > 300
        assert near(cloud, GREEN) > 300
        assert near(cloud, MATCHES) > 30  # cameras in the colour of what they rest on
    plan = pixels(page.locator("svg").first.screenshot())
    assert near(plan, MATCHES, 12) > 10
    assert near(plan, UNCHECKED, 12) == 0
    page.close()


def test_a_browser_shows_unchecked_cameras_in_another_colour(browser, tmp_path):
    page, *_ = open_report(browser, coloured_wall(["model"] * 3), tmp_path / "report.html")
    assert "A guess, drawn as the network says it and checked by nothing" in page.inner_text("body")
    plan = pixels(page.locator("svg").first.screenshot())
    assert near(plan, UNCHECKED, 12) > 10
    assert near(plan, MATCHES, 12) == 0
    page.close()


def test_a_browser_shows_no_cloud_where_there_are_no_cameras(browser, tmp_path):
    page, beside, complaints = open_report(browser, coloured_wall(["nothing"] * 3), tmp_path / "report.html")
    assert (beside, complaints) == ([], [])
    assert page.locator("p").first.inner_text().startswith("This scene has no cameras")
    assert "Not drawn" in page.inner_text("body")
    assert page.locator("img").count() == 3  # a strip of depth each
    assert page.locator("svg").count() == 0
    assert near(pixels(page.screenshot(full_page=True)), MATCHES, 12) == 0
    page.close()


def test_the_page_itself_forbids_what_a_later_hand_might_add(browser, tmp_path):
    """The control of the two tests above: a page that does ask for something is told apart."""
    path = tmp_path / "report.html"
    page, *_ = open_report(browser, coloured_wall(["matches"] * 2), path)
    asked = []
    page.on("console", lambda message: asked.append(message.text))
    page.evaluate("document.body.appendChild(new Image()).src = 'http://127.0.0.1:9/spy.png'")
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in text for text in asked)
    page.close()
