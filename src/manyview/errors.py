"""The one exception a user's mistake raises; the command line prints it as a single line and exits with 2."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


class UserError(ValueError):
    """Something the user can mend. The message says what, where (file and value) and how to mend it, in one line."""


def mismatch(ours: Mapping[str, Sequence[int]], theirs: Mapping[str, Sequence[int]]) -> str:
    """What differs between the shapes of a model's tensors and those of a file, shortly; empty when nothing does."""

    def first(names: Collection[str]) -> str:
        return f"{len(names)} ({', '.join(sorted(names)[:2])}{', …' if len(names) > 2 else ''})"

    missing, extra = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    shapes = sorted(name for name in ours.keys() & theirs.keys() if tuple(ours[name]) != tuple(theirs[name]))
    parts = []
    if missing:
        parts.append(f"it lacks {first(missing)} of the model's tensors")
    if extra:
        parts.append(f"it has {first(extra)} that the model has not")
    if shapes:
        file, model = (tuple(of[shapes[0]]) for of in (theirs, ours))
        parts.append(f"{len(shapes)} differ in shape ({shapes[0]}: file {file}, model {model})")
    return "; ".join(parts)
