"""What was found in a scene, as files: JSON, photos, points."""

from __future__ import annotations

from pathlib import Path

from manyview.files import write_json
from manyview.images.writing import write_picture
from manyview.pages.pictures import grid, legend
from manyview.scene.export_glb import Glb
from manyview.scene.export_ply import Ply
from manyview.scene.exporters import presentable
from manyview.scene.locate import Located
from manyview.written import fresh_directory

WHAT = "answer of locate"
"""What the record of written files calls it."""


def write_located(located: Located, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write located.json, overlays/*.jpg, points.ply and points.glb (photos in grey, what was found in colours).

    Below each photo stands what its colours mean; located.json names them too. What an earlier call wrote there is
    replaced, files of the user's only with `overwrite`. Points are those of the largest component; without a camera
    there are none.
    """
    directory, scene = Path(directory), located.coloured()
    with fresh_directory(directory, what=WHAT, overwrite=overwrite) as fresh:
        (fresh / "overlays").mkdir()
        for index, view in enumerate(scene.views):
            shown = grid([[view.image], [legend(located.legend(), view.image.shape[1])]], gap=0)
            write_picture(fresh / "overlays" / f"{index:04d}-{Path(view.name).stem}.jpg", shown)
        if any(view.cam2world is not None for view in scene.views):
            for exporter in (Ply(quantile=0.0), Glb(quantile=0.0)):
                exporter.write(presentable(exporter, scene)[0], fresh / f"points{exporter.suffix}")
        write_json(fresh / "located.json", located.to_json())
    return directory
