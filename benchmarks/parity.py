"""Numbers of the original implementations against ours, network by network.

    python benchmarks/parity.py GOLDENS/models --write docs/parity.md [--max-params 100e6]

Runs every golden case as tests/goldens.py does (seeded weights in the official container, converted, loaded, asked)
and writes one table: parameters, cases, the largest deviation and how much of its tolerance that is.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import defaultdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from goldens import Result, run_models_folder
from manyview.evaluation.tables import markdown_table


def table(results: list[Result], root: Path) -> list[list[str]]:
    """A row per file of cases; lists of keys are counted in the row of their folder."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        folder, stem, *_ = result.name.split("/")
        groups[f"{folder}/{stem}"].append(result)
    rows = []
    for name, cases in sorted(groups.items()):
        if name.split("/")[1].startswith("keys"):
            continue
        arch, parameters = described(root / f"{name}.json")
        ran = [case for case in cases if case.status != "SKIP"]
        measured = [case for case in ran if case.worst is not None and case.tolerance]
        worst = max(measured, key=lambda case: case.worst / case.tolerance, default=None)
        rows.append(
            [
                f"`{arch}`" if arch else name,
                name,
                parameters,
                f"{sum(case.status == 'PASS' for case in ran)} of {len(ran)}" if ran else f"not run: {cases[0].reason}",
                "" if worst is None else f"{worst.worst:.2g}",
                "" if worst is None else f"{worst.tolerance:.0e}",
                "" if worst is None else f"{worst.worst / worst.tolerance:.3f}",
            ]
        )
    return rows


def described(path: Path) -> tuple[str, str]:
    """Zoo name and parameters of the network in a file of cases; empty for losses and the like."""
    run = json.loads(path.read_text(encoding="utf-8")).get("run", {})
    keys = path.parent / str(run.get("keys"))
    if not keys.is_file():
        return run.get("arch") or "", ""
    return run["arch"] or "", f"{json.loads(keys.read_text(encoding='utf-8'))['num_parameters']:,}"


def page(results: list[Result], root: Path) -> str:
    """The markdown of docs/parity.md."""
    keys = [r for r in results if r.name.split("/")[1].startswith("keys") and r.status != "SKIP"]
    passed = sum(r.status == "PASS" for r in keys)
    counts = [sum(r.status == status for r in results) for status in ("PASS", "FAIL", "SKIP")]
    heads = ["model", "cases", "parameters", "passed", "largest deviation", "tolerance", "share of it"]
    return (
        "\n\n".join(
            [
                "# The originals' numbers against ours",
                "Written by `python benchmarks/parity.py GOLDENS/models --write docs/parity.md`; nothing "
                "here was typed by "
                "hand. Every network has weights made by a rule from its official key names, is written in "
                "its official "
                "container, converted, loaded and asked, in float32 on the CPU. Deviations of tokens and "
                "raw outputs are the "
                "largest difference over the standard deviation of the original's array; those of points, depths and "
                "confidences are norm-wise; those of losses are relative.",
                markdown_table(heads, table(results, root)),
                f"Lists of official keys that come back name by name and shape by shape: {passed} of "
                f"{len(keys)}. In all: "
                f"{counts[0]} passed, {counts[1]} failed, {counts[2]} not run (parts of files, or a recipe "
                "that does not exist "
                f"yet). torch {torch.__version__}, {platform.machine()}.",
            ]
        )
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    parser.add_argument("--max-params", type=float)
    args = parser.parse_args()
    results = []
    for result in run_models_folder(args.folder, None if args.max_params is None else int(args.max_params)):
        print(result.line(), flush=True)
        results.append(result)
    text = page(results, args.folder)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
        print(f"wrote {args.write}")
    else:
        print(text)
    return int(any(result.status == "FAIL" for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
