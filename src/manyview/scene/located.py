"""What was found in a scene, as files: JSON, photos, points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manyview.files import write_json
from manyview.images.writing import write_picture
from manyview.pages.pictures import grid, legend
from manyview.scene.export_glb import Glb
from manyview.scene.export_ply import Ply, write_ply
from manyview.scene.exporters import presentable
from manyview.scene.locate import Located, Place, colours
from manyview.scene.scene import Cloud
from manyview.written import fresh_directory

WHAT = "answer of locate"
"""What the record of written files calls it."""


def write_located(located: Located, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write located.json, overlays/*.jpg, points.ply and points.glb (photos in grey, what was found in colours).

    Below each photo stands what its colours mean; located.json names them too. In points.ply a point has the label of
    its most probable query; queries/NN.ply has all points of query NN, and as label the number of the place they are
    of. Points are those of the largest component; without a camera there are none. What an earlier call wrote there is
    replaced, files of the user's only with `overwrite`.
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
            for number, one in enumerate(located.found):
                mine = [(place, rank) for rank, place in enumerate(one.places) if place.component == 0]
                if mine:
                    (fresh / "queries").mkdir(exist_ok=True)
                    comment = f"frame {scene.frame}, scale {scene.scale}; {one.short}"
                    cloud, labels = _points(mine, colours(len(located.found))[number])
                    write_ply(cloud, fresh / "queries" / f"{number:02d}.ply", comment=comment, labels=labels)
        write_json(fresh / "located.json", located.to_json())
    return directory


def _points(places: Sequence[tuple[Place, int]], colour: np.ndarray) -> tuple[Cloud, np.ndarray]:
    """The points of places in one colour (3,), and of each (N,) the number that stands beside its place."""
    counts = [len(place.points) for place, _ in places]
    xyz, total = np.concatenate([place.points for place, _ in places]), sum(counts)
    sure = np.repeat([place.confidence for place, _ in places], counts).astype(np.float32)
    nowhere = np.zeros(total, np.int64)
    cloud = Cloud(xyz, np.tile(colour, (total, 1)), sure, nowhere, np.zeros((total, 2), np.float32))
    return cloud, np.repeat([number for _, number in places], counts).astype(np.int16)
