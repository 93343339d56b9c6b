"""Feature heads in the space of words for `manyview-small`: render, read its tokens once, train the heads, judge them.

    python benchmarks/small_words.py OUT --gather 0 40      rooms 0 … 39, to OUT/train-0.pt: 40 take two CPU minutes
    python benchmarks/small_words.py OUT --gather 0 30 --held-out
    python benchmarks/small_words.py OUT --train            on all that was gathered; OUT/model is the answer
    python benchmarks/small_words.py OUT --judge [--install]

The trunk is frozen, so its tokens are read once per picture. Judged on rooms of another seed, view by view: mIoU over
the classes by the nearest text, the same with the texts shuffled, and always saying "wall"; points must be those of
manyview-small to the bit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview import zoo
from manyview.config import override
from manyview.data.synthetic.models import CLASSES
from manyview.data.synthetic.streams import scene_of
from manyview.engine.device import autocast
from manyview.files import write_json
from manyview.models.dense_heads import sample_maps
from manyview.recipes.base import preset
from manyview.recipes.sab3r import Sab3R
from manyview.types import Views

SIZES = ((168, 224), (168, 224), (168, 224), (224, 168), (196, 196))
SEEDS = {"train": 1, "held-out": 77}
VIEWS = 3
SPACE = "minilm"


def recipe_of(settings: list[str]) -> Sab3R:
    torch.manual_seed(0)
    return Sab3R.build(override(preset(Sab3R, "tiny")[1], settings).method)


def gather(out: Path, first: int, last: int, part: str) -> None:
    """Tokens, labels and pictures of rooms, as they are; what was gathered is kept."""
    student, rows = recipe_of([]).student.eval(), []
    caught: list[Any] = []
    student.feature_heads[SPACE].register_forward_pre_hook(lambda head, given: caught.append(given[0]))
    for number in range(first, last):
        size = SIZES[number % len(SIZES)]
        scene = scene_of("rooms", SEEDS[part], number, views=VIEWS, size=size)
        with torch.inference_mode():
            student(scene.images[None], points=False, head_chunk=VIEWS)
        images = (scene.images * 255).round().byte()
        levels = [level.half() for level in caught.pop()]
        rows.append({"levels": levels, "labels": scene.labels, "images": images, "size": size})
    torch.save(rows, out / f"{part}-{first}.pt")


def rooms_of(out: Path, part: str) -> list[dict[str, Any]]:
    files = sorted(out.glob(f"{part}-*.pt"))
    return [row for file in files for row in torch.load(file, weights_only=True)]


def train(out: Path, steps: int, scenes: int, settings: list[str], quiet: bool = False) -> Sab3R:
    recipe, rooms = recipe_of(settings), rooms_of(out, "train")
    head = recipe.student.feature_heads[SPACE]
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    by_size = {size: [r for r in rooms if r["size"] == size] for size in dict.fromkeys(SIZES)}
    generator, began = torch.Generator().manual_seed(0), time.time()
    for step in range(steps):
        kind = by_size[SIZES[step % len(SIZES)]]
        drawn = [kind[i] for i in torch.randint(len(kind), (scenes,), generator=generator)]
        levels = [torch.cat([row["levels"][i] for row in drawn]).float() for i in range(4)]
        labels = torch.cat([row["labels"] for row in drawn])[:, None]  # (N, 1, H, W)
        views = Views(torch.empty(*labels.shape[:2], 3, *labels.shape[2:]), labels=labels)
        grid = (labels.shape[-2] // 14, labels.shape[-1] // 14)
        points = torch.rand(len(labels), recipe.config.pixels, 2, generator=generator)
        with autocast(torch.device("cpu"), "auto"):
            said = head.space(sample_maps(head.pixels(levels, grid), points).transpose(1, 2))  # linear maps commute
        terms = recipe.meaning(SPACE, said, views, points)
        loss = sum(share * term for share, term in terms.values()) * recipe.config.feature_weights[SPACE]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        rate.step()
        if step % 50 == 49 and not quiet:
            told = {name: round(float(term.detach()), 4) for name, (_, term) in terms.items()}
            print(step + 1, told, f"{time.time() - began:.0f} s", flush=True)
    return recipe


def confusion(recipe: Sab3R, rooms: list[dict[str, Any]], words: Tensor, said: int | None = None) -> Tensor:
    """Pixels by true class and by nearest word: (C, C)."""
    head, counts = recipe.student.feature_heads[SPACE].eval(), torch.zeros(len(words), len(words))
    for row in rooms:
        height, width = row["size"]
        with torch.inference_mode():
            maps = head([level.float() for level in row["levels"]], (height // 14, width // 14))
            scores = (F.normalize(maps, dim=-1) @ words.T).permute(0, 3, 1, 2)
            scores = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        answer = scores.argmax(1) if said is None else torch.full_like(row["labels"], said).long()
        index = row["labels"].long().flatten() * len(words) + answer.flatten()
        counts += torch.bincount(index, minlength=len(words) ** 2).view_as(counts)
    return counts


def miou(counts: Tensor) -> tuple[float, float]:
    """Mean over the classes that are there of intersection over union, and the share of right pixels."""
    there = counts.sum(1) > 0
    union = counts.sum(1) + counts.sum(0) - counts.diagonal()
    return float((counts.diagonal() / union)[there].mean()), float(counts.diagonal().sum() / counts.sum())


def judge(recipe: Sab3R, out: Path) -> dict[str, Any]:
    rooms, words = rooms_of(out, "held-out"), zoo.embed_texts(SPACE, CLASSES)
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(1))
    counts = confusion(recipe, rooms, words)
    told = {
        "model": miou(counts),
        "shuffled texts": miou(confusion(recipe, rooms, words[order])),
        "always wall": miou(confusion(recipe, rooms, words, CLASSES.index("wall"))),
    }
    union = counts.sum(1) + counts.sum(0) - counts.diagonal()
    each = {name: round(float(v), 3) for name, v in zip(CLASSES, counts.diagonal() / union.clamp(min=1))}
    images = rooms[0]["images"][None] / 255
    with torch.inference_mode():
        plain, ours = zoo.load("manyview-small")(images), recipe.student.eval()(images)
    same = all(torch.equal(value, ours[name]) for name, value in plain.items())
    return {"rows": told, "classes": each, "rooms": len(rooms), "same points": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gather", nargs=2, type=int, metavar=("FIRST", "LAST"))
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--install", action="store_true", help="put the model into the package")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--scenes", type=int, default=6, help="rooms a step")
    parser.add_argument("--set", nargs="+", default=[], help="method.… of the preset tiny of recipe sab3r")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.gather:
        gather(args.out, *args.gather, "held-out" if args.held_out else "train")
    if args.train:
        zoo.save_model(train(args.out, args.steps, args.scenes, args.set).student, args.out / "model", overwrite=True)
    if args.judge or args.install:
        recipe = recipe_of(args.set)
        zoo.take_weights(recipe.student, zoo.load(args.out / "model").state_dict(), "the trained model", "train again")
        told = judge(recipe, args.out)
        write_json(args.out / "judged.json", told)
        print(json.dumps(told, indent=1))
    if args.install:
        folder = zoo.models.ASSETS / "manyview-small-words"
        zoo.save_model(
            recipe.student, folder, zoo.CARDS[folder.name], half=True, beside="manyview-small", overwrite=True
        )
        print(f"wrote {folder}; put the numbers on its README.md")


if __name__ == "__main__":
    main()
