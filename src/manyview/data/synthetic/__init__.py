"""Procedural scenes: furnished rooms and laid tables with exact depth, normals, labels, instances and cameras."""

from __future__ import annotations

from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.scene import RenderedScene, render_scene
from manyview.data.synthetic.writing import Settings, write_scenes

__all__ = ["CLASSES", "RenderedScene", "Settings", "render_scene", "write_scenes"]
