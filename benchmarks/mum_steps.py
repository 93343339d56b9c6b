"""MuM's training steps beside the plainest correct implementation of them, from the same weights in the same run.

    manyview bench mum_steps [--json FILE]      or: python benchmarks/mum_steps.py --write docs/mum-speed.md
    python benchmarks/mum_steps.py --model mum-vits16-full --side 224 --frames 24 --device cuda

The plain one embeds every patch and drops the hidden ones by gather, writes attention out as softmax(q k) v, and
turns queries and keys by the formula. Loss and gradients are compared first. Then both take turns, step by step, and
the medians are told with the split into data, forward, backward and optimiser; "cpu" times are of the process (all its
threads), which other programs on the machine disturb less than the wall clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from manyview import zoo
from manyview.batches.sequences import Sequences, SequenceWish
from manyview.data.manifest import Frame, Manifest
from manyview.losses.masked import hidden_pixels, masked_mse
from manyview.models.mum.network import Mum, random_mask


def plain_loss(model: Mum, images: Tensor, mask: Tensor) -> Tensor:
    """The loss of (B, V, 3, H, W) images with hidden patches (B, V, L), step by step from the model's weights."""
    scenes, views, _, height, width = images.shape
    encoder, patch = model.encoder, model.config.patch_size
    grid = (height // patch, width // patch)
    pixels = (images.flatten(0, 1) - encoder.mean[:, None, None]) / encoder.std[:, None, None]
    tokens = encoder.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    hidden = mask.flatten(0, 1).to(images.device)
    seen = hidden.int().argsort(dim=1, stable=True)[:, : int((~hidden[0]).sum())]
    tokens = tokens.gather(1, seen[..., None].expand(-1, -1, tokens.shape[2]))
    angles = plain_angles(grid, encoder.config.dim // encoder.config.heads, images.device)[seen][:, None]
    tokens = torch.cat([encoder.cls_token.expand(len(tokens), -1, -1), tokens], 1)
    for block in encoder.blocks:
        tokens = plain_block(block, tokens, angles)
    tokens = model.embed(encoder.norm(tokens))
    places = torch.cat([seen, hidden.int().argsort(dim=1, stable=True)[:, seen.shape[1] :]], 1).argsort(1)
    fill = model.mask_token.expand(len(tokens), hidden.shape[1] - seen.shape[1], -1)
    patches = torch.cat([tokens[:, 1:], fill], 1)
    patches = patches.gather(1, places[..., None].expand(-1, -1, patches.shape[2]))
    tokens = torch.cat([tokens[:, :1], patches], 1)
    length = tokens.shape[1]
    angles = plain_angles(grid, model.config.decoder_dim // model.config.decoder_heads, images.device)
    for frame, everywhere in zip(model.decoder.frame, model.decoder.everywhere, strict=True):
        tokens = plain_block(frame, tokens, angles)
        joined = plain_block(everywhere, tokens.reshape(scenes, views * length, -1), angles, views=views)
        tokens = joined.reshape(scenes * views, length, -1)
    said = model.head(model.norm(tokens))[:, 1:]
    target = pixels.reshape(-1, 3, grid[0], patch, grid[1], patch).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    error = (said - target).square().mean(-1)
    return (error * hidden).sum() / hidden.sum()


def plain_angles(grid: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """(L, width) rotary angles."""
    axes = [(torch.arange(n, device=device) + 0.5) / n * 2 - 1 for n in grid]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    periods = 100.0 ** (torch.arange(width // 4, device=device) / (width // 4))
    return (2 * torch.pi * where[..., None] / periods).flatten(1).tile(2)


def plain_block(block: Any, tokens: Tensor, angles: Tensor, *, views: int | None = None) -> Tensor:
    """Pre-norm attention and MLP. `views`: tokens of so many views in a row, whose class tokens see all alike."""
    q, k, v = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = (plain_turn(part, angles, views) for part in (q, k))
    weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)
    tokens = tokens + block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    hidden = F.gelu(F.linear(block.norm2(tokens), block.mlp.fc1.weight, block.mlp.fc1.bias))
    return tokens + block.mlp.fc2(hidden)


def plain_turn(part: Tensor, angles: Tensor, views: int | None) -> Tensor:
    """Rotate the patches of (N, heads, T, d); class tokens stay, or become zero among several views."""
    if views is not None:
        there = part.unflatten(2, (views, -1))
        cls, patches = torch.zeros_like(there[..., :1, :]), there[..., 1:, :]
    else:
        cls, patches = part[..., :1, :], part[..., 1:, :]
    first, second = patches.chunk(2, -1)
    turned = patches * angles.cos() + torch.cat([-second, first], -1) * angles.sin()
    joined = torch.cat([cls, turned], -2)
    return joined.flatten(2, 3) if views is not None else joined


def our_loss(model: Mum, images: Tensor, mask: Tensor) -> Tensor:
    """The same through the package, as the recipe's step does it."""
    seen = model(images, mask)
    signal = hidden_pixels(model.normalised(images), seen.mask, model.config.patch_size)
    sums, counts = masked_mse(seen.reconstruction, signal)
    return sums.sum() / counts.sum()


def scenes(folder: Path, *, count: int = 24, views: int = 8, side: int) -> Manifest:
    """Scenes of JPEG files a third larger than the training images, to load while training."""
    rng, frames = np.random.default_rng(0), []
    height, width = side * 4 // 3, side * 5 // 3
    for scene in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        picture = np.array(coarse.resize((width + 8 * views, height), Image.Resampling.BICUBIC))
        for view in range(views):
            name = f"{scene}-{view}.jpg"
            Image.fromarray(picture[:, 8 * view : 8 * view + width]).save(folder / name, quality=92)
            frames.append(Frame("bench", str(scene), str(view), "train", name, width, height))
    return Manifest(frames, folder)


class Clock:
    """Wall and process seconds of named parts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def time(self, name: str, act: Callable[[], Any]) -> Any:
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        result = act()
        self._wait()
        self.parts[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def medians(self) -> dict[str, dict[str, float]]:
        """Milliseconds."""
        return {
            name: {
                kind: round(1e3 * statistics.median(t[i] for t in times), 2) for i, kind in enumerate(("wall", "cpu"))
            }
            for name, times in self.parts.items()
        }


def measure(
    *,
    name: str = "mum-tiny12-full",
    side: int = 96,
    frames: int = 48,
    views: int = 8,
    steps: int = 10,
    device: str = "cpu",
) -> dict[str, Any]:
    """Medians of both, ratios, and how far apart their losses and gradients are."""
    where = torch.device(device)
    torch.manual_seed(0)
    model = zoo.build(name).to(where)
    assert isinstance(model, Mum)
    losses = {"plain": plain_loss, "ours": our_loss}
    low = where.type == "cuda"
    clocks = {kind: Clock(where) for kind in losses}
    with tempfile.TemporaryDirectory() as folder:
        wish = SequenceWish(size=(side, side), frames=frames, views=(views, views), single=0.0)
        data = Sequences([scenes(Path(folder), views=views, side=side)], wish)
        report: dict[str, Any] = {
            "model": name,
            "frames": frames,
            "views": views,
            "side": side,
            "patch": model.config.patch_size,
            "device": device,
        }
        report["torch"], report["threads"] = torch.__version__, torch.get_num_threads()
        report["difference"] = difference(model, *batch(data, 0, model, where), losses)
        for index in range(12):  # first, so that files have been read once
            data(1000 + index)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for step in range(steps + 2):
            for kind, loss in losses.items():
                clock = clocks[kind] if step >= 2 else Clock(where)
                images, mask = clock.time("data", lambda s=step: batch(data, s, model, where))
                with torch.autocast(where.type, torch.bfloat16, enabled=low):
                    value = clock.time("forward", lambda loss=loss, i=images, m=mask: loss(model, i, m))
                clock.time("backward", value.backward)
                clock.time("optimiser", optimizer.step)
                optimizer.zero_grad()
    return {**report, **summary(clocks, frames, low)}


def batch(data: Sequences, index: int, model: Mum, device: torch.device) -> tuple[Tensor, Tensor]:
    images = data.finish(data.load(index), device).images
    patches = (images.shape[-1] // model.config.patch_size) ** 2
    mask = random_mask((*images.shape[:2], patches), 0.75, torch.Generator().manual_seed(index))
    return images, mask


def difference(
    model: nn.Module, images: Tensor, mask: Tensor, losses: dict[str, Callable[..., Tensor]]
) -> dict[str, float]:
    """Relative differences of loss and gradient in float32; raises when they are not the same computation."""
    found = {}
    for kind, loss in losses.items():
        model.zero_grad()
        value = loss(model, images, mask)
        value.backward()
        found[kind] = (value.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    (a, grad_a), (b, grad_b) = found["plain"], found["ours"]
    gaps = {"loss": float((a - b).abs() / a), "gradient": float((grad_a - grad_b).norm() / grad_a.norm())}
    if gaps["loss"] > 1e-5 or gaps["gradient"] > 1e-3:
        raise RuntimeError(f"the two are not the same computation: {gaps}")
    return gaps


def summary(clocks: dict[str, Clock], frames: int, low: bool) -> dict[str, Any]:
    medians = {kind: clock.medians() for kind, clock in clocks.items()}
    computed = ("forward", "backward", "optimiser")
    result: dict[str, Any] = {"precision": "bf16" if low else "fp32", "milliseconds": medians}
    for time_kind in ("wall", "cpu"):
        total = {kind: sum(parts[part][time_kind] for part in computed) for kind, parts in medians.items()}
        result[f"ratio_{time_kind}"] = round(total["plain"] / total["ours"], 3)
        result[f"frames_per_second_{time_kind}"] = {
            kind: round(1e3 * frames / (total[kind] + parts["data"][time_kind]), 1) for kind, parts in medians.items()
        }
    ours = medians["ours"]
    result["data_share_of_cpu"] = round(ours["data"]["cpu"] / sum(part["cpu"] for part in ours.values()), 4)
    return result


SHAPES: tuple[dict[str, Any], ...] = (
    {"side": 96, "frames": 48, "views": 2},
    {"side": 96, "frames": 48, "views": 8},
    {"side": 96, "frames": 48, "views": 24},
    {"side": 192, "frames": 24, "views": 8, "steps": 6},
    {"side": 192, "frames": 24, "views": 24, "steps": 4},
)
"""What `run` measures: the longer the sequences, the more of the time is attention, which is where the two differ."""


def page(results: Sequence[dict[str, Any]]) -> str:
    """The table as docs/mum-speed.md has it."""
    first = results[0]
    lines = [
        "# MuM: training steps beside the plain implementation",
        "",
        "Written by `python benchmarks/mum_steps.py --write docs/mum-speed.md`; nothing here was typed by hand. "
        f"{first['model']}, {first['precision']}, {first['device']} with {first['threads']} thread(s), "
        f"torch {first['torch'].partition('+')[0]}. A ratio is the plain implementation's time by ours: "
        "forward, backward and optimiser of one step, medians, taking turns in one run.",
        "",
        "| side | views | tokens together | ratio, processor time | ratio, wall | frames/s | loading of ours |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for found in results:
        tokens = found["views"] * ((found["side"] // found["patch"]) ** 2 + 1)
        cells = [
            found["side"],
            found["views"],
            tokens,
            f"{found['ratio_cpu']:.2f}",
            f"{found['ratio_wall']:.2f}",
            f"{found['frames_per_second_cpu']['ours']:.0f}",
            f"{found['data_share_of_cpu']:.1%}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    worst = max(found["difference"]["gradient"] for found in results)
    lines += ["", f"Both give the same loss and, to {worst:.0e}, the same gradients."]
    return "\n".join(lines) + "\n"


def run(json_file: Path | None = None, write: Path | None = None, device: str = "cpu") -> list[dict[str, Any]]:
    """What `manyview bench mum_steps` runs: every shape."""
    results = [measure(device=device, **shape) for shape in SHAPES]
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if write is not None:
        write.write_text(page(results), encoding="utf-8")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="one shape of this model, told as JSON; without it, a table of several")
    parser.add_argument("--side", type=int, default=96, help="like the next three, only with --model")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.model is None:
        print(page(run(options.json, options.write, options.device)))
    else:
        shape = {key: getattr(options, key) for key in ("side", "frames", "views", "steps", "device")}
        print(json.dumps(measure(name=options.model, **shape), indent=1))
