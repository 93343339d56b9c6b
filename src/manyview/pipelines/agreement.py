"""What to tell the user about a scene that does not hang together."""

from __future__ import annotations

from collections.abc import Sequence

from manyview.scene.views import SceneView

# Views of which less than this share is seen by any other view hardly overlap.
LEAST_OVERLAP = 0.1


def complaints(views: Sequence[SceneView], least_inliers: float) -> list[str]:
    """One line for each thing that makes the scene doubtful."""
    lines = []
    empty = [view.name for view in views if not view.valid.any()]
    if empty:
        lines.append(f"views without a single point: {_listed(empty)}")
    rest = [view for view in views if view.name not in empty]
    if len(rest) < 2:
        return lines
    lonely = [v.name for v in rest if v.info["overlap"] < LEAST_OVERLAP]
    loose = [v.name for v in rest if v.info["inliers"] < least_inliers and v.name not in lonely]
    if lonely:
        lines.append(
            f"views {_listed(lonely)} hardly overlap with the others: less than {LEAST_OVERLAP:.0%} of what "
            "they show is seen from elsewhere; their place in the scene is a guess"
        )
    if loose:
        lines.append(
            f"views {_listed(loose)} hardly overlap or are not understood: under {least_inliers:.0%} of "
            "their points agree with their camera; their pose is doubtful"
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(names[:5])
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"
