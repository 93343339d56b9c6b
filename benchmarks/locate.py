"""What `locate` finds in rooms that nobody trained on: words that are class names, words that are none, absent things.

    python benchmarks/locate.py OUT --model manyview-small-words --write docs/locate.md
    python benchmarks/locate.py OUT --report …      only writes the page, of what OUT holds
    python benchmarks/locate.py OUT --known 1.0     features made of the true classes with noise: the text side alone

Each room is four photos. A thing is there when its pixels are half a percent of a photo. Precision and recall are over
(room, word); those of pixels are over the pixels of all photos of the rooms that show the thing, or are said to.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from results_page import write_section

import manyview as mv
from manyview.data.loading import load_views, read_classes
from manyview.data.manifest import Manifest
from manyview.data.synthetic import CLASSES, write_scenes
from manyview.files import write_json
from manyview.geometry import pointmaps, poses
from manyview.images.fit import cover
from manyview.images.reading import resample_nearest
from manyview.images.writing import write_picture
from manyview.models.model import Reconstructs
from manyview.pages.pictures import grid, legend
from manyview.pipelines.options import ReconstructOptions
from manyview.scene.locate import colours, overlay
from manyview.scene.meaning import CALIBRATION
from manyview.scene.scene import Scene
from manyview.zoo.models import load_as

SIZE, SEED = (168, 224), 993
FOUND, PICTURE = "locate.json", "locate.jpg"
NAMES = (
    *("chair", "sofa", "table", "bed", "lamp", "plant", "tv", "cabinet", "bookshelf", "window", "door", "rug"),
    "pillow",
)
FREE = {
    "couch": ("sofa",),
    "place to sit": ("chair", "sofa", "stool"),
    "something to read": ("book",),
    "television": ("tv",),
    "carpet": ("rug",),
    "refrigerator": ("fridge",),
    "houseplant": ("plant",),
    "coffee mug": ("mug",),
}
ABSENT = ("penguin", "zebra", "tractor", "helicopter", "violin", "banjo", "toothbrush", "pizza", "elephant", "bicycle")
SHOWN = 0.005
CLOSE = 0.3
"""With --known: share of another class that is mixed into a feature at most."""

HOW = f"""A pixel's feature is compared with the words of a query and with a hundred everyday words. Those that are
about as near to the query as the nearest one speak for it (a sofa for "couch"), all others against it; the softmax
of the two is the probability, and half of it the threshold. Regions of fewer than two cells of the feature map
count as noise. A query is "not there" where no photo has more. Temperature and limits belong to the space of the
features: those of `minilm` were chosen on the texts of the class names, blended and with noise, without a picture;
those of `clip` have not been measured here. The text encoders read English; a word that is none of the everyday
ones and near to none is found only if the model learned it; one whose cosine
with each is below {CALIBRATION["minilm"].familiar} is answered
with a note that the encoder of `minilm` seems not to know it (words of other languages, typing errors). Numbers of
`known` features come from the true classes and points with noise: they judge the words alone, not
a model. The everyday words contain the names of the rooms' classes, which is a help that other data does not have."""


class Known:
    """True points, and features made of the texts of the true classes, with noise and a share of another class."""

    config = SimpleNamespace(image_size=SIZE[1], patch_size=14)
    metric = True

    def __init__(self, data: Manifest, noise: float) -> None:
        self.data, self.noise, self.rows = data, noise, list(range(4))
        self.texts = mv.zoo.embed_texts("minilm", CLASSES)

    def __call__(self, images: torch.Tensor, **chunks: Any) -> dict[str, Any]:
        views = load_views(self.data, self.rows, SIZE)
        assert views.depth is not None
        assert views.cam2world is not None
        assert views.intrinsics is not None
        local = pointmaps.unproject(views.depth, views.intrinsics)
        world = pointmaps.transform(poses.invert(views.cam2world[:, :1]) @ views.cam2world, local)
        draw = torch.Generator().manual_seed(self.rows[0])
        labels = torch.from_numpy(np.stack([labels_of(self.data, row) for row in self.rows])).long()[:, 3::7, 3::7]
        cells = self.texts[labels]
        share = CLOSE * torch.rand(labels.shape, generator=draw)[..., None]
        other = self.texts[torch.randint(len(CLASSES), labels.shape, generator=draw)]
        cells = (1 - share) * cells + share * other
        cells = cells + self.noise * torch.randn(cells.shape, generator=draw) / cells.shape[-1] ** 0.5
        sure = torch.ones(local.shape[:-1])
        maps = {"pointmap": world, "pointmap_local": local, "confidence": sure, "confidence_local": sure}
        return {**maps, "features": {"minilm": cells[None]}}


