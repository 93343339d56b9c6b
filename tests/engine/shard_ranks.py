"""One of two processes that train the toy split and whole, one case after the other: `OUT MEETING RANK`.

Starting a process takes far longer than a case; the tests read what lies in OUT afterwards.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from toy import RUN, Toy, ToyConfig, views

from manyview.engine import loop, shard, track

SHORT = replace(RUN, steps=12, warmup=2, log_every=6, checkpoint_every=6)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "together": ({"clip": 0.05, "decay_vectors": False}, {}),
    "each": ({"clip": 0.02, "clip_each": True}, {"checkpointing": True}),
    "bf16": ({"clip": 0.0, "precision": "bf16"}, {"checkpointing": True, "twice": True}),
}
"""Options of the run and of the toy. In all of them the gradients are longer than a clip lets them be."""
BAD = 9
"""This pass, of the second process in step 3, has no finite loss: both must skip the step."""


def case(name: str, **changes: Any) -> tuple[Toy, Any]:
    """A new toy and the settings of its run."""
    run, method = CASES[name]
    return Toy(ToyConfig(blocks=3, **method)), replace(SHORT, **run, **changes)


def batches(index: int):
    made = views(index)
    return replace(made, images=made.images * torch.nan) if index == BAD else made


def train(out: Path, name: str, *, resume: bool = False, **changes: Any) -> Toy:
    recipe, run = case(name, **changes)
    loop.fit(recipe, batches, run, out, device="cpu", resume=resume, describe={"method": asdict(recipe.config)})
    return recipe


def copy_until(source: Path, target: Path, step: int) -> None:
    """A run as if it had been killed after `step`."""
    if dist.get_rank() == 0:
        shutil.copytree(source, target)
        for path in (target / "checkpoints").iterdir():
            if int(path.name) > step:
                shutil.rmtree(path)
    dist.barrier()


def main() -> None:
    out, meeting, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    track._board = lambda run_dir, step: None  # type: ignore[assignment]
    shard.LEAST = 100
    held: list[tuple[int, int]] = []
    moments = loop.moments

    def spy(optimizer, order):
        state = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
        held.append((sum(shard.share(p).numel() for p in order), sum(shard.share(v).numel() for v in state)))
        return moments(optimizer, order)

    loop.moments = spy
    report: dict[str, Any] = {}
    for name in CASES:
        for kind in ("split", "whole"):
            recipe = train(out / f"{name}-{kind}", name, shard=kind == "split")
            report[f"{name}-{kind}"] = held[-1]
    copy_until(out / "together-split", out / "resumed", 6)
    recipe = train(out / "resumed", "together", resume=True, shard=True)
    copy_until(out / "together-whole", out / "to-split", 6)
    train(out / "to-split", "together", resume=True, shard=True)
    if rank == 0:  # alone: a module that still gathered would wait for ever
        report["says"] = recipe.eval().say(torch.ones(2, 6)).tolist()
        report["classes"] = sorted({type(module).__name__ for module in recipe.modules()})
        torch.save(recipe.state_dict(), out / "joined.pt")
    (out / f"report-{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
