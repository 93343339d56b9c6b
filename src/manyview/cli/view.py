"""Look at a scene in the browser: cloud, cameras in the colour of what they rest on, matches of two photos.

manyview view SCENE                              opens a page that only this machine can see; Ctrl-C ends it
manyview view SCENE --no-browser --port 9000     says the address, for a browser of your choice
ssh -L 9000:localhost:9000 SERVER                a scene on a server: run the line above there, open localhost:9000 here
manyview view SCENE --report report.html         writes the scene's report instead

Needs `pip install 'manyview[view]'`, except for --report.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.options import number
from manyview.cli.output import Answer


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    add("scene", type=Path, metavar="SCENE", help="a scene directory (manyview reconstruct)")
    add("--host", default="127.0.0.1", help="who may look; default: 127.0.0.1, this machine alone; 0.0.0.0: everyone")
    add("--port", type=number(int, least=1, most=65535), metavar="N", help="default: 8080, or the next free one")
    add("--no-browser", action="store_true", help="do not open a browser, only say the address")
    add("--report", type=Path, metavar="FILE", help="write the report of the scene to FILE (.html) and end")


def run(args: argparse.Namespace) -> Answer:
    from manyview.errors import UserError
    from manyview.scene.report import write_report
    from manyview.scene.scene import Scene
    from manyview.scene.trust import verdict

    scene = Scene.load(args.scene)
    if args.report is not None:
        if args.report.suffix.lower() != ".html":
            raise UserError(f"--report {args.report}: the report is a page, name a file that ends in .html")
        if args.report.exists() and not _is_report(args.report):
            raise UserError(f"--report {args.report}: that file is no report of ours; name another one")
        wrote = write_report(scene, args.report, of=args.scene)
        return Answer(values={"report": str(wrote)}, lines=[f"wrote {wrote}"], next=[f"open {wrote} in a browser"])

    from manyview.viewer.app import Viewer, is_local

    viewer = Viewer(scene, host=args.host, port=args.port)
    try:
        print(f"{args.scene}: {verdict(scene)}", file=sys.stderr)
        if not is_local(args.host):
            who = "everyone who can reach this machine can see these photos, without a password"
            print(f"warning: {who}; leave out --host to keep them here", file=sys.stderr)
        print(f"open {viewer.url} (Ctrl-C ends the viewer)", file=sys.stderr, flush=True)
        if not args.no_browser:
            _open(viewer.url)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()
    return Answer(values={"scene": str(args.scene), "url": viewer.url}, lines=["the viewer ended"])


def _open(url: str) -> None:
    """In the user's browser, where there is a screen; never one that takes over the terminal."""
    import webbrowser

    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _is_report(path: Path) -> bool:
    from manyview.pages.page import MARK

    return MARK in path.read_text(encoding="utf-8", errors="replace")[:500]
