"""What the many-view student costs: time and memory by number of views (Distill3R, Table I), and what makes it cheaper.

    python benchmarks/efficiency.py --write docs/efficiency.md
    python benchmarks/efficiency.py --device cuda --write docs/efficiency-gpu.md

Table I is the published student with seeded weights at 378x518. Its floor is what this machine needs at least: the
operations of the forward pass at the rate of a large matrix product, and their reads and writes, each tensor once, at
the rate of a large copy; both rates are measured in the same run. On a CPU seconds are those of the process, which
other programs disturb less than the wall clock. Memory is what the pass adds to weights, pictures and interpreter. On a
GPU float32 has no floor here: its convolutions are done in TF32 and its fusion attention in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from manyview import zoo
from manyview.evaluation.tables import markdown_table
from manyview.hardware import native_bf16
from manyview.losses.pointmap import distill3r_loss
from manyview.types import Signal

SIZE, TRAINED_SIZE = (378, 518), (224, 518)
BEFORE = 16  # views that a head took together on a CPU before two were the default
MOST_FULL = 128  # views up to which float32 is measured
PAPER = {  # Distill3R, Table I: RTX 6000 Ada, bf16: seconds, GB
    **{12: (0.13, 4.05), 32: (0.41, 9.97), 64: (1.02, 21.80), 96: (1.78, 28.69), 128: (2.69, 31.90)}
}


def student(device: torch.device) -> Any:
    return zoo.build("distill3r", seed=0).to(device).eval()


def low(device: torch.device, on: bool) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if on else contextlib.nullcontext()


def seconds(act: Callable[[], Any], device: torch.device) -> float:
    """Of the process on a CPU, of the clock on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = clock()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begin


def in_turns(acts: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, float]:
    """Medians of seconds, one after the other in each round, after a first round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(rounds + 1):
        for name, act in acts.items():
            spent = seconds(act, device)
            if number:
                found[name].append(spent)
    return {name: statistics.median(values) for name, values in found.items()}


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, views left out, and FLOPs of a CPU's attention, which torch leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.flops += 4 * args[0].numel() * args[1].shape[-2]
        if not func.is_view:
            every = torch.utils._pytree.tree_leaves((args, kwargs, out))
            self.bytes += sum(t.numel() * t.element_size() for t in every if isinstance(t, Tensor))
        return out


def work(model: Any, images: Tensor) -> tuple[float, float]:
    """FLOPs and bytes of one forward pass in float32."""
    counter, traffic = FlopCounterMode(display=False), Traffic()
    with torch.no_grad(), counter, traffic:
        model(images)
    return float(counter.get_total_flops() + traffic.flops), float(traffic.bytes)


def rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOPs and bytes a second of a large matrix product and a large copy."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.empty(1 << (30 if device.type == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min(seconds(lambda: a @ a, device) for _ in range(5))
    copy = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * side**3 / product, 2 * len(source) / copy


def peak_gb(act: Callable[[], Any], device: torch.device) -> float:
    """Memory that an act adds at its highest, in GB."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        act()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e9
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _kilobytes(status, "VmRSS")
    act()
    return (_kilobytes(status, "VmHWM") - before) * 1024 / 1e9


def _kilobytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])


def alone(views: int, size: tuple[int, int], chunk: int | None, bf16: bool, device: str) -> dict[str, float]:
    """One forward pass, on a CPU in a process of its own: its peak, or why there is none."""
    if torch.device(device).type == "cuda":  # it counts what is its own
        return one(views, size, chunk, bf16, device)
    words = [sys.executable, __file__, "--one", json.dumps([views, size, chunk, bf16, device])]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"a pass of {views} views failed: {ran.stderr.strip().splitlines()[-1:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def one(views: int, size: Sequence[int], chunk: int | None, bf16: bool, device: str) -> dict[str, float]:
    where = torch.device(device)
    model = student(where)
    images = torch.rand(1, views, 3, *size, device=where)
    with torch.inference_mode(), low(where, bf16):
        model(images[:, :1, :, :28, :28])  # libraries are loaded
        return {"gb": peak_gb(lambda: model(images, head_chunk=chunk), where)}


