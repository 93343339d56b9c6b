"""Encoder features of many pictures: patch tokens, class tokens, chosen blocks, pictures of components.

feats = mv.features("photos/", model="dune-vitb14-448")         # in memory
feats = mv.features("photos/", model="mum-vitl16", out="feats")  # one file per picture, resumable
feats[0].patches                                                 # (h, w, D)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from manyview.errors import UserError
from manyview.files import write_json
from manyview.images.inputs import Photo, Picture, Pictures, pictures
from manyview.pipelines import pca
from manyview.pipelines.attention import Look, write_attention
from manyview.pipelines.encoding import Encoding, photos, some_of
from manyview.pipelines.feature_set import (
    FORMAT,
    INDEX,
    LAST,
    FeatureSet,
    ImageFeatures,
    Tokens,
    finished,
    is_features,
    read_index,
    write_one,
)
from manyview.pipelines.options import FeatureOptions
from manyview.pipelines.side_by_side import Comparison, write_comparison
from manyview.progress import track
from manyview.version import __version__
from manyview.workfolder import WorkFolder

__all__ = ["FeatureOptions", "FeatureSet", "ImageFeatures", "Tokens", "features"]


def features(
    images: Any,
    *,
    model: Any,
    out: str | Path | None = None,
    layers: Sequence[int] | Literal["all"] | None = None,
    norm: bool = True,
    size: int | None = None,
    device: str = "auto",
    options: FeatureOptions | None = None,
) -> FeatureSet:
    """Features of every picture, in order: a sequence of ImageFeatures, in memory or, with `out`, in a folder.

    images: a folder, files, a video, or arrays ((H, W, 3) or (3, H, W), uint8 or float in [0, 1]), of any sizes.
    model: a zoo name, a model directory, or a network with an encoder. layers: also the tokens after these
    0-based blocks (negative ones count from the end). norm: through the encoder's final LayerNorm; False gives
    what the blocks left. size: long side in pixels; None is what the model was made for.

    Broken pictures are left out with a warning. The same call again goes on where an interrupted one stopped;
    a folder made with other settings raises UserError.
    """
    options = options or FeatureOptions()
    if options.batch < 1:
        raise UserError(f"batch is {options.batch}; it must be at least 1")
    pictured = options.pca or options.compare is not None or options.attention is not None
    if pictured and out is None:
        raise UserError("pictures of components or attention are files; say where with out=DIR")
    source = Encoding(model, layers=layers, norm=norm, size=size, device=device, options=options)
    # Now, not after the photos: a teacher may be missing.
    comparison = None if options.compare is None else Comparison(source, options.compare)
    look = None if options.attention is None else Look(source, options.attention)
    settings = source.settings()
    if out is None:
        held, skipped = _hold(pictures(images, options.take), source)
        return FeatureSet(_index(source, settings, [one.about() for one in held], skipped), held=held)
    folder = Path(out)
    work = WorkFolder(folder, "set of features", INDEX)
    work.refuse_strangers()
    if is_features(folder) and work.begun():
        before = read_index(folder).get("settings", {})
        work.refuse_others({key: before.get(key) for key in settings}, settings)
    folder.mkdir(parents=True, exist_ok=True)
    given = pictures(images, options.take)
    features = FeatureSet(_fill(folder, given, source, settings), folder=folder)

    def draw(kind: str, write: Callable[[Pictures], dict[str, Any]]) -> None:
        """Pictures of one kind, from those photos that gave features: a video has run out, a list has not."""
        again = given if isinstance(given.items, list) else pictures(images, options.take)
        names = set(features.names)
        features.info[kind] = write(Pictures((i for i in again.items if i.name in names), len(names)))
        write_json(folder / INDEX, features.info)

    if options.pca:
        draw("pca", lambda given: pca.write_components(folder, features, given, source.fit))
    if comparison is not None:
        draw("compare", lambda given: write_comparison(folder, given, comparison))
    if look is not None:
        draw("attention", lambda given: write_attention(folder, given, look))
    return features


def _made(
    given: Pictures,
    source: Encoding,
    order: list[str],
    skipped: list[str],
    done: Callable[[Picture], bool] = lambda item: False,
) -> Iterator[tuple[Picture, ImageFeatures]]:
    """Features of every picture that is not done; all names go into `order`, what is left out into `skipped`.

    They come in batches of one size; sizes that are rare wait, but never more than four batches in all.
    """

    def missing() -> Iterator[Picture]:
        for item in track(given.items, total=given.count, label="features", unit="image"):
            order.append(item.name)
            if not done(item):
                yield item

    batch = source.options.batch
    waiting: dict[tuple[int, int], list[Photo]] = {}
    for photo in photos(missing(), source.fit, skipped, ahead=2 * batch, warn=True):
        size = photo.fit.size
        waiting.setdefault(size, []).append(photo)
        if len(waiting[size]) == batch:
            yield from _encoded(waiting.pop(size), source)
        elif sum(map(len, waiting.values())) >= 4 * batch:
            yield from _encoded(waiting.pop(max(waiting, key=lambda size: len(waiting[size]))), source)
    for group in waiting.values():
        yield from _encoded(group, source)


def _encoded(group: Sequence[Photo], source: Encoding) -> Iterator[tuple[Picture, ImageFeatures]]:
    for photo, levels in zip(group, source([photo.image for photo in group]), strict=True):
        item, fit = photo.picture, photo.fit
        yield (
            item,
            ImageFeatures(
                **vars(levels.pop(LAST)),
                layers=levels,
                name=item.name,
                path=item.path,
                frame=item.frame,
                source=fit.source,
                size=fit.size,
                affine=fit.affine.numpy(),
            ),
        )


def _hold(given: Pictures, source: Encoding) -> tuple[list[ImageFeatures], list[str]]:
    """All features in memory, in the order of the pictures, and one line for each that was left out."""
    order, skipped, held = list[str](), list[str](), dict[str, ImageFeatures]()
    for item, one in _made(given, source, order, skipped):
        if not held:
            _refuse_too_much(one, given.count)
        held[item.name] = one
    some_of(held, skipped)
    return [held[name] for name in order if name in held], skipped


def _refuse_too_much(one: ImageFeatures, count: int | None) -> None:
    need = sum(value.nbytes for value in one.arrays().values()) * (count or 1)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return
    if need > 0.7 * have:
        raise UserError(
            f"the features of {count} pictures need {need / 2**30:.0f} GiB of memory, this machine has "
            f"{have / 2**30:.0f}; write them to files with out=DIR"
        )


def _index(
    source: Encoding, settings: dict[str, Any], images: list[Any], skipped: list[str], *, complete: bool = True
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": 1,
        "made_by": f"manyview {__version__}",
        "complete": complete,
        "model": source.name,
        "settings": settings,
        "digest": _digest(settings),
        "licence": source.card.get("licence"),
        "card": source.card,
        "skipped": skipped,
        "images": images,
    }


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def _fill(folder: Path, given: Pictures, source: Encoding, settings: dict[str, Any]) -> dict[str, Any]:
    """Write what is missing and the index, also when interrupted; returns the index."""
    digest = _digest(settings)
    order, skipped, abouts, complete = list[str](), list[str](), dict[str, dict[str, Any]](), False

    def done(item: Picture) -> bool:
        about = finished(folder, item.name, {"digest": digest, "stamp": item.stamp})
        if about is not None:
            abouts[item.name] = {**about, "path": item.path}
        return about is not None

    if not is_features(folder):
        write_json(folder / INDEX, _index(source, settings, [], [], complete=False))
    try:
        for item, one in _made(given, source, order, skipped, done):
            write_one(folder, one, {"digest": digest, "stamp": item.stamp})
            abouts[item.name] = one.about()
        complete = True
    finally:
        images = [abouts[name] for name in order if name in abouts]
        index = _index(source, settings, images, skipped, complete=complete)
        write_json(folder / INDEX, index)
    some_of(images, skipped)
    return index
