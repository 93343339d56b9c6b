"""The viewer in a real browser: what is drawn, and what changes when somebody moves a slider or chooses."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from coloured_wall import GREEN, RED, coloured_wall, near
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.pages.page import MARK
from manyview.scene import locate
from manyview.scene.trust import COLOURS, rgb

pytest.importorskip("viser", reason="needs the viewer: pip install 'manyview[view]'")
MATCHES, DEPTH, SHARED = rgb(COLOURS["matches"]), rgb(COLOURS["depth"]), (255, 128, 0)


@pytest.fixture
def shown(browser):
    """A function that opens a scene and gives the viewer and a page that shows it."""
    from manyview.viewer.app import Viewer

    ends: list[Callable[[], None]] = []

    def show(scene):
        viewer = Viewer(scene, port=0)
        ends.append(viewer.close)
        page = browser.new_page(viewport={"width": 640, "height": 400})
        ends.append(page.close)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(viewer.url)
        page.wait_for_selector("text=manyview")
        return viewer, page

    yield show
    for end in reversed(ends):
        end()


def picture(page) -> np.ndarray:
    """The 3D picture as the browser shows it, left of the panels, without the notice that WebGL is done in software."""
    page.evaluate("document.querySelectorAll('[role=alert]').forEach(notice => notice.remove())")
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return np.asarray(shot.crop((0, 40, 320, 400)))


def until(page, true: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The picture once it is so; the last one after half a minute, of which a quiet machine needs two seconds."""
    end = time.monotonic() + 30
    while not true(seen := picture(page)) and time.monotonic() < end:
        page.wait_for_timeout(250)
    return seen


def slide(page, number: int, key: str) -> None:
    page.locator("[role=slider]").nth(number).focus()
    page.keyboard.press(key)


def test_points_and_cameras_are_drawn_and_filters_change_them(shown):
    viewer, page = shown(coloured_wall())
    seen = until(page, lambda p: near(p, RED) > 400 and near(p, MATCHES) > 50)
    assert near(seen, RED) > 400
    assert near(seen, GREEN) > 400
    assert near(seen, MATCHES) > 50  # frusta of the first two
    assert near(seen, DEPTH) > 20  # and of the third
    page.get_by_label("photos", exact=True).uncheck()  # these are red and green too
    slide(page, 0, "End")  # leave out the less confident, which are red
    seen = until(page, lambda p: near(p, RED) < 30)
    assert viewer.least_confident == 0.99
    assert near(seen, RED) < 30
    assert near(seen, GREEN) > 400
    page.get_by_label("cloud", exact=True).uncheck()
    seen = until(page, lambda p: near(p, GREEN) < 30)
    assert near(seen, GREEN) < 30
    orange = near(seen, SHARED, 20)
    assert orange > 100  # the shared points are left
    slide(page, 2, "End")  # and of these only the ones that all three show
    seen = until(page, lambda p: near(p, SHARED, 20) < 0.9 * orange)
    assert viewer.least_views == 3
    assert 0.4 * orange < near(seen, SHARED, 20) < 0.9 * orange
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {viewer.url.split("/")[2]}
    words = page.inner_text("body")
    assert "3 of 4 photos are registered" in words
    assert "Without a place" in words


def test_the_chosen_pair_is_shown_as_a_picture_and_as_lines(shown):
    scene = coloured_wall(["matches", "matches", "depth"])
    viewer, page = shown(scene)
    viewer.cloud_visible = False
    viewer.draw_cloud()
    assert page.get_by_text("60 shared points").is_visible()
    page.get_by_label("lines in space").check()
    page.get_by_label("b", exact=True).click()
    page.get_by_text("2: 2.png").last.click()
    page.get_by_text("40 shared points").wait_for(timeout=30_000)
    assert viewer.pair == (0, 2)
    before = near(until(page, lambda p: near(p, MATCHES) > 200), MATCHES)
    page.get_by_label("lines in space").uncheck()
    after = near(until(page, lambda p: near(p, MATCHES) < 0.8 * before), MATCHES)
    assert after < 0.8 * before


