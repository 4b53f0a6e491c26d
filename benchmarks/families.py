"""LoRA on the smallest model of every family of timm and torchvision, ours beside PEFT's: the table of ``docs/families.md``.

    python benchmarks/families.py --out docs/families.md

Each model is built with random weights in float64. What random initialisation leaves at zero (heads, norm and layer scales) is
filled and batch-norm is calibrated on the input first, so that no model passes with a branch that does nothing. Then, with every
linear and conv layer but the head as a target, rank 4:

- ``identity``: the output is that of the plain model;
- ``gradients``: after random ``A`` and ``B``, every adapter has a finite gradient; as many are not zero as of the plain model's own
  weights (but 5 %: a saturated softmax stops queries, LoRA or not); the output moved;
- ``merge``: the merged model gives the unmerged one's output to 1e-9 of the largest logit;
- ``unmerge``: it restores every weight bit for bit (PEFT subtracts, so 1e-9 is asked of it here and below);
- ``reload``: saved and loaded into another model with the same base, the adapter gives the same output;
- ``remove``: classes, keys and weights are those of the plain model.

Families that are in the results file already are not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from benchmarks.family_checks import check, ours, theirs
from visionlora.files import replace_file

NO_CLASSIFIER = ("gemma4_vit",)  # of timm's modules


def torchvision_families() -> dict[str, str]:
    """Family of torchvision (its names up to the size: ``efficientnet_v2``, ``regnet_x``) -> its smallest classifier."""
    sizes: dict[str, dict[str, int]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        family = re.match(r"(wide_)?[a-z]+(_v\d|_[xy](?=_))?", name)
        assert family
        sizes.setdefault(family[0], {})[name] = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    return {family: min(models, key=lambda name: models[name]) for family, models in sizes.items()}


def timm_families() -> dict[str, str]:
    """Module of timm -> its smallest classifier by parameters; the models are built on the meta device, which takes minutes."""
    smallest = {}
    for module in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=module):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name, num_classes=10)
            except Exception:  # it computes with values while it is built
                model = timm.create_model(name, num_classes=10)
            sizes[name] = sum(p.numel() for p in model.parameters())
        if sizes and module not in NO_CLASSIFIER:
            smallest[module] = min(sizes, key=lambda name: sizes[name])
    return smallest


def measure(full_name: str, side: str) -> dict[str, Any]:
    """One cell, in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        result = check(full_name, ours() if side == "visionlora" else theirs())
    except Exception:  # the model itself cannot be built or run
        result = {"model": full_name, "failed": "build", "why": traceback.format_exc().splitlines()[-1][:160], "passed": []}
    return result | {"side": side, "seconds": round(time.perf_counter() - started, 1)}


def _measure(name_and_side: tuple[str, str]) -> dict[str, Any]:
    return measure(*name_and_side)


def table(cells: dict[str, dict[str, Any]], families: dict[str, str]) -> str:
    """Markdown: a line a family, ours and PEFT's verdict."""
    lines = ["| family | model | parameters, M | adapters | visionlora | PEFT |", "|---|---|---:|---:|---|---|"]
    passed = {"visionlora": 0, "peft": 0}
    for family, name in families.items():
        both = {side: cells.get(f"{name} {side}") for side in passed}
        words = {}
        for side, cell in both.items():
            words[side] = "not run" if cell is None else "passes" if not cell["failed"] else f"{cell['failed']}: {cell['why']}"
            passed[side] += words[side] == "passes"
        mine = both["visionlora"] or {}
        size = f"{mine.get('parameters', 0) / 1e6:.1f}"
        lines.append(
            f"| {family} | `{name}` | {size} | {mine.get('adapters', 0)} | {words['visionlora']} | {words['peft']} |".replace("||", "| |")
        )
    total = len(families)
    return f"visionlora passes {passed['visionlora']} of {total}, PEFT {passed['peft']}.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/families.md"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/families.json"))
    parser.add_argument("--sides", nargs="+", default=["visionlora", "peft"], choices=["visionlora", "peft"])
    parser.add_argument("--only", nargs="+", help="families, such as timm/resnet")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    parser.add_argument("--afresh", action="store_true", help="run again what is in the results file")
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(options.results.read_text()) if options.results.is_file() else {}
    families = known.get("families") or {
        **{f"timm/{family}": f"timm/{name}" for family, name in timm_families().items()},
        **{f"torchvision/{family}": f"torchvision/{name}" for family, name in torchvision_families().items()},
    }
    cells = known.get("cells", {})
    chosen = [name for family, name in families.items() if not options.only or family in options.only]
    todo = [(name, side) for side in options.sides for name in chosen if options.afresh or f"{name} {side}" not in cells]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    # Spawned, and renewed now and then, so that memory is given back.
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=8) as pool:
        for cell in pool.imap_unordered(_measure, todo):
            cells[f"{cell['model']} {cell['side']}"] = cell
            print(cell["side"], cell["model"], cell["failed"] or "passes", cell["why"], f"{cell['seconds']} s", flush=True)
            replace_file(options.results, json.dumps({"families": families, "cells": dict(sorted(cells.items()))}, indent=1).encode())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    intro = "# LoRA on every family\n\nWritten by `make test-families` (`benchmarks/families.py`, which says what is checked).\n\n"
    options.out.write_text(intro + table(cells, families))
    if any(cells[f"{name} visionlora"]["failed"] for name in chosen if f"{name} visionlora" in cells):
        raise SystemExit("visionlora fails on a family; see the table.")


if __name__ == "__main__":
    main()
