"""From a video or photos of a place to a student of that place: what `manyview distil` does.

Frames are chosen, their cameras found from matches, a teacher asked, a student that knows the world in general trained
on the teacher's answers, and judged before and after on frames that it did not see. Every station is the one that other
commands use; interrupted anywhere, the same line goes on.

    OUT/frames/         the chosen frames of a video
    OUT/scene, posed/   the reconstruction, and its photos with their cameras
    OUT/train.parquet, test.parquet, cache/, run/, model/, report.html, result.json
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview import zoo
from manyview.cache.build import build
from manyview.config import to_dict
from manyview.data.loading import load_views
from manyview.data.manifest import Manifest
from manyview.data.sources import SOURCES, scan
from manyview.engine import checkpoint
from manyview.errors import UserError
from manyview.files import write_json
from manyview.images.choosing import choose_frames
from manyview.images.fit import same_pixels
from manyview.images.inputs import Take, pictures
from manyview.images.video import is_video, read_frames, video_info
from manyview.images.writing import write_picture
from manyview.metrics import abs_rel
from manyview.models.family import lookup
from manyview.pages.page import Page
from manyview.pages.pictures import colour_map, depth_range
from manyview.pipelines.options import DistilOptions, ReconstructOptions
from manyview.pipelines.reconstruct import reconstruct
from manyview.pipelines.train import resume, train
from manyview.progress import track
from manyview.scene.report import write_report
from manyview.scene.scene import Scene
from manyview.scene.store import WHAT as SCENE
from manyview.teachers.named import check_teacher, teacher_named
from manyview.teachers.photos import Photos
from manyview.types import Teacher
from manyview.workfolder import WorkFolder
from manyview.written import add, fresh_directory, holds

RECORD, REPORT = "distil.json", "report.html"
FRAMES = "frames of a video"
LOOKED_AT = 10.0
"""Frames of a video a second that are looked at when some are chosen."""
AT_ONCE = 64
"""Views of a scene, at most, that a teacher with poses is asked about together."""
UNJUDGED = "The held-out frames are too few for the teacher, and have no measured depth: nothing says what it is worth."
FEWEST = 8
"""Photos with a camera below which there is nothing to learn from."""


def distil(
    images: Any,
    out: str | Path,
    *,
    config: DistilOptions | None = None,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Learn the place that a video, a folder or list of photos, or a manifest with cameras shows, into `out`.

    Returns what `result.json` holds: model, AbsRel before and after on frames that were held out, against the teacher
    and, where a manifest has it, against measured depth. Raises UserError when too few photos get a camera, and when
    `out` holds a job with other settings.
    """
    out, config = Path(out), config or DistilOptions()
    _check(config)
    given = str(images) if isinstance(images, (str, Path)) else [str(path) for path in images]
    folder = WorkFolder(out, "distillation", RECORD)
    folder.claim({"images": given, **to_dict(config)}, may_change=("images",))
    with folder.lock(busy=f"another process works in {out}; wait for it, or choose another folder with -o"):
        say("1/4 frames and their cameras")
        posed = _posed(images, out, config, device, say)
        size = _size(posed, config)
        seen, held = _split(posed, config.holdout)
        for part, name in ((seen, "train"), (held, "test")):
            part.save(out / f"{name}.parquet")
        say(f"2/4 asking {config.teacher} about {len(seen)} frames of {size[0]}x{size[1]}")
        judge = teacher_named(config.teacher, size)
        teacher = Photos(fill=zoo.load(config.student)) if isinstance(judge, Photos) else judge
        at_once, step = _at_once(teacher, seen, config)
        asked = build(
            out / "train.parquet",
            teacher,
            out / "cache",
            views=at_once,
            step=step,
            size=size,
            device=device if device != "auto" else "cpu",
            say=say,
        )
        for problem in asked.problems[:3]:
            say(f"left out: {problem.file}: {problem.reason}")
        say(f"3/4 training {config.student} for {config.steps} steps")
        model = _trained(out, config, size, device)
        say(f"4/4 judging on {len(held)} frames that it did not see")
        rows, shown = _judged({"before": config.student, "after": str(model)}, held, judge, size, config)
        result = {
            "model": str(model),
            "report": str(out / REPORT),
            "frames": len(seen),
            "held_out": len(held),
            "size": list(size),
            "left_out_samples": len(asked.problems),
            **rows,
        }
        if not result["abs_rel"]:
            say(f"{UNJUDGED} Give more frames, or another --holdout.")
        _write_report(out, config, result, shown)
        write_json(out / "result.json", result)
    return result


