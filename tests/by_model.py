"""`reconstruct` with the cameras that the model says, for tests whose models know more than the pictures show."""

from __future__ import annotations

from dataclasses import replace

from manyview.pipelines.options import ReconstructOptions
from manyview.pipelines.reconstruct import reconstruct as _reconstruct


def reconstruct(images, *, options=None, **known):
    return _reconstruct(images, options=replace(options or ReconstructOptions(), cameras="model"), **known)
