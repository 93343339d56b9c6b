"""Run golden cases: numbers of the official implementations against ours, through the public road.

    python tests/goldens.py DIR [--max-params N]

DIR is laid out like the published model cases (a README with the tolerances, `weights.py`, one folder per
model) or like the metric cases (`manifest.json`), or holds such folders. One line per case, a total, exit 1
when any failed or none was found. Tolerances are read from DIR and never written here.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

NORMALISATIONS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass
class Result:
    """One line of the report; worst and tolerance only where something was compared."""

    status: str
    name: str
    worst: float | None = None
    tolerance: float | None = None
    reason: str = ""

    def line(self) -> str:
        ratio = f"{self.worst:.3g}/{self.tolerance:.3g}" if self.worst is not None and self.tolerance else "-"
        return f"{self.status} {self.name}  {ratio}  {self.reason}".rstrip()


@dataclass(frozen=True)
class Tolerances:
    """What the README beside the cases allows."""

    linear: float  # max|a - b| / std
    exponential: float  # ||a - b|| / ||b||
    loss: float  # |a - b| / |b|
    gradient: float  # ||a - b|| / ||b||
    exponential_kinds: tuple[str, ...] = field(default=("points", "depth", "confidences"))


def read_tolerances(root: Path) -> Tolerances:
    """Tolerances from the README's own sentences. Raises ValueError when one of them cannot be found."""
    try:
        text = (root / "README.md").read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read the tolerances: {error}") from error
    section = text[text.find("## Tolerances") :] if "## Tolerances" in text else ""
    number = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
    patterns = {
        "linear": rf"max\|a-b\|\s*<=\s*{number}\s*\*\s*std",
        "exponential": rf"\|\|a-b\|\|\s*<=\s*{number}\s*\*\s*\|\|b\|\|",
        "loss": rf"[Ll]osses[^.]*?relative\s+{number}",
        "gradient": rf"gradients[^.]*?norm-wise\s+{number}",
    }
    found = {name: re.search(pattern, section) for name, pattern in patterns.items()}
    absent = [name for name, match in found.items() if match is None]
    if absent:
        raise ValueError(f"{root / 'README.md'} does not say the tolerance of {', '.join(absent)}")
    return Tolerances(**{name: float(match[1]) for name, match in found.items() if match})