def test_words_are_looked_up_and_drawn(shown, monkeypatch):
    words = {"sofa": [1.0, 0.0, 0.0], "wall": [0.0, 1.0, 0.0]}
    monkeypatch.setattr(locate, "spoken", lambda *_: lambda texts: np.array([words.get(t, [0, 0, 1.0]) for t in texts]))
    scene = coloured_wall()
    for view in scene.views:
        cells = np.tile(np.float16([0, 1, 0]), (*view.depth.shape, 1))
        cells[:, : view.depth.shape[1] // 2] = [1, 0, 0]
        view.features = {"words": cells}
    viewer, page = shown(scene)
    viewer.cloud_visible = viewer.photos_visible = False
    viewer.draw_cloud()
    viewer.draw_cameras()
    colour = tuple(int(value) for value in locate.colours(2)[1])
    assert near(until(page, lambda p: near(p, RED) < 30), colour) < 30
    page.locator(".mantine-TextInput-input").last.fill("boat, sofa")
    page.get_by_role("button", name="find", exact=True).last.click()
    page.get_by_text("boat: not there").wait_for(timeout=30_000)
    assert "sofa: " in page.inner_text("body")
    assert near(until(page, lambda p: near(p, colour) > 100), colour) > 100
    monkeypatch.undo()
    page.get_by_role("button", name="find", exact=True).last.click()
    page.get_by_text("no text encoder speaks for").wait_for(timeout=30_000)
    assert near(until(page, lambda p: near(p, colour) < 30), colour) < 30


def test_a_scene_without_cameras_shows_no_points(shown):
    """The control: nothing is red or green, and the page says why."""
    viewer, page = shown(coloured_wall(["nothing"] * 3))
    page.get_by_text("This scene has no cameras").wait_for(timeout=30_000)
    page.wait_for_timeout(500)
    seen = picture(page)
    assert (near(seen, RED), near(seen, GREEN), near(seen, MATCHES)) == (0, 0, 0)
    assert viewer.component is None
    assert page.locator("[role=slider]").count() == 0


def test_another_component_is_chosen_and_names_cannot_become_markup(shown):
    scene = coloured_wall(["matches"] * 5)
    for view in scene.views[3:]:
        view.component = 1
        view.image = np.full_like(view.image, GREEN)
        view.name = "<script>document.title='stolen'</script>"
    scene.tracks.component[:] = 0
    scene.info["warnings"] = ["bad {name} <img src=x onerror=alert(1)>"]
    viewer, page = shown(scene)
    until(page, lambda p: near(p, RED) > 400)
    page.get_by_label("scene", exact=True).click()
    page.get_by_text("1: 2 photos").last.click()
    seen = until(page, lambda p: near(p, RED) < 30)
    assert viewer.members == [3, 4]
    assert near(seen, RED) < 30
    assert near(seen, GREEN) > 400
    assert "bad {name} <img src=x" in page.inner_text("body").lower()
    assert page.title() != "stolen"


def connected(viewer, origin: str) -> bool:
    """Whether a page of that origin may read what is shown."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = viewer.url.replace("http", "ws")
    try:
        with connect(address, origin=origin, subprotocols=[f"viser-v{version('viser')}"]) as socket:
            return bool(socket.recv(timeout=20))
    except InvalidStatus as refused:
        return refused.response.status_code != 403


def test_only_this_machine_may_look_and_nobody_gets_a_public_address():
    from manyview.viewer.app import Viewer, is_local

    viewer = Viewer(coloured_wall(["matches"] * 2), port=0)
    try:
        assert urllib.request.urlopen(viewer.url, timeout=10).status == 200
        assert viewer.server.get_host() == "127.0.0.1"
        assert viewer.server.request_share_url() is None
        assert connected(viewer, viewer.url.rstrip("/"))
        assert connected(viewer, "http://localhost:9000")  # through a tunnel
        assert not connected(viewer, "https://elsewhere.org")
        assert not connected(viewer, "http://localhost.elsewhere.org")
        with pytest.raises(UserError, match=r"cannot serve at 127\.0\.0\.1:\d+ \(address already in use\)"):
            Viewer(coloured_wall(["matches"] * 2), port=viewer.server.get_port())
    finally:
        viewer.close()
    assert [is_local(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "192.168.1.4", "lab")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_command_says_where_warns_and_ends_without_a_trace(tmp_path):
    coloured_wall(["matches"] * 2).save(tmp_path / "s")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "manyview", "view", str(tmp_path / "s"), "--host", "0.0.0.0", "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs would ignore it
    with subprocess.Popen(line, preexec_fn=heard, **pipes) as running:
        said = [running.stderr.readline() for _ in range(3)]
        running.send_signal(2)
        out, rest = running.communicate(timeout=30)
    assert "Both photos are registered" in said[0]
    assert "warning: everyone who can reach this machine can see these photos" in said[1]
    assert f"open http://localhost:{port}/" in said[2]
    assert (running.returncode, out, rest) == (0, "the viewer ended\n", "")


def test_without_viser_one_line_names_the_extra(tmp_path, monkeypatch, capsys):
    coloured_wall(["matches"] * 2).save(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "viser", None)
    assert main(["view", str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err
    assert "pip install 'manyview[view]'" in said
    assert said.count("\n") == 1
    assert main(["view", str(tmp_path / "s"), "--report", str(tmp_path / "r.html")]) == 0
    assert MARK in (tmp_path / "r.html").read_text()
    (tmp_path / "mine.html").write_text("mine")
    for wrong in ("mine.html", "r.txt"):
        assert main(["view", str(tmp_path / "s"), "--report", str(tmp_path / wrong)]) == 2
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert main(["view", str(tmp_path)]) == 2
    assert "holds no scene.json" in capsys.readouterr().err