def labels_of(data: Manifest, row: int) -> np.ndarray:
    frame = data[row]
    return resample_nearest(read_classes(data, str(frame.labels)), cover((frame.height, frame.width), SIZE))


def judge(scene: Scene, truth: np.ndarray, words: dict[str, tuple[str, ...]]) -> tuple[list[dict[str, Any]], Any]:
    """A row per word of one room."""
    located = scene.locate(list(words))
    placeless = replace(scene, views=[replace(view, cam2world=None, rests_on="nothing") for view in scene.views])
    rows = []
    for number, (found, (word, names)) in enumerate(zip(located.found, words.items(), strict=True)):
        there = np.isin(truth, [CLASSES.index(name) for name in names])
        alone = placeless.locate([word]).scene.views  # its pixels, whatever other words take
        said = np.stack([view.labels == 0 for view in alone])
        row = {"word": word, "there": bool((there.mean((1, 2)) >= SHOWN).any()), "said": found.there}
        pixels = {"hits": int((said & there).sum()), "said_pixels": int(said.sum()), "there_pixels": int(there.sum())}
        rows.append({**row, **pixels, "confidence": found.confidence, "number": number})
    return rows, located


def ratios(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    def ratio(above: float, below: float) -> float | None:
        return above / below if below else None

    hits, away = sum(row["there"] and row["said"] for row in rows), [row for row in rows if not row["there"]]
    pixels = {key: sum(row[key] for row in rows) for key in ("hits", "said_pixels", "there_pixels")}
    return {
        "precision": ratio(hits, sum(row["said"] for row in rows)),
        "recall": ratio(hits, sum(row["there"] for row in rows)),
        "pixel_precision": ratio(pixels["hits"], pixels["said_pixels"]),
        "pixel_recall": ratio(pixels["hits"], pixels["there_pixels"]),
        "false_there": ratio(sum(row["said"] for row in away), len(away)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="manyview-small-words")
    parser.add_argument("--known", type=float, metavar="NOISE")
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE.md")
    args = parser.parse_args()
    answer = json.loads((args.out / FOUND).read_text(encoding="utf-8")) if args.report else measured(args)
    print(json.dumps(answer["table"], indent=1), f"{answer['seconds_per_room']:.1f} s per room")
    if args.write:
        write_section(args.write, "rooms", page(answer, args))
        picture = args.write.parent / "images" / "locate.jpg"
        picture.write_bytes((args.out / PICTURE).read_bytes())


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Every number, kept in OUT with a picture."""
    data = Manifest.load(
        write_scenes(args.out / "rooms", scenes=args.rooms, views=4, size=SIZE, seed=SEED, kind="room")
    )
    model: Any = Known(data, args.known) if args.known is not None else load_as(args.model, Reconstructs, None)[0]
    words = {**{name: (name,) for name in NAMES}, **FREE, **dict.fromkeys(ABSENT, ())}
    rows, pictures, began = [], [], time.perf_counter()
    palette, drawn = colours(len(words)), set[int]()
    for room in data.scenes().values():
        if args.known is not None:
            model.rows = room
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scene = mv.reconstruct(
                [data.path(data[row].image) for row in room], model=model, options=ReconstructOptions(cameras="model")
            )
        truth = np.stack([labels_of(data, row) for row in room])
        of_room, located = judge(scene, truth, words)
        rows += of_room
        if len(pictures) < 3:
            shown = located.scene.views[:2]
            pictures.append([part for view in shown for part in (view.image, overlay(view, palette))])
            drawn |= {int(number) for view in shown for number in np.unique(view.labels)} - {-1}
    kinds = {"class names": NAMES, "other words": tuple(FREE), "absent things": ABSENT}
    table = {kind: ratios([row for row in rows if row["word"] in of]) for kind, of in kinds.items()}
    each = {word: ratios([row for row in rows if row["word"] == word]) for word in words}
    answer = {"model": args.model if args.known is None else f"known, noise {args.known}", "rooms": args.rooms}
    answer |= {"table": table, "words": each, "seconds_per_room": (time.perf_counter() - began) / args.rooms}
    write_json(args.out / FOUND, answer)
    named = [(list(words)[number], palette[number].tolist()) for number in sorted(drawn)]
    photos = grid(pictures)
    write_picture(args.out / PICTURE, grid([[photos], [legend(named, photos.shape[1], text=20)]]))
    return answer


def reached(table: dict[str, Any], words: dict[str, Any]) -> str:
    """What was asked for, and what is so."""
    names, absent = table["class names"], table["absent things"]
    nowhere = [word for word in ABSENT if not words[word]["false_there"]]
    poor = [word for word, of in words.items() if of["recall"] is not None and of["recall"] < 0.5]
    precision, recall, false = (names[key] for key in ("precision", "recall", "false_there"))
    share = false / (false + recall * (1 / precision - 1))  # of (room, word) where it is there
    return (
        "Asked for: precision and recall of class names at least 0.5 each, false “there” of absent things at most "
        f"0.1. Reached: {precision:.2f}, {recall:.2f} and {absent['false_there']:.2f}; always saying “there” has a "
        f"precision of {share:.2f}. A class name that a room lacks is said to be there in {false:.0%} of such rooms. "
        f"Nowhere in any room, and said to be nowhere: {', '.join(nowhere) or 'none'}. Found in fewer than half of the "
        f"rooms that show them: {', '.join(poor) or 'none'}."
    )


def page(answer: dict[str, Any], args: argparse.Namespace) -> str:
    def shown(values: dict[str, float | None]) -> str:
        return " | ".join("–" if value is None else f"{value:.2f}" for value in values.values())

    heads = "precision | recall | precision of pixels | recall of pixels | false “there”"
    rule = "|---|" + "---:|" * 5
    lines = [f"| {name} | {shown(values)} |" for name, values in answer["table"].items()]
    words = [f"| {name} | {shown(values)} |" for name, values in answer["words"].items()]
    seconds = f"{len(answer['words'])} words in {answer['seconds_per_room']:.1f} s a room"
    of = f"--model {args.model}" if args.known is None else f"--known {args.known}"
    command = f"python benchmarks/locate.py OUT {of} --rooms {args.rooms} --write {args.write}"
    return "\n".join(
        [
            "# Things found by their names",
            "",
            f"`{command}` wrote this page: {answer['rooms']} rooms of four photos that nothing was trained on "
            f"(seed {SEED}), {answer['model']}, {seconds}.",
            "",
            HOW,
            "",
            "A thing is there when it fills half a percent of a photo. Precision and recall are over (room, word).",
            "",
            f"| | {heads} |",
            rule,
            *lines,
            "",
            reached(answer["table"], answer["words"]),
            "",
            "![photos, and in colours what was found](images/locate.jpg)",
            "",
            "Photos of three rooms, and beside each one, on grey, what was found in it; below, each colour's word.",
            "",
            f"| word | {heads} |",
            rule,
            *words,
            "",
        ]
    )


if __name__ == "__main__":
    main()