def table_one(views: Sequence[int], device: torch.device, rounds: int) -> list[list[str]]:
    """A row per number of views and precision, and on a GPU per views that a head takes together."""
    model, rows = student(device), []
    gpu = device.type == "cuda"
    kinds = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None)}
    if gpu:
        kinds["bf16, heads 4 at a time"] = (torch.bfloat16, 4)
    if not native_bf16(device):
        kinds = {"fp32": kinds["fp32"]}
    speed = {dtype: rates(device, dtype) for dtype, _ in kinds.values()}
    for count in views:
        images = torch.rand(1, count, 3, *SIZE, device=device)
        here = {kind: how for kind, how in kinds.items() if how[0] != torch.float32 or count <= MOST_FULL}
        with low(device, "fp32" not in here):
            flops, moved = work(model, images)
        moved *= 1 if "fp32" in here else 2  # counted in half precision

        def passed(dtype: torch.dtype, chunk: int | None, images: Tensor = images) -> None:
            with torch.inference_mode(), low(device, dtype != torch.float32):
                model(images, head_chunk=chunk)

        acts = {kind: lambda how=how, p=passed: p(*how) for kind, how in here.items()}
        took = in_turns(acts, device, rounds)
        for kind, (dtype, chunk) in here.items():
            half = dtype != torch.float32
            by_flops, by_bytes = flops / speed[dtype][0], moved * (0.5 if half else 1) / speed[dtype][1]
            if gpu:
                memory = peak_gb(acts[kind], device)
            else:
                memory = alone(count, SIZE, chunk, half, str(device))["gb"]
            paper = "{} s, {} GB".format(*PAPER[count]) if count in PAPER else "–"
            floor = max(by_flops, by_bytes)
            floors = [f"{by_flops:.3f}", f"{by_bytes:.3f}", f"{took[kind] / floor:.2f}"]
            if gpu and not half:
                floors = ["–"] * 3
            rows.append([f"{count}, {kind}", f"{took[kind]:.3f}", f"{memory:.2f}", *floors, paper])
            print(*rows[-1], flush=True)
    return rows


def faster(device: torch.device, rounds: int) -> list[list[str]]:
    """Student and training step: bf16 by float32, in turns, and how far apart the losses are."""
    rows = []
    for name, views, size in (("distill3r", 2, TRAINED_SIZE), ("manyview-small", 4, (168, 224))):
        model = zoo.build(name, seed=0).to(device)
        images = torch.rand(1, views, 3, *size, device=device)
        points = torch.rand(1, views, *size, 3, device=device) + 1
        signals = {
            key: Signal(points if "pointmap" in key else points[..., 0] + 1)
            for key in ("pointmap", "pointmap_local", "confidence", "confidence_local")
        }
        losses: dict[str, float] = {}

        def infer(on: bool, model: Any = model, images: Tensor = images) -> None:
            model.eval()
            with torch.inference_mode(), low(device, on):
                model(images, head_chunk=None if on else BEFORE)

        def step(
            on: bool, model: Any = model, images: Tensor = images, signals: Any = signals, losses: Any = losses
        ) -> None:
            model.train()
            with low(device, on):
                answer = model(images)
                loss = distill3r_loss(answer, signals)["total"].mean()
            loss.backward()
            model.zero_grad()
            losses["bf16" if on else "fp32"] = loss.item()

        for what, act in (("forward pass", infer), ("training step", step)):
            took = in_turns({"fp32": lambda a=act: a(False), "bf16": lambda a=act: a(True)}, device, rounds)
            gap = abs(losses["bf16"] / losses["fp32"] - 1) if losses else None
            row = [
                f"{name}, {views} views at {size[0]}×{size[1]}, {what}",
                f"{took['fp32']:.2f}",
                f"{took['bf16']:.2f}",
            ]
            rows.append([*row, f"{took['bf16'] / took['fp32']:.2f}", "–" if gap is None else f"{gap:.1e}"])
            print(*rows[-1], flush=True)
    return rows


