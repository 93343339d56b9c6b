"""Teachers by what a user calls them: `sensor`, a model of the zoo, a model directory, timm:NAME or hf:NAME."""

from __future__ import annotations

import re
from pathlib import Path

from manyview import zoo
from manyview.errors import UserError
from manyview.models.family import lookup, require_name
from manyview.models.model import EncodesImages, Reconstructs
from manyview.models.outside import is_outside
from manyview.registry import did_you_mean
from manyview.teachers.base import TEACHERS
from manyview.teachers.features import FeatureTeacher
from manyview.teachers.reconstructors import ReconstructorTeacher
from manyview.types import Teacher


def check_teacher(text: str) -> None:
    """Raise UserError for NAME=SOURCE whose source is nothing that is known or lies here, before anything is loaded."""
    given, equals, source = text.partition("=")
    source = source if equals else given
    known = source in TEACHERS.names() or is_outside(source) or source in zoo.names()
    if not known and not Path(source).expanduser().exists():
        raise UserError(f"no teacher {source!r}; {did_you_mean(source, [*TEACHERS.names(), *zoo.names()])}")


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
    name, model = (
        name or re.sub(r"[^\w-]", "-", Path(source.partition(":")[2] if is_outside(source) else source).name),
        None,
    )
    check_teacher(text)
    if not is_outside(source):
        if source in zoo.names() and not issubclass(lookup(source)[0].network, Reconstructs):
            require_name(source, EncodesImages)  # before its weights are asked for
        model = zoo.load(source)
    if isinstance(model, Reconstructs):
        return ReconstructorTeacher(source, name=name, model=model)
    encoder = FeatureTeacher(source, name=name, model=model)
    own = int(encoder.network.config.patch_size)
    for patch in (own, 14, 16):  # the grid of its own patches where it fits the size, else that of a student's
        if size[0] % patch == 0 == size[1] % patch:
            encoder.student_patch = patch
            return encoder
    raise UserError(
        f"teacher {name} gives tokens of patches of {own} pixels; take a --size whose sides are multiples of {own}, "
        f"not {size[0]}x{size[1]}"
    )