def _check(config: DistilOptions) -> None:
    """Raise UserError for what cannot go well, before the frames are looked at."""
    check_teacher(config.teacher)
    zoo.load(config.student)
    if not 0 < config.holdout < 1:
        raise UserError(f"holdout is {config.holdout:g}; give a share between 0 and 1, such as 0.2")
    if config.frames < FEWEST or config.steps < 1 or config.window < 2 or not 1 <= config.views <= config.window:
        raise UserError(
            f"frames {config.frames}, steps {config.steps}, window {config.window}, views {config.views}: give at "
            f"least {FEWEST} frames, 1 step, windows of 2, and between 1 and window views"
        )


def _posed(images: Any, out: Path, config: DistilOptions, device: str, say: Callable[[str], None]) -> Manifest:
    """The frames with their cameras: a manifest that has them, or a reconstruction's."""
    if str(images).endswith(".parquet"):
        return Manifest.load(Path(images))
    if not (out / "posed/transforms.json").is_file():
        chosen: Any = images
        if isinstance(images, (str, Path)) and is_video(Path(images)):
            chosen = _chosen_frames(Path(images), out / "frames", config.frames)
        scene = _scene(chosen, out / "scene", config, device)
        kept = [view for view in scene.views if view.registered and view.component == 0]
        if len(kept) < FEWEST:
            raise UserError(
                f"only {len(kept)} of {len(scene.views)} photos could be tied together, {FEWEST} are needed; see "
                f"{out / 'scene' / REPORT}, and take more photos that overlap and show texture"
            )
        say(f"{len(kept)} of {len(scene.views)} photos have a camera")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out has been said
            scene.export(out / "posed", to="nerfstudio")
    manifest, problems = scan(out / "posed", format="nerfstudio", options=SOURCES.get("nerfstudio").options())
    if problems:
        raise UserError(f"{problems[0].path}: {problems[0].reason}; delete {out / 'posed'} and run the same line again")
    return manifest


def _split(posed: Manifest, holdout: float) -> tuple[Manifest, Manifest]:
    """The frames to learn from, and the last ones of every scene. Raises UserError for too few."""
    seen: list[int] = []
    for rows in posed.scenes().values():
        seen += rows[: max(1, round(len(rows) * (1 - holdout)))]
    held = sorted(set(range(len(posed))) - set(seen))
    if len(seen) < FEWEST - 1 or not held:
        raise UserError(
            f"{len(seen)} frames to learn from and {len(held)} to judge on, at least {FEWEST - 1} and 1 are needed; "
            "give more frames, or another --holdout"
        )
    parts = (Manifest(posed.frames.take(np.array(rows)), posed.root, posed.info) for rows in (seen, held))
    return next(parts), next(parts)


def _chosen_frames(video: Path, folder: Path, count: int) -> Path:
    if not holds(folder, FRAMES):
        native = video_info(video).fps
        fps = LOOKED_AT if native > LOOKED_AT else None
        looked_at: list[int] = []

        def small() -> Any:
            for picture in track(pictures(video, Take(fps=fps)).items, label="choosing frames", unit="frame"):
                looked_at.append(int(picture.frame or 0))
                yield picture.pixels

        wanted = [looked_at[i] for i in choose_frames(small(), count)]
        with fresh_directory(folder, what=FRAMES) as fresh:
            for number, frame in zip(wanted, read_frames(video, wanted), strict=True):
                write_picture(fresh / f"{video.stem}-{number:06d}.jpg", frame)
    return folder


def _scene(images: Any, folder: Path, config: DistilOptions, device: str) -> Scene:
    if (folder / "scene.json").is_file():
        scene = Scene.load(folder)
    else:
        options = ReconstructOptions(cameras="matches")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scene's report says them
            scene = reconstruct(images, model=config.student, device=device, options=options)
        scene.save(folder)
    if not (folder / REPORT).is_file():
        add(folder, SCENE, REPORT, partial(write_report, scene, of=folder))
    return scene


def _size(manifest: Manifest, config: DistilOptions) -> tuple[int, int]:
    """(H, W) of about so many pixels in the aspect that most frames have, whole patches of the student."""
    shapes = [(manifest[row].height, manifest[row].width) for row in range(len(manifest))]
    patch = int(zoo.load(config.student).config.patch_size)
    return same_pixels((1, config.pixels), max(set(shapes), key=shapes.count), multiple=patch)


def _trained(out: Path, config: DistilOptions, size: tuple[int, int], device: str) -> Path:
    run = out / "run"
    if holds(run / "model", "model"):
        return run / "model"
    inputs: dict[str, Any] = {"cache": out / "cache", "data": [out / "train.parquet"], "device": device}
    if checkpoint.latest(run) is not None:
        done = resume(run, **inputs)
    else:
        (run / "metrics.jsonl").unlink(missing_ok=True)  # of a run that ended before its first checkpoint
        settings = [
            f"method.model={_shape_of(config.student)}",
            f"method.views={config.views}",
            f"method.loss={config.loss}",
            *("method.alpha_global=0.5", "method.gamma=0", "method.flip=true", "method.jitter=0.3"),
            *("run.batch=2", f"run.steps={config.steps}", f"run.lr={config.lr}", f"run.seed={config.seed}"),
            "run.checkpoint_every=10",
        ]
        done = train("distill3r", out=run, preset="tiny", init=config.student, settings=settings, **inputs)
    if done.model is None:
        raise KeyboardInterrupt
    return done.model


