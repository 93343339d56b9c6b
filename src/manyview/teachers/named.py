"""Teachers by what a user calls them: `sensor`, a model of the zoo, a model directory, or timm:NAME."""

from __future__ import annotations

import re
from pathlib import Path

from manyview import zoo
from manyview.errors import UserError
from manyview.models.family import encoder_of
from manyview.models.model import Reconstructs
from manyview.registry import did_you_mean
from manyview.teachers.base import TEACHERS
from manyview.teachers.features import TIMM, FeatureTeacher
from manyview.teachers.reconstructors import ReconstructorTeacher
from manyview.types import Teacher


def teacher_named(text: str, size: tuple[int, int]) -> Teacher:
    """The teacher of NAME=SOURCE, or of SOURCE alone, for views of `size` (H, W).

    A model that reconstructs views gives its maps, another one with an image encoder its tokens. Raises UserError for
    a source that is none of these, whose weights are not here, or whose patches do not fit the size.
    """
    given, equals, source = text.partition("=")
    name, source = (given, source) if equals else ("", text)
    if source in TEACHERS.names():
        teacher = TEACHERS.get(source)()
        teacher.name = name or teacher.name
        return teacher
    name = name or re.sub(r"[^\w-]", "-", Path(source.removeprefix(TIMM)).name)
    if source.startswith(TIMM):
        own = int(FeatureTeacher(source).network.patch_size)
        return FeatureTeacher(source, name=name, student_patch=_patch(name, own, size))
    if source not in zoo.names() and not Path(source).expanduser().exists():
        raise UserError(f"no teacher {source!r}; {did_you_mean(source, [*TEACHERS.names(), *zoo.names()])}")
    model = zoo.load(source)
    if isinstance(model, Reconstructs):
        return ReconstructorTeacher(source, name=name, model=model)
    own = int(encoder_of(model, source).config.patch_size)
    return FeatureTeacher(source, name=name, student_patch=_patch(name, own, size), model=model)


def _patch(name: str, own: int, size: tuple[int, int]) -> int:
    """The patch of the grid that tokens are given on: the teacher's own where it fits the size, else a student's."""
    for patch in (own, 14, 16):
        if size[0] % patch == 0 == size[1] % patch:
            return patch
    raise UserError(
        f"teacher {name} gives tokens of patches of {own} pixels; take a --size whose sides are multiples of {own}, "
        f"not {size[0]}x{size[1]}"
    )
