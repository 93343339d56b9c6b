"""The panels beside the picture. A panel is a function that adds its controls; PANELS lists them from top to bottom."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from manyview.errors import UserError
from manyview.scene.drawing import pair_picture
from manyview.scene.locate import Located, colours
from manyview.scene.trust import COLOURS, MEANING, failures, verdict

if TYPE_CHECKING:
    from manyview.viewer.app import Viewer


def about(viewer: Viewer) -> None:
    """What the cameras are worth, and what failed."""
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in failures(viewer.scene))
    failed = f"<b>What failed</b><ul>{lines}</ul>" if lines else ""
    viewer.server.gui.add_html(
        f'<div style="padding:0 .8em;font-size:.85em"><p>{html.escape(verdict(viewer.scene))}</p>{failed}</div>'
    )


def components(viewer: Viewer) -> None:
    """Which of several scenes that nothing joins is shown."""
    if len(viewer.parts) < 2:
        return
    names = {f"{number}: {len(members)} photos": number for number, members in viewer.parts.items()}
    choice = viewer.server.gui.add_dropdown("scene", list(names))

    @choice.on_update
    def _(event: Any) -> None:
        viewer.pair = None
        viewer.show(names[choice.value])


def points(viewer: Viewer) -> None:
    """Filters of the dense cloud and of the points that photos share."""
    gui, scene = viewer.server.gui, viewer.scene
    if not viewer.parts:
        return
    with gui.add_folder("points"):
        visible = gui.add_checkbox("cloud", True)
        share = gui.add_slider("leave out, %", 0, 99, 1, 10, hint="this share of the least confident points")
        size = gui.add_slider("point size", 0.2, 4.0, 0.1, 1.0)

    @visible.on_update
    @share.on_update
    @size.on_update
    def _(event: Any) -> None:
        viewer.cloud_visible, viewer.least_confident = visible.value, share.value / 100
        viewer.point_size = size.value
        viewer.draw_cloud()
        viewer.draw_shared()

    if scene.tracks is None or not len(scene.tracks.point):
        return
    most = max(3, int(np.bincount(scene.tracks.point).max()))
    with gui.add_folder("points that photos share"):
        shown = gui.add_checkbox("shared points", True)
        least = gui.add_slider("shown by photos", 2, most, 1, 2, hint="at least so many")

    @shown.on_update
    @least.on_update
    def _(event: Any) -> None:
        viewer.shared_visible, viewer.least_views = shown.value, least.value
        viewer.draw_shared()


def cameras(viewer: Viewer) -> None:
    """How the cameras are drawn, and what their colours mean."""
    if not viewer.parts:
        return
    gui = viewer.server.gui
    with gui.add_folder("cameras"):
        colour = gui.add_dropdown("colours say", ["what they rest on", "observations", "reprojection error"])
        meaning = gui.add_html(_legend(viewer))
        photos = gui.add_checkbox("photos", True)
        size = gui.add_slider("camera size", 0.2, 5.0, 0.1, 1.0)

    @colour.on_update
    @photos.on_update
    @size.on_update
    def _(event: Any) -> None:
        viewer.colour_by, viewer.photos_visible, viewer.camera_size = colour.value, photos.value, size.value
        meaning.content = _legend(viewer)
        viewer.draw_cameras()


def _legend(viewer: Viewer) -> str:
    if viewer.colour_by == "what they rest on":
        kinds = [kind for kind in COLOURS if kind in viewer.trust]
        lines = [f'<span style="color:{COLOURS[kind]}">■</span> {html.escape(MEANING[kind])}' for kind in kinds]
    else:
        lines = [f"yellow: the best by {viewer.colour_by}; dark blue: the worst; grey: not measured"]
    return f'<div style="padding:0 .8em;font-size:.8em">{"<br>".join(lines)}</div>'


def matches(viewer: Viewer) -> None:
    """Two photos with the points that both show, as a picture and as lines in space."""
    if viewer.scene.tracks is None or len(viewer.members) < 2:
        return
    gui, scene = viewer.server.gui, viewer.scene
    placed = [index for members in viewer.parts.values() for index in members]
    names = {f"{index}: {scene.views[index].name}": index for index in placed}
    with gui.add_folder("matches of two photos"):
        choices = [gui.add_dropdown(label, list(names), initial_value=list(names)[n]) for n, label in enumerate("ab")]
        picture, count = pair_picture(scene, placed[0], placed[1])
        pane = gui.add_image(picture, label=f"{count} shared points")
        lines = gui.add_checkbox("lines in space", False)

    @choices[0].on_update
    @choices[1].on_update
    @lines.on_update
    def _(event: Any) -> None:
        one, two = (names[choice.value] for choice in choices)
        drawn, count = pair_picture(scene, one, two)
        pane.image, pane.label = drawn, f"{count} shared points"
        inside = {one, two} <= set(viewer.members)
        viewer.pair = (one, two) if lines.value and inside and one != two else None
        viewer.draw_pair()


def words(viewer: Viewer) -> None:
    """A field for words; what they mean is drawn in colours, with boxes. Only for a scene whose views have features."""
    if not viewer.parts or not any(view.features for view in viewer.scene.views):
        return
    gui = viewer.server.gui
    with gui.add_folder("find"):
        field = gui.add_text("things", "", hint="in English, commas between; 'sofa | couch' are one thing")
        sure = gui.add_slider("at least, %", 5, 95, 5, 50, hint="how probable, against everything else")
        ask = gui.add_button("find")
        answer = gui.add_html("")

    @ask.on_click
    def _(event: Any) -> None:
        answer.content = _told("looking …")
        queries = [query for query in field.value.split(",") if query.strip()]
        try:
            viewer.located = viewer.scene.locate(queries, threshold=sure.value / 100) if queries else None
        except UserError as error:
            viewer.located, answer.content = None, _told(html.escape(str(error)))
        else:
            answer.content = _told("<br>".join(_found_lines(viewer.located)))
        viewer.draw_found()


def _found_lines(located: Located | None) -> list[str]:
    """A line per query: in its colour what was found, or that it is not there."""
    if located is None:
        return []
    lines = []
    for one, (red, green, blue) in zip(located.found, colours(len(located.found)).tolist(), strict=True):
        places = f"{len(one.places)} places, {one.confidence:.0%}" if one.there else "not there"
        lines.append(f'<span style="color:rgb({red},{green},{blue})">■</span> {html.escape(one.query)}: {places}')
    return [*lines, *(html.escape(note) for note in located.notes)]


def _told(text: str) -> str:
    return f'<div style="padding:0 .8em;font-size:.85em">{text}</div>'


PANELS: tuple[Callable[[Viewer], None], ...] = (about, words, components, points, cameras, matches)
