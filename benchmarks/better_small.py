"""Better `manyview-small` on a GPU in nine minutes: check, go on training on streamed scenes, judge, leave weights.

    python benchmarks/better_small.py OUT                    on a machine with a GPU and 16 cores; OUT: at most 8 files
    python benchmarks/better_small.py OUT --seconds 20 --device cpu --windows 2      a try, on any machine
    python benchmarks/better_small.py OUT --data rooms:2     other streams; another seed for every further run
    python benchmarks/better_small.py OUT --install          afterwards: keeps what is better, from the files in OUT

What comes first is checked first: a batch renders alike twice, and the loss on the GPU is the loss on the CPU. Results
are written as they come: OUT/log.jsonl and the weights follow the training, OUT/report.json has what is known. The
weights are kept when turn error and global point error on the 48 held-out scenes of `views-used` are both at least
10 % smaller.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from manyview import zoo
from manyview.batches.worlds import WorldBatches
from manyview.config import override
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.engine import checkpoint
from manyview.engine.device import autocast, pick_device
from manyview.evaluation.base import evaluate
from manyview.evaluation.views_used import HELD_OUT, ViewsUsed
from manyview.pipelines.train import train
from manyview.recipes.base import preset
from manyview.recipes.distill3r import Distill3R

MODEL = "manyview-small"
DATA = ("rooms:1",)
PIECE = 15_500_000  # bytes of a file of weights
BETTER = 0.9
ASSETS = Path(__file__).resolve().parents[1] / "src/manyview/assets" / MODEL


class Report:
    """OUT/report.json, written anew whenever something is known."""

    def __init__(self, out: Path) -> None:
        self.path, self.known, self.began = out / "report.json", dict[str, Any](), time.time()

    def tell(self, **known: Any) -> None:
        self.known |= {**known, "seconds": round(time.time() - self.began, 1)}
        self.path.write_text(json.dumps(self.known, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(known), flush=True)


def check(device: torch.device) -> dict[str, float]:
    """Raises SystemExit when this machine does not compute what another one does."""
    settings = ["method.stream.rendered=4", "method.stream.count=[4]", "method.stream.reuse=1"]
    chosen = override(preset(Distill3R, "small")[1], settings)
    batches = WorldBatches(DATA, chosen.method.stream, scenes=1, seed=3)
    first, again = batches(0), batches(0)
    if not torch.equal(first.images, again.images):
        raise SystemExit("the same batch was rendered twice and differs")
    losses = {}
    for name, where, precision in (("cpu", torch.device("cpu"), "fp32"), ("here", device, "auto")):
        torch.manual_seed(0)
        recipe = Distill3R.build(chosen.method)
        recipe.student.load_state_dict(zoo.load(MODEL).state_dict())
        recipe = recipe.to(where)
        with autocast(where, precision):
            result = recipe.step(first.to(where), progress=0.0, generator=torch.Generator().manual_seed(0))
        result.loss.backward()
        losses[name] = float(result.loss.detach())
    if not abs(losses["cpu"] - losses["here"]) < 0.03 * abs(losses["cpu"]):
        raise SystemExit(f"the loss is {losses['here']} on {device} and {losses['cpu']} on the CPU")
    return losses


def judged(model: Any, data: Path, out: Path) -> dict[str, float]:
    row = evaluate(ViewsUsed(), model, Manifest.load(data), out)
    gate, means = {name: line["value"] for name, line in row["gate"].items()}, row["rows"][0]
    return {**gate, "error": means["error"], "turn_degrees": means["turn"], "abs_rel": means["abs_rel"]}


def leave(weights: dict[str, torch.Tensor], out: Path) -> None:
    """The weights in half precision in files of at most PIECE bytes."""
    piece: dict[str, torch.Tensor] = {}
    number = size = 0
    for name, value in weights.items():
        half = value.half().contiguous()
        if size + half.nbytes > PIECE:
            save_file(piece, out / f"weights-{number}.safetensors")
            piece, size, number = {}, 0, number + 1
        piece[name], size = half, size + half.nbytes
    save_file(piece, out / f"weights-{number}.safetensors")


def follow(run: Path, out: Path, over: threading.Event) -> None:
    """Bring the log and the newest checkpoint's weights to `out` while the run goes on."""
    newest = 0
    while not over.wait(15):
        with contextlib.suppress(OSError):
            shutil.copy(run / "metrics.jsonl", out / "log.jsonl")
        steps = checkpoint.steps(run)
        if steps and steps[-1] > newest:
            with contextlib.suppress(OSError, ValueError):  # it was replaced by the next one meanwhile
                student = checkpoint.at(run, steps[-1]).weights().items()
                leave({key.partition(".")[2]: value for key, value in student if key.startswith("student.")}, out)
                newest = steps[-1]


def better(report: dict[str, Any]) -> bool:
    before, after = report["before"], report["after"]
    return all(after[name] <= BETTER * before[name] for name in ("turn", "error"))


def run(args: argparse.Namespace) -> None:
    device, report = pick_device(args.device), Report(args.out)
    report.tell(device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu", torch=torch.__version__)
    report.tell(check=check(device))
    work = Path(tempfile.mkdtemp(prefix="better-small-"))
    held_out = write_scenes(work / "held-out", **{**HELD_OUT, "scenes": args.windows}, workers=args.workers)
    report.tell(before=judged(zoo.load(MODEL).to(device), held_out, work / "before"))

    settings = [f"run.seconds={args.seconds}", f"run.workers={args.workers}", f"run.batch={args.batch}"]
    settings += ["run.log_every=20", *args.set]
    folder, over = work / "run", threading.Event()
    threading.Thread(target=follow, args=(folder, args.out, over), daemon=True).start()
    trained = train(
        "distill3r", out=folder, preset="small", data=args.data, init=MODEL, settings=settings, device=args.device
    )
    over.set()
    shutil.copy(folder / "metrics.jsonl", args.out / "log.jsonl")
    if trained.model is None:
        raise SystemExit("interrupted; OUT has the weights of the last checkpoint")
    report.tell(steps=trained.fit.steps, loss=trained.fit.final_loss)
    leave(load_file(trained.model / "model.safetensors"), args.out)
    report.tell(after=judged(zoo.load(trained.model).to(device), held_out, work / "after"))
    report.tell(better=better(report.known))


def install(out: Path) -> None:
    """The weights in OUT into the package, where they are better."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    if not report.get("better"):
        numbers = f"{report.get('before')}, then {report.get('after')}"
        raise SystemExit(f"{out}: not at least 10 % better; nothing was changed ({numbers})")
    model = zoo.load(MODEL)
    pieces = [load_file(path) for path in sorted(out.glob("weights-*.safetensors"))]
    model.load_state_dict({name: value for piece in pieces for name, value in piece.items()})
    zoo.save_model(model, ASSETS, zoo.CARDS[MODEL], half=True)
    print(f"wrote {ASSETS}; its README.md says how the weights came about: put the numbers of {out}/report.json there")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440, help="of training (440: nine minutes with everything)")
    parser.add_argument("--data", nargs="+", default=list(DATA), help="streams to learn from")
    parser.add_argument("--workers", type=int, default=15, help="processes that render")
    parser.add_argument("--batch", type=int, default=8, help="scenes a step")
    parser.add_argument("--windows", type=int, default=HELD_OUT["scenes"], help="held-out scenes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", nargs="+", default=[], help="further options of manyview train")
    parser.add_argument("--install", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    install(args.out) if args.install else run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
