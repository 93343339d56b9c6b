"""What keeping teachers' answers costs on disk, and what it saves: DUNE's three teachers by size, small ones timed.

    manyview bench teacher_cache [--json FILE]    or: python benchmarks/teacher_cache.py --write docs/teacher-cache.md

Storage is computed for one crop of a million images (patches, and DINOv2's class token). Steps per second are of
one recipe and one student on random pictures, live, while the answers are first kept, and read, in the same run;
error and bytes are measured on the same answers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from manyview import zoo
from manyview.config import RunConfig
from manyview.data.manifest import Frame, Manifest
from manyview.data.synthetic import write_scenes
from manyview.evaluation.tables import markdown_table
from manyview.recipes.base import preset
from manyview.recipes.dune import DuneRecipe
from manyview.recipes.sab3r import Sab3R
from manyview.teachers.cached import CachedTeacher
from manyview.teachers.features import FeatureTeacher
from manyview.teachers.spaces import NetworkTeacher
from manyview.types import Views

PAPER = {"dinov2": (1024, True), "mast3r": (1024, False), "multihmr": (1024, False)}
"""Width, and whether the class token is kept."""
SIDE, PICTURES, BATCH = 96, 48, 8
FEATURES, PAIR_STEPS = (96, 128), 4
KEPT = ("float16", "int8", "pca")


def storage() -> dict[str, dict[str, float]]:
    """Terabytes per million images and crop, by training resolution and way of keeping."""
    found: dict[str, dict[str, float]] = {}
    for side in (336, 448):
        patches = (side // 14) ** 2
        for keep in ("float16", "int8", "pca"):
            total = 0.0
            for width, cls in PAPER.values():
                channels = width // 4 if keep == "pca" else width
                size = 2 * patches * channels if keep == "float16" else patches * channels + 8 * channels
                total += size + 2 * width * cls
            found.setdefault(f"{side} px", {})[keep] = round(total * 1e6 / 1e12, 3)
    return found


def pictures(folder: Path) -> Path:
    """A manifest of smooth random pictures."""
    rng, frames = np.random.default_rng(0), []
    folder.mkdir()
    for index in range(PICTURES):
        small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        small.resize((128, 128), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        frames.append(
            Frame(dataset="bench", scene=f"{index}", frame="0", split="", image=f"{index}.png", width=128, height=128)
        )
    return Manifest(frames, folder).save(folder / "manifest.parquet")


def speed(folder: Path) -> dict[str, Any]:
    """Steps per second of a small student of three wider teachers, live, kept for the first time and read."""
    fields = {"dim": 384, "depth": 6, "heads": 6, "patch_size": 8, "positions": 12}
    sources = []
    for seed, name in enumerate("abc"):
        zoo.save_model(zoo.build("dinov2-vits14", seed=seed, **fields), folder / name)
        sources.append(f"{name}={folder / name}")
    config = replace(preset(DuneRecipe, "tiny")[1].method, teachers=tuple(sources), domains=("a",), crops=1)
    run, data = RunConfig(batch=BATCH), [pictures(folder / "pictures")]
    recipe = DuneRecipe.build(config)
    found: dict[str, Any] = {}
    for name, cache in (("live", None), ("first pass", folder / "kept"), ("kept", folder / "kept")):
        batches = DuneRecipe.batches(config, run, cache=cache, data=data)
        start = time.perf_counter()
        for step in range(PICTURES // BATCH):
            result = recipe.step(batches(step), progress=0.5, generator=torch.Generator())
            result.loss.backward()
        found[name] = round(PICTURES // BATCH / (time.perf_counter() - start), 3)
    return {"steps_per_second": found, "kept_over_live": round(found["kept"] / found["live"], 2)}


def kept(folder: Path) -> dict[str, dict[str, float]]:
    """Bytes per answer and error in standard deviations of the features, by way of keeping."""
    config = replace(preset(DuneRecipe, "tiny")[1].method, teachers=(f"a={folder / 'a'}",), domains=("a",), crops=1)
    views = DuneRecipe.batches(
        config, RunConfig(batch=BATCH), cache=None, data=[folder / "pictures" / "manifest.parquet"]
    )(0)
    teacher, found = FeatureTeacher(str(folder / "a"), name="a", student_patch=8), {}
    for keep in ("float16", "int8", "pca"):
        cached = CachedTeacher(teacher, folder / keep, pictures={}, keep=keep)  # type: ignore[arg-type]
        cached(views)
        index = json.loads((folder / keep / "error.json").read_text(encoding="utf-8"))
        found[keep] = {"bytes": round(index["bytes_per_answer"]), "error": round(index["error"], 5)}
    return found


def meaning(folder: Path) -> dict[str, Any]:
    """Steps per second of SAB3R's recipe with a teacher of MaskCLIP's kind, live and kept, and what keeping costs."""
    data = write_scenes(folder / "rooms", scenes=2, views=6, size=FEATURES, seed=3, trajectory="orbit")
    fields: dict[str, Any] = {"dim": 384, "depth": 6, "heads": 6, "text_depth": 1, "embed_dim": 64}
    clip = zoo.save_model(zoo.build("maskclip-vitb16", seed=0, **fields), folder / "clip")
    finer = zoo.save_model(zoo.build("featup-jbu-maskclip", seed=0, dim=64), folder / "jbu")
    method = replace(
        preset(Sab3R, "c")[1].method,
        **{"size": "debug", "student": ('feature_heads=[["clip",64]]',), "start": None, "sizes": (FEATURES,)},
        **{"matches": 64, "overlap": (0.05, 1.0), "metric": (), "teachers": {"clip": str(clip)}},
        upsamplers={"clip": str(finer)},
    )
    run, seconds = RunConfig(batch=1, lr=1e-3), {}
    recipe = Sab3R.build(method)
    for name, cache in (("live", None), ("first pass", folder / "clips"), ("kept", folder / "clips")):
        batches = Sab3R.batches(method, run, cache=cache, data=[data])
        batches(0)
        start = time.perf_counter()
        for step in range(PAIR_STEPS):
            recipe.step(batches(step), progress=0.5, generator=torch.Generator()).loss.backward()
        seconds[name] = round(PAIR_STEPS / (time.perf_counter() - start), 3)
    views, teacher = batches(0), cast(NetworkTeacher, cast(Sab3R, recipe).teacher("clip"))
    live, kept = teacher.maps(replace(views, signals={})), teacher.maps(views)
    patches, answers = (
        teacher.encoder(Views(cast(torch.Tensor, views.unchanged)))["patches"].value,
        views.signals["clip/patches"].value,
    )
    both = {"patches": (answers, patches, -1), "upsampled": (kept, live, 1)}
    errors = {name: round(1 - float(F.cosine_similarity(a, b, dim=d).mean()), 4) for name, (a, b, d) in both.items()}
    return {"steps_per_second": seconds, "cosine_error": errors}


def run(json_path: Path | None = None) -> dict[str, Any]:
    """Everything, with the sizes it was measured at."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "terabytes_per_million_images": storage(),
            "at": {"side": SIDE, "batch": BATCH, "threads": torch.get_num_threads()},
            **speed(folder),
            "answers": kept(folder),
            "sab3r": meaning(folder),
        }
    if json_path is not None:
        Path(json_path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def page(results: dict[str, Any]) -> str:
    """The tables as docs/teacher-cache.md has them."""
    at, steps = results["at"], results["steps_per_second"]
    sizes = results["terabytes_per_million_images"].items()
    answers, words = results["answers"].items(), results["sab3r"]
    pace, errors = words["steps_per_second"], words["cosine_error"]
    parts = [
        "# Keeping the teachers' answers",
        "Written by `python benchmarks/teacher_cache.py --write docs/teacher-cache.md`; nothing was typed by hand.",
        "Storage of one crop of a million images for DUNE's three ViT-L teachers (patches of all, DINOv2's class "
        "token), terabytes, computed from sizes:",
        markdown_table(["crops of", *KEPT], ([side, *(f"{of[k]:.2f}" for k in KEPT)] for side, of in sizes)),
        "Error in standard deviations of the features, and bytes of an answer, of a small teacher with random weights:",
        markdown_table(["kept as", "bytes", "error"], ([k, of["bytes"], f"{of['error']:.5f}"] for k, of in answers)),
        f"Steps per second with three such teachers and the tiny student, {at['side']} px, batch {at['batch']}, "
        f"{at['threads']} thread(s), in one run: live {steps['live']:.2f}, the first pass, which keeps them, "
        f"{steps['first pass']:.2f}, kept {steps['kept']:.2f}: {results['kept_over_live']:.2f} times the live rate.",
        "## Features of pairs (recipe sab3r)",
        "`manyview train sab3r --cache FOLDER` keeps patches (`method.keep=cosine`) and makes them finer when they are "
        "read. A teacher of MaskCLIP's kind with random weights, 384 wide and 6 deep, 64 channels, FeatUp's upsampler, "
        f"pairs of {FEATURES[0]}x{FEATURES[1]}, a student of debug size, in one run: steps per second live "
        f"{pace['live']:.2f}, the first pass {pace['first pass']:.2f}, kept {pace['kept']:.2f}: "
        f"{pace['kept'] / pace['live']:.2f} times the live rate. Most of what is left is the upsampler; a student of "
        f"full size gains less. Cosine error: {errors['patches']:.4f} of the patches, {errors['upsampled']:.4f} after "
        "the upsampler.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    found = run()
    if options.write:
        options.write.write_text(page(found), encoding="utf-8")
    print(json.dumps(found, indent=1))