def memory(device: torch.device, views: int) -> list[list[str]]:
    """Peaks of the published student by the views that a head takes together."""
    kinds = [(BEFORE, False), (2, False), (2, True)] if native_bf16(device) else [(BEFORE, False), (2, False)]
    rows: list[list[str]] = []
    first = None
    for chunk, on in kinds:
        found = alone(views, TRAINED_SIZE, chunk, on, str(device))["gb"]
        first = first or found
        rows.append([f"{chunk} at a time, {'bf16' if on else 'fp32'}", f"{found:.2f}", f"{found / first:.2f}"])
        print(*rows[-1], flush=True)
    return rows


def page(parts: dict[str, Any], device: torch.device, command: str) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    skipped = "Skipped: this machine does not compute bfloat16 natively."
    return (
        "\n\n".join(
            [
                "# What the many-view student costs",
                f"Written by `{command}`. Machine: {name}, {torch.get_num_threads()} threads, torch "
                f"{torch.__version__.partition('+')[0]}; bfloat16 {'' if native_bf16(device) else 'not '}native; load "
                f"{os.getloadavg()[2]:.0f} on {os.cpu_count()} cores meanwhile. Parts are measured one by one and kept "
                "(`-o`), so their rounds may differ.",
                "## Time and memory by number of views",
                (__doc__ or "").split("\n\n")[2].replace("\n", " "),
                markdown_table(
                    ["views", "seconds", "GB added", "floor, operations", "floor, bytes", "seconds / floor", "paper's"],
                    parts["table"],
                ),
                "The paper's column is an RTX 6000 Ada in bf16, weights included (Table I).",
                "## bfloat16 against float32",
                markdown_table(["", "fp32 s", "bf16 s", "ratio", "losses differ by"], parts["faster"])
                if parts["faster"]
                else skipped,
                "## Memory by the views that a head takes together",
                f"The published student, {parts['views']} views at {TRAINED_SIZE[0]}×{TRAINED_SIZE[1]}; a CPU took "
                f"{BEFORE} at a time before and takes two now.",
                markdown_table(["", "GB above weights and interpreter", "ratio"], parts["memory"]),
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--views", type=int, nargs="+", help="default: 12 to 512 on a GPU, 2 4 8 on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-views", type=int, default=12)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/efficiency"), help="finished parts are kept here")
    names = ("memory", "faster", "table")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names), help="only these now")
    parser.add_argument("--write", type=Path, metavar="MD")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*json.loads(args.one))))
        return
    device = torch.device(args.device)
    views = args.views or ([12, 32, 64, 96, 128, 256, 512] if device.type == "cuda" else [2, 4, 8])
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "parts.json"
    parts: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    tasks = {
        "memory": lambda: memory(device, args.memory_views),
        "faster": lambda: faster(device, args.rounds) if native_bf16(device) else [],
        "table": lambda: table_one(views, device, args.rounds),
    }
    for name in args.parts:
        if name not in parts:
            found = tasks[name]()
            parts = (json.loads(kept.read_text()) if kept.is_file() else {}) | {name: found}
            kept.write_text(json.dumps(parts, indent=1))
    if not set(tasks) <= set(parts):
        print(f"kept in {kept}; missing for the page: {', '.join(sorted(set(tasks) - set(parts)))}")
        return
    parts["views"] = args.memory_views
    text = page(
        parts,
        device,
        f"python benchmarks/efficiency.py --device {device} --views {' '.join(map(str, views))} --rounds {args.rounds}",
    )
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
