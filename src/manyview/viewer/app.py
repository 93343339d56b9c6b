"""The viewer: a scene's cloud, cameras and matches, served to a browser on this machine by viser."""

from __future__ import annotations

import contextlib
import functools
import io
import ipaddress
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from manyview.errors import UserError
from manyview.geometry.poses import quaternion_from_matrix
from manyview.scene.drawing import pyramid_length, shared_observations
from manyview.scene.locate import BOX_EDGES, Located, colours
from manyview.scene.scene import Scene
from manyview.scene.trust import COLOURS, parts, rgb, trust
from manyview.scene.views import level_from_scene
from manyview.viewer.panels import PANELS

PORT = 8080
MOST_POINTS = 400_000
PHOTO = 240
"""Long side of the photos within the cameras."""
SHARED = (255, 128, 0)
"""Colour of the points that photos share."""


class Viewer:
    """A scene on a page of this machine. `url` is where; `close` ends it.

    What is drawn follows from the attributes below; a panel sets one and calls the `draw_…` that it concerns.
    host: who may look, 127.0.0.1 for this machine alone. port: None takes 8080 or the next free one, 0 any.
    Raises UserError when viser is missing, and where the host and port cannot be used.
    """

    def __init__(self, scene: Scene, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.scene, self.parts, self.trust = scene, parts(scene), trust(scene)
        self.component = next(iter(self.parts), None)
        """The component that is shown; None where no view has a place."""
        self.least_confident = 0.1
        """Share of the component's points that is left out, the least confident ones."""
        self.point_size = 1.0
        self.cloud_visible, self.shared_visible, self.photos_visible = True, True, True
        self.least_views = 2
        """Shared points are drawn when at least so many photos show them."""
        self.colour_by = "what they rest on"
        self.camera_size = 1.0
        self.pair: tuple[int, int] | None = None
        """The two views whose matches are drawn as lines."""
        self.located: Located | None = None
        """What was looked for and found, which is drawn in colours."""
        self._lock = threading.RLock()
        self._drawn: dict[str, Any] = {}
        self._nodes: dict[str, list[Any]] = {}
        self.server = _server(host, port)
        self.url = f"http://{'localhost' if _is_any(host) else host}:{self.server.get_port()}/"
        self.show(self.component)
        for add in PANELS:
            add(self)

    @property
    def members(self) -> list[int]:
        """The views of the component that is shown."""
        return self.parts.get(self.component, []) if self.component is not None else []

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def show(self, component: int | None) -> None:
        """Show another component, from where its photos were taken."""
        with self._lock:
            self.component = component
            if component is None:
                return
            views = [self.scene.views[index] for index in self.members]
            self.cloud = self.scene.cloud(quantile=0.0, component=component, most=MOST_POINTS)
            self.unit = pyramid_length(views)
            self._look(views)
            self.draw_cloud()
            self.draw_shared()
            self.draw_cameras()
            self.draw_pair()
            self.draw_found()

    def _look(self, views: Sequence[Any]) -> None:
        """Stand behind the cameras, up as they were held, and look at the middle of what they see."""
        level = level_from_scene(views)
        middle = np.median(self.cloud.xyz, axis=0) if len(self.cloud) else views[0].pose[:3, 3]
        centre = np.mean([view.pose[:3, 3] for view in views], axis=0)
        away = float(np.linalg.norm(middle - centre)) or 1.0
        eye = centre - level.T @ np.array([0.0, 0.25, 0.5]) * away
        self.server.scene.set_up_direction(-level[1])
        for camera in [self.server.initial_camera, *(one.camera for one in self.server.get_clients().values())]:
            camera.position, camera.look_at = eye, middle

    def draw_cloud(self) -> None:
        """The dense points, less the least confident ones."""
        if self._is_new("cloud", self.component, self.least_confident, self.point_size, self.cloud_visible):
            sure = self.cloud.confidence
            limit = np.quantile(sure, self.least_confident) if len(sure) and self.least_confident > 0 else -np.inf
            kept = (sure >= limit) & self.cloud_visible
            self._points("cloud", self.cloud.xyz[kept], self.cloud.rgb[kept], 0.05)

    def draw_shared(self) -> None:
        """The points of verified matches, less those that few photos show."""
        if self._is_new("shared", self.component, self.least_views, self.point_size, self.shared_visible):
            tracks, kept = self.scene.tracks, np.zeros(0, bool)
            if tracks is not None and self.shared_visible:
                seen = np.bincount(tracks.point, minlength=len(tracks.points))
                kept = (seen >= self.least_views) & (tracks.component == self.component)
            points = tracks.points[kept] if tracks is not None and kept.any() else np.empty((0, 3))
            self._points("shared", points, np.tile(np.array(SHARED, np.uint8), (len(points), 1)), 0.08)

    def _points(self, name: str, xyz: np.ndarray, colours: np.ndarray, share: float) -> None:
        size = share * self.unit * self.point_size
        nodes = []
        if len(xyz):
            add = self.server.scene.add_point_cloud
            options = {"point_size": size, "point_shading": "flat", "point_shape": "square", "precision": "float32"}
            nodes.append(add(f"/{name}", xyz.astype(np.float32), colours, **options))
        self._replace(name, nodes)

    def draw_cameras(self) -> None:
        """A pyramid per view with its photo, in the colour of its trust."""
        if not self._is_new("cameras", self.component, self.colour_by, self.camera_size, self.photos_visible):
            return
        nodes = []
        for index, colour in zip(self.members, self._camera_colours(), strict=True):
            view = self.scene.views[index]
            height, width = view.depth.shape
            step = max(1, round(max(view.image.shape) / PHOTO))
            node = self.server.scene.add_camera_frustum(
                f"/cameras/{index}",
                fov=float(2 * np.arctan(height / 2 / view.intrinsics[1, 1])),
                aspect=width / height,
                scale=self.unit * self.camera_size,
                thickness=3.0,
                thickness_units="screen",
                color=colour,
                image=np.ascontiguousarray(view.image[::step, ::step]) if self.photos_visible else None,
                wxyz=quaternion_from_matrix(torch.from_numpy(view.pose[:3, :3].copy())).numpy(),
                position=view.pose[:3, 3],
            )
            node.on_click(_stand_at(view))
            nodes.append(node)
        self._replace("cameras", nodes)

    def _camera_colours(self) -> list[tuple[int, int, int]]:
        """By what they rest on; or yellow (many observations, small errors) to dark blue, grey without a measure."""
        from manyview.pages.pictures import colour_map

        views = [self.scene.views[index] for index in self.members]
        if self.colour_by == "observations":
            worth = np.array([float(view.inliers) or np.nan for view in views])
        elif self.colour_by == "reprojection error":
            worth = -np.array([np.nan if view.error_px is None else view.error_px for view in views])
        else:
            return [rgb(COLOURS[self.trust[index]]) for index in self.members]
        known = np.isfinite(worth)
        low, high = (float(worth[known].min()), float(worth[known].max())) if known.any() else (0.0, 1.0)
        shades = colour_map(worth[None], low, high, palette="VIRIDIS")[0]
        return [(int(r), int(g), int(b)) if k else (138, 138, 138) for (r, g, b), k in zip(shades, known, strict=True)]

    def draw_pair(self, most: int = 60) -> None:
        """Lines from the two chosen cameras to the points that both photos show."""
        if not self._is_new("pair", self.component, self.pair):
            return
        nodes = []
        if self.pair is not None and self.scene.tracks is not None:
            found, _, _ = shared_observations(self.scene, *self.pair)
            rows = np.unique(np.linspace(0, max(len(found) - 1, 0), min(most, len(found))).astype(int))
            ends = self.scene.tracks.points[found[rows]]
            for index in self.pair:
                centre = np.broadcast_to(self.scene.views[index].pose[:3, 3], ends.shape)
                if len(ends):
                    lines = np.stack([centre, ends], 1).astype(np.float32)
                    colour = rgb(COLOURS[self.trust[index]])
                    options = {"colors": colour, "thickness": 1.0, "thickness_units": "screen"}
                    nodes.append(self.server.scene.add_line_segments(f"/pair/{index}", lines, **options))
        self._replace("pair", nodes)

    def draw_found(self) -> None:
        """Points and boxes of the things that were found in the component that is shown."""
        if not self._is_new("found", self.component, id(self.located)):
            return
        nodes, found = [], [] if self.located is None else self.located.found
        for number, (one, colour) in enumerate(zip(found, colours(len(found)), strict=True)):
            for index, place in enumerate(p for p in one.places if p.component == self.component):
                name, corners = f"/found/{number}/{index}", place.box.corners
                shades = np.tile(colour, (len(place.points), 1))
                options = {"point_size": 0.06 * self.unit * self.point_size, "point_shading": "flat"}
                points = place.points.astype(np.float32)
                nodes.append(self.server.scene.add_point_cloud(f"{name}/points", points, shades, **options))
                lines = np.stack([corners[[a, b]] for a, b in BOX_EDGES]).astype(np.float32)
                shade = tuple(int(value) for value in colour)
                nodes.append(self.server.scene.add_line_segments(f"{name}/box", lines, colors=shade))
                nodes.append(self.server.scene.add_label(f"{name}/name", one.query, position=place.box.centre))
        self._replace("found", nodes)

    def _is_new(self, what: str, *state: Any) -> bool:
        """Whether it is not drawn in this state yet: of many moves of a slider the late ones find it done."""
        with self._lock:
            if self.component is None or self._drawn.get(what) == state:
                return False
            self._drawn[what] = state
            return True

    def _replace(self, what: str, nodes: list[Any]) -> None:
        """Nodes of one name replace each other; the others of before go."""
        with self._lock:
            names = {node.name for node in nodes}
            for node in self._nodes.get(what, []):
                if node.name not in names:
                    node.remove()
            self._nodes[what] = nodes


def _stand_at(view: Any) -> Any:
    """What a click on a camera does: look through it."""

    def look(event: Any) -> None:
        camera = event.client.camera
        with event.client.atomic():
            camera.wxyz = quaternion_from_matrix(torch.from_numpy(view.pose[:3, :3].copy())).numpy()
            camera.position = view.pose[:3, 3]

    return look


def is_local(host: str) -> bool:
    """Whether only this machine can look."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _server(host: str, port: int | None) -> Any:
    """A server of viser that never offers its pages to others. Raises UserError where it cannot stand."""
    try:
        import viser
    except ImportError as error:
        raise UserError(
            f"the viewer is not installed ({error}); run `pip install 'manyview[view]'`, "
            "or open the scene's report.html"
        ) from error

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            """Any page that is connected may ask for a public address; none is given."""

    chosen = _usable(host, port)
    own_pages = _only_own_pages() if is_local(host) else contextlib.nullcontext()
    with contextlib.redirect_stdout(io.StringIO()), own_pages:  # it prints a table
        server = Server(host=host, port=chosen, verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    server.gui.set_panel_label("manyview")
    return server


@contextlib.contextmanager
def _only_own_pages() -> Iterator[None]:
    """Within, viser's server accepts only pages of this machine: else any site in the same browser could read photos.

    viser has no option for it, but asks the websockets package, which has.
    """
    from websockets.asyncio import server

    original = server.serve
    own = [None, re.compile(r"https?://(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")]  # None: what is no browser
    server.serve = functools.partial(original, origins=own)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        server.serve = original  # type: ignore[misc]


def _usable(host: str, port: int | None) -> int:
    """A port that can be listened on: the server itself would try a thousand others without a word."""
    tried = range(PORT, PORT + 100) if port is None else [port]
    for number in tried:
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((host, number))
                return int(trial.getsockname()[1])
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    which = f"{host}:{port}" if port is not None else f"{host}, ports {PORT} to {PORT + 99}"
    raise UserError(f"cannot serve at {which} ({str(reason).lower()}); choose another --port or --host")
