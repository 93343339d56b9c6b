"""A recipe that trains in milliseconds: say the mean colour of a scene, through a network with dropout.

The trivial answer is the average target whatever the images; its mean squared error is the targets' variance.
As a script it trains in a process of its own, to be killed, stopped or run beside another:
`python toy.py OUT [--resume] [--slow SECONDS] [--steps N] [--limit BYTES] [--ranks FILE RANK]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from manyview.config import RunConfig
from manyview.engine import track
from manyview.engine.loop import fit
from manyview.recipes.base import Preset, Recipe
from manyview.types import StepResult, Views

RUN = RunConfig(steps=60, batch=4, lr=1e-2, warmup=5, checkpoint_every=7, log_every=5, accumulate=2, precision="fp32")


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """The size of the network and what is drawn at random in a step."""

    width: int = 16
    """Channels of the hidden layer."""
    noise: float = 0.05
    """Noise on the inputs, from the step's generator."""
    dropout: float = 0.1
    """Dropout, from the global random state."""
    blocks: int = 0
    """Residual blocks between the two layers. The last one is used in the first half of the run only."""
    checkpointing: bool = False
    """Recompute the blocks in the backward pass."""
    twice: bool = False
    """Run every block two times in a row."""


class Block(nn.Module):
    """Halves that are not equal, a weight that is not trained and one that is not used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 2 * width + 1), nn.Linear(2 * width + 1, width)
        self.gain = nn.Parameter(torch.full((width,), 0.5), requires_grad=False)
        self.spare = nn.Parameter(torch.ones(2, 2))

    def forward(self, tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return tokens + scale * self.gain * self.narrow(self.wide(tokens).relu())


class Toy(Recipe):
    """Two linear layers on the mean colours of two views."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(1)
        self.student = nn.Sequential(
            nn.Linear(6, config.width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.width, 1)
        )
        self.unused = nn.Parameter(torch.ones(3))  # a parameter without a gradient, as real models have
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        trained = [p for p in self.blocks.parameters() if p.requires_grad]
        for parameter in [*self.student.parameters(), *trained]:
            nn.init.normal_(parameter, std=0.3, generator=generator)

    @classmethod
    def build(cls, config: ToyConfig) -> Toy:
        return cls(config)

    @staticmethod
    def presets() -> dict[str, Preset]:
        return {"small": Preset(method=ToyConfig(), run=RUN), "debug": Preset(method=ToyConfig(), run=RUN)}

    @staticmethod
    def batches(config, run, *, cache, data):
        return lambda index: views(index, scenes=run.batch)

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        colours = views.images.mean((-1, -2)).flatten(1)  # (B, 2*3)
        noise = torch.randn(colours.shape, generator=generator).to(colours.device)
        error = (self.say(colours + self.config.noise * noise, progress) - target(views)).square().mean()
        return StepResult(error, {"error": error.detach(), "progress": progress})

    def say(self, colours: torch.Tensor, progress: float = 0.0) -> torch.Tensor:
        """(B, 6) -> (B, 1)"""
        used = list(self.blocks)[: -1 if progress >= 0.5 else None]
        tokens = self.student[:3](colours)
        for block in used * (1 + self.config.twice):
            tokens = (
                checkpoint(block, tokens, 0.5, use_reentrant=False) if self.config.checkpointing else block(tokens, 0.5)
            )
        return self.student[3](tokens)


def target(views: Views) -> torch.Tensor:
    """The mean of all colours, times 3: (B, 1)."""
    return 3 * views.images.mean((1, 2, 3, 4))[:, None]


def views(index: int, *, scenes: int = 4) -> Views:
    """Flat random colours: a pure function of the index."""
    generator = torch.Generator().manual_seed(1000 + index)
    colours = torch.rand(scenes, 2, 3, 1, 1, generator=generator)
    return Views(colours.expand(-1, -1, -1, 4, 4).clone())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--run", default="{}", help="JSON: fields of RunConfig")
    parser.add_argument("--method", default="{}", help="JSON: fields of ToyConfig")
    parser.add_argument("--limit", type=int, help="bytes after which writing a file fails, as on a full disk")
    parser.add_argument("--ranks", nargs=3, metavar=("FILE", "RANK", "WORLD"))
    args = parser.parse_args()
    track._board = lambda run_dir, step: None  # TensorBoard takes seconds to import; its own test has it
    run = replace(RUN, **json.loads(args.run))
    if args.limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.limit, args.limit))
    if args.ranks:
        rendezvous, rank, world = args.ranks
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world)
        )

    def batches(index: int) -> Views:
        time.sleep(args.slow)
        return views(index, scenes=run.batch)

    method = ToyConfig(**json.loads(args.method))
    describe = {"recipe": "toy", "method": asdict(method)}
    tell = lambda line: print(f"line {line['step']}", flush=True)
    recipe = Toy.build(method)
    result = fit(recipe, batches, run, args.out, device="cpu", resume=args.resume, describe=describe, on_log=tell)
    print(f"done {result.steps} stopped {result.stopped}", flush=True)
    if args.ranks:  # a rank that leaves while another still talks to it can abort both
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