def compare(ours: np.ndarray, stored: np.ndarray, info: dict, kind: str, allowed: Tolerances) -> tuple[float, float]:
    """(deviation, tolerance) of one array, maybe stored sub-sampled; `kind` is a field of Tolerances."""
    ours = np.asarray(ours, dtype=np.float64)
    if tuple(ours.shape) != tuple(info["shape"]):
        raise ValueError(f"shape {ours.shape} instead of {tuple(info['shape'])}")
    if not ours.size:  # register tokens of a network that has none
        return 0.0, getattr(allowed, kind)
    flat, stored = ours.reshape(-1), np.asarray(stored, dtype=np.float64).reshape(-1)
    if info["sampled"]:
        flat = flat[(np.arange(len(stored), dtype=np.int64) * len(flat)) // len(stored)]
    difference = flat - stored
    if kind == "linear":
        worst = np.abs(difference).max() / max(float(info["std"]), 1e-30)
    else:
        worst = np.linalg.norm(difference) / max(np.linalg.norm(stored), 1e-30)
    return (float(worst) if np.isfinite(worst) else math.inf), getattr(allowed, kind)


def load_rules(root: Path) -> ModuleType:
    """`weights.py` of the folder: the rules that make weights and inputs."""
    spec = importlib.util.spec_from_file_location("golden_rules", root / "weights.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"cannot read {root / 'weights.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeded_state(keys: dict, rules: ModuleType) -> dict[str, torch.Tensor]:
    """The official state dict by rule: an alias is the tensor of its first key."""
    aliases = keys.get("aliases", {})
    state: dict[str, torch.Tensor] = {}
    for key, shape, _ in keys["keys"]:
        if key in keys.get("computed", []):
            continue
        state[key] = torch.from_numpy(rules.make_weight(aliases.get(key, key), shape))
    return state


def images_of(array: np.ndarray, normalisation: str) -> torch.Tensor:
    """Undo the normalisation of (N, 3, H, W): what a model that normalises itself takes."""
    images = torch.from_numpy(array)
    if normalisation not in NORMALISATIONS:
        return images
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS[normalisation])
    return images * std + mean


def model_cases(path: Path, root: Path, max_params: int | None) -> Iterator[Result]:
    """Every case of one golden*.json of a network."""
    import manyview as mv
    from golden_containers import write_container
    from golden_runs import RUNNERS

    description = json.loads(path.read_text(encoding="utf-8"))
    run, name = description["run"], path.relative_to(root).with_suffix("").as_posix()
    if run["arch"] is None or not run["final"]:
        yield Result("SKIP", name, reason="informative: it asks for no output")
        return
    if run["arch"] not in mv.zoo.names():
        yield Result("SKIP", name, reason=f"{run['arch']} is not in zoo.names()")
        return
    allowed, rules = read_tolerances(root), load_rules(root)
    stored = np.load(path.with_suffix(".npz"), allow_pickle=False)
    context = SimpleNamespace(rules=rules, description=description, run=run, stored=stored, images_of=images_of)
    if run["keys"] is None:
        yield from _checked(name, RUNNERS["teacher_input"](context), description, stored, allowed)
        return
    # Usually one list; where cases differ, a sentence that names several, the first of them the usual one.
    lists = {
        found: json.loads((path.parent / found).read_text(encoding="utf-8"))
        for found in re.findall(r"[\w.-]+\.json", run["keys"])
    }
    parameters = max(keys["num_parameters"] for keys in lists.values())
    if max_params is not None and parameters > max_params:
        yield Result("SKIP", name, reason=f"{parameters} parameters are more than --max-params")
        return
    family = run["arch"].split("-")[0]
    if family not in RUNNERS:
        yield Result("FAIL", name, reason=f"the runner cannot drive {run['arch']} yet")
        return
    with tempfile.TemporaryDirectory() as folder:
        files: dict[tuple[str, ...], Path] = {}

        def load(*wanted: str, arch: str = run["arch"], **overrides: Any) -> Any:
            """The network with the weights of the named key lists together (none named: the usual one)."""
            wanted = wanted or (next(iter(lists)),)
            if wanted not in files:
                state: dict[str, torch.Tensor] = {}
                for found in wanted:
                    state |= seeded_state(lists[found], rules)
                (place := Path(folder) / str(len(files))).mkdir()
                words = {**description["config"], **lists[wanted[0]]}
                files[wanted] = write_container(state, run["container"], place, words)
            out = Path(folder) / "converted"
            mv.zoo.convert(files[wanted], arch=arch, out=out, **{**run["overrides"], **overrides})
            return mv.load(out)

        context.load = load
        yield from _checked(name, RUNNERS[family](context), description, stored, allowed)


def _checked(
    name: str, outputs: Iterator[tuple[str, dict[str, np.ndarray]]], description: dict, stored: Any, allowed: Tolerances
) -> Iterator[Result]:
    """One Result per case tag: every final output that is stored must come back and be close."""
    final: dict[str, list[str]] = {}
    for key in stored.files:
        tag, _, short = key.partition("/")
        patterns = description["run"]["final"]
        if short and any(fnmatch.fnmatch(path, pattern) for path in (short, key) for pattern in patterns):
            final.setdefault(tag, []).append(key)
    for tag, ours in outputs:
        names = final.pop(tag, [])
        if names:
            yield _verdict(f"{name}/{tag}", names, ours, f"{tag}/", description["arrays"], stored, allowed)
        else:
            yield Result("FAIL", f"{name}/{tag}", reason="no stored array matches the final outputs")
    for tag in final:
        yield Result("FAIL", f"{name}/{tag}", reason="the runner does not drive this case")


def _verdict(
    name: str,
    final: list[str],
    ours: dict,
    prefix: str,
    arrays: dict,
    stored: Any,
    allowed: Tolerances,
    kind: Callable[[str], str] | None = None,
) -> Result:
    """The deviation nearest to (or furthest over) its tolerance decides."""
    worst, limit, where = 0.0, 1.0, ""
    for key in final:
        short = key[len(prefix) :]
        if short not in ours:
            return Result("FAIL", name, reason=f"no output {short}")
        try:
            deviation, tolerance = compare(ours[short], stored[key], arrays[key], (kind or kind_of)(short), allowed)
        except ValueError as error:
            return Result("FAIL", name, reason=f"{short}: {error}")
        if deviation / tolerance >= worst / limit:
            worst, limit, where = deviation, tolerance, short
    status = "PASS" if worst <= limit else "FAIL"
    return Result(status, name, worst, limit, f"{len(final)} outputs, worst {where}")


def kind_of(output: str) -> str:
    """Points, depths and confidences come after an exponential, losses are numbers; everything else is linear."""
    last = output.rsplit("/", 1)[-1]
    if last == "loss":
        return "loss"
    return "exponential" if re.match(r"(pts3d|conf|depth|world_points|desc_conf)", last) else "linear"


def loss_cases(path: Path, root: Path) -> Iterator[Result]:
    """The cases of one losses/*.json."""
    from golden_runs import LOSSES

    name = path.relative_to(root).with_suffix("").as_posix()
    if path.stem not in LOSSES:
        yield Result("SKIP", name, reason="the loss of a recipe that does not exist yet")
        return
    description = json.loads(path.read_text(encoding="utf-8"))
    stored, allowed = np.load(path.with_suffix(".npz"), allow_pickle=False), read_tolerances(root)
    for tag, ours in LOSSES[path.stem](stored, description["config"]):
        prefix = f"{tag}/"
        wanted = [k for k in stored.files if k.startswith(prefix)]
        mine = {key.removeprefix(prefix): value for key, value in ours.items()}
        yield _verdict(f"{name}/{tag}", wanted, mine, prefix, description["arrays"], stored, allowed, kind_of_loss)


def kind_of_loss(output: str) -> str:
    """Terms and their gradients have tolerances of their own."""
    return "gradient" if output.startswith("grad/") else "loss"


def other_cases(path: Path, root: Path) -> Iterator[Result]:
    """Small cases beside a network's: alignment, run lengths."""
    from golden_runs import OTHERS

    name = path.relative_to(root).with_suffix("").as_posix()
    if name not in OTHERS:
        yield Result("SKIP", name, reason="nothing in the package does this yet")
        return
    description = json.loads(path.read_text(encoding="utf-8"))
    stored, allowed = np.load(path.with_suffix(".npz"), allow_pickle=False), read_tolerances(root)
    ours = OTHERS[name](stored, description["config"])
    arrays = description["arrays"]
    # A number has no spread to measure a deviation by.
    kinds = {key: "linear" if arrays[key]["std"] > 0 else "exponential" for key in ours}
    yield _verdict(name, list(ours), ours, "", arrays, stored, allowed, kinds.__getitem__)


def key_cases(path: Path, root: Path) -> Iterator[Result]:
    """A list of official keys: to our names and sizes and back, names and shapes."""
    from golden_keys import architecture_of, differences

    name = path.relative_to(root).with_suffix("").as_posix()
    arch = architecture_of(name)
    if arch is None:
        yield Result("SKIP", name, reason="a part of a file, or informative")
        return
    count, found = differences(path, arch)
    reason = f"{count} keys as {arch}" + (f": {len(found)} differ, first {found[0]}" if found else "")
    yield Result("FAIL" if found else "PASS", name, reason=reason)


def run_models_folder(root: Path, max_params: int | None = None) -> Iterator[Result]:
    """Every case of a folder laid out like the published model cases; one failure when its README is no help."""
    try:
        read_tolerances(root)
    except ValueError as error:
        yield Result("FAIL", "README.md", reason=str(error))
        return
    for path in sorted(root.glob("*/*.json")):
        if path.stem.startswith("keys"):
            cases = key_cases(path, root)
        elif path.parent.name == "losses":
            cases = loss_cases(path, root)
        elif "run" in json.loads(path.read_text(encoding="utf-8")):
            cases = model_cases(path, root, max_params)
        else:
            cases = other_cases(path, root)
        try:
            yield from cases
        except Exception as error:  # one broken case must not hide the others
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            yield Result("FAIL", path.relative_to(root).with_suffix("").as_posix(), reason=reason)


def run_folder(root: Path, max_params: int | None = None) -> Iterator[Result]:
    """Every case under a folder, whichever of the two layouts it or the folders in it have."""
    folders = [root, *sorted(p for p in root.rglob("*") if p.is_dir())]
    for folder in folders:
        if (folder / "weights.py").is_file():
            yield from run_models_folder(folder, max_params)
        elif (folder / "manifest.json").is_file() and any(folder.glob("*/*.npz")):
            from goldens_metrics import run_metrics_folder

            for status, name, worst, tolerance, reason in run_metrics_folder(folder):
                yield Result(status, name, worst, tolerance, reason)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run every golden case under a folder.")
    parser.add_argument("dir", type=Path, help="folder with golden cases")
    parser.add_argument("--max-params", type=lambda text: int(float(text)), help="skip networks with more parameters")
    options = parser.parse_args(arguments)
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    worst = 0.0
    for result in run_folder(options.dir, options.max_params):
        print(result.line(), flush=True)
        counts[result.status] += 1
        if result.worst is not None and result.tolerance:
            worst = max(worst, result.worst / result.tolerance)
    total = ", ".join(f"{count} {status.lower()}" for status, count in counts.items())
    print(f"total: {total}; worst {worst:.3g} of its tolerance")
    return 1 if counts["FAIL"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