def _shape_of(student: str) -> str:
    """The zoo name of a network of this shape. Raises UserError for a shape that has none."""
    if student in zoo.names():
        return student
    config = zoo.load(student).config
    for name in zoo.names():
        if lookup(name)[1] == config:
            return name
    raise UserError(f"{student} has a shape of its own; give a model that began as one of: {', '.join(zoo.names())}")


def _at_once(teacher: Teacher, manifest: Manifest, config: DistilOptions) -> tuple[int, int]:
    """Views that a teacher sees together, and from one such group to the next.

    One that is given the poses sees a whole scene, so that stereo finds the neighbours that suit each view.
    """
    longest = max(len(rows) for rows in manifest.scenes().values())
    if "cam2world" in teacher.requires:
        together = longest // -(-longest // AT_ONCE)
        return together, together
    return min(config.window, longest), max(1, config.window // 2)


Shown = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
"""A photo (H, W, 3) uint8, its true depth, and what each model says of it (H, W)."""


def _judged(
    models: dict[str, str], held: Manifest, teacher: Teacher, size: tuple[int, int], config: DistilOptions
) -> tuple[dict[str, Any], list[Shown]]:
    """AbsRel after median scaling of every model against the teacher's depth and measured depth; maps to look at."""
    networks = {name: zoo.load(source).eval() for name, source in models.items()}
    scores: dict[str, dict[str, list[float]]] = {}
    shown: list[Shown] = []
    count = _at_once(teacher, held, config)[0]
    for start in track(list(range(0, len(held), count)), label="judging", unit="window"):
        rows = list(range(len(held)))[max(0, min(start, len(held) - count)) : start + count]
        views = load_views(held, rows, size)
        truths = {}
        try:
            answer = teacher(views)["pointmap_local"]
            valid = torch.ones(answer.value.shape[:-1], dtype=torch.bool) if answer.valid is None else answer.valid
            truths["teacher"] = torch.where(valid, answer.value[..., 2], 0)[0].numpy()
        except UserError:
            pass  # too few views for it
        if views.depth is not None:
            truths["measured"] = views.depth[0].numpy()
        said = {}
        with torch.inference_mode():
            for name, network in networks.items():
                each = [network(views.images[:, i : i + 1])["pointmap_local"][0, 0, ..., 2] for i in range(len(rows))]
                said[name] = torch.stack(each).numpy()
        for against, truth in truths.items():
            for name, depths in said.items():
                errors = scores.setdefault(against, {}).setdefault(name, [])
                errors += [abs_rel(d, t, t > 0) for d, t in zip(depths, truth, strict=True) if (t > 0).mean() > 0.02]
        depths = truths.get("measured", truths.get("teacher", np.zeros_like(said["after"])))
        photos = (views.images[0].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        shown += [(photos[i], depths[i], {name: maps[i] for name, maps in said.items()}) for i in range(len(rows))]
    table = {
        against: {name: float(np.mean(errors)) for name, errors in rows.items() if errors}
        for against, rows in scores.items()
    }
    return {"abs_rel": {against: row for against, row in table.items() if row}}, shown


def _write_report(out: Path, config: DistilOptions, result: dict[str, Any], shown: Sequence[Shown]) -> None:
    page = Page(
        "A student of this place",
        f"{config.student} learned from {result['frames']} frames; teacher: {config.teacher}. The numbers and pictures "
        f"are of {result['held_out']} frames that it did not see.",
        plain=True,
    )
    rows = [
        (against, f"{row['before']:.3f}", f"{row['after']:.3f}", f"{row['after'] / row['before'] - 1:+.0%}")
        for against, row in result["abs_rel"].items()
    ]
    if rows:
        page.table(("relative depth error against", "before", "after", "change"), rows)
    else:
        page.text(UNJUDGED)
    if any(row["after"] >= row["before"] for row in result["abs_rel"].values()):
        page.text("It did not get better on all of them: more frames, more texture or more steps may help.")
    for photo, depth, said in shown[:: -(-len(shown) // 4)]:
        low, high = depth_range(depth)
        pictures = [("photo", photo), ("teacher or sensor", colour_map(depth, low, high, depth > 0))]
        for name, maps in said.items():
            valid = depth > 0
            scale = np.median(depth[valid]) / np.median(maps[valid]) if valid.any() else 1.0
            pictures.append((name, colour_map(maps * scale, low, high)))
        page.pictures(pictures)
    page.heading("Next")
    page.code(f"manyview reconstruct photos/ --model {result['model']} -o scene")
    page.write(out / REPORT)
