"""Pictures of the report and the viewer for the docs, from photos that the renderer of procedural scenes makes.

python benchmarks/looks.py --write docs/images       report.jpg and viewer.jpg (needs manyview[dev] and chromium)
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from manyview.data.synthetic.scene import render_scene
from manyview.images.writing import write_picture
from manyview.pipelines.reconstruct import reconstruct
from manyview.scene.report import write_report
from manyview.viewer.app import Viewer

SIZE, SEED, VIEWS = (480, 640), 5, 8
FLAGS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, default=Path("docs/images"), metavar="DIR")
    out = parser.parse_args().write
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        photos = Path(folder) / "photos"
        photos.mkdir()
        rendered = render_scene(SEED, views=VIEWS, size=SIZE).images.permute(0, 2, 3, 1)
        for index, photo in enumerate((rendered.clamp(0, 1) * 255).round().byte().numpy()):
            write_picture(photos / f"{index}.png", photo)
        scene = reconstruct(photos)
        report = write_report(scene, Path(folder) / "report.html")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 1560})
        page.goto(report.as_uri())
        end = page.locator("h2").nth(2).bounding_box()["y"]  # as far as the cloud and the cameras
        save(page.screenshot(clip={"x": 0, "y": 0, "width": 1100, "height": end}), out / "report.jpg", width=820)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        viewer = Viewer(scene, port=0)
        viewer.camera_size = 0.6
        viewer.draw_cameras()
        page.goto(viewer.url)
        page.wait_for_timeout(20_000)  # points fade in; software WebGL is slow
        page.get_by_label("lines in space").check()
        page.evaluate("document.querySelectorAll('[role=alert]').forEach(note => note.remove())")
        page.wait_for_timeout(5_000)
        save(page.screenshot(), out / "viewer.jpg", width=1000)
        viewer.close()


def save(shot: bytes, path: Path, *, width: int) -> None:
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=82)
    print(f"wrote {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
