"""Things found by their names, in a scene or in photos that become one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyview.models.model import Reconstructs
from manyview.pipelines.options import ReconstructOptions
from manyview.pipelines.reconstruct import reconstruct
from manyview.scene.locate import Located
from manyview.scene.locate import locate as locate_in
from manyview.scene.meaning import Embed, phrases_of, space_of
from manyview.scene.options import MODEL, LocateOptions
from manyview.scene.scene import Scene
from manyview.scene.store import is_scene
from manyview.zoo.models import load_as
from manyview.zoo.texts import embed_texts


def locate(
    scene: Any,
    queries: Sequence[str | Sequence[str]],
    *,
    model: Any = MODEL,
    device: str = "auto",
    options: LocateOptions | None = None,
    reconstruction: ReconstructOptions | None = None,
    encoder: Embed | None = None,
) -> Located:
    """Where things are that words name: `mv.locate("photos/", ["a chair", "sofa | couch"])`.

    scene: a Scene, a scene directory, or images as `reconstruct` takes them, with `model`, a reconstructor with feature
    heads. queries: texts, "|" or a sequence of texts between phrases that mean the same. encoder: texts -> (N, D) in
    the space of the features, instead of the one that speaks for it. Raises UserError for an empty query, features that
    are missing or of another space, and where a text encoder is not installed.
    """
    phrases = phrases_of(queries)  # before the work, not after it
    if not isinstance(scene, Scene):
        if isinstance(scene, (str, Path)) and is_scene(Path(scene)):
            scene = Scene.load(scene)
        else:
            if encoder is None:
                _can_speak(model, options, [text for each in phrases for text in each])
            scene = reconstruct(scene, model=model, device=device, options=reconstruction)
    return locate_in(scene, queries, options=options, encoder=encoder)


def _can_speak(model: Any, options: LocateOptions | None, texts: Sequence[str]) -> None:
    """Raises UserError, before the work, for a model without words and a text encoder that is missing."""
    network, _ = load_as(model, Reconstructs)
    heads = getattr(getattr(network, "config", None), "feature_heads", None)
    if heads is not None:
        embed_texts(space_of([name for name, _ in heads], None if options is None else options.space), texts)
