"""LoRA on the smallest model of every family of timm and torchvision: the table of ``docs/families.md``.

    python benchmarks/families.py                 # ours, again where the sources have changed: minutes
    python benchmarks/families.py --graphs        # with exports to ONNX and torch.export: some times as long
    python benchmarks/families.py --sides peft --afresh

Ours goes through the commands, each in a process of its own with a heap that tells when it is broken (``forks.py``), at 64 px or the
smallest size that the model takes; what a user gets by default: folded, with kernels, in bf16 where the hardware computes in it:

- ``train`` one step, validate, test and save; ``evaluate``; ``load`` and merge; ``export`` for the library, read back and compared;
  with ``--graphs`` as a ``torch.export`` program and as ONNX too.

Then, ours and PEFT's, the model is built with random weights in float64. What random initialisation leaves at zero (heads, norm and layer
scales) is filled and batch-norm is calibrated on the input first, so that no model passes with a branch that does nothing. With every
linear and conv layer but the head as a target, rank 4:

- ``identity``: the output is that of the plain model;
- ``gradients``: after random ``A`` and ``B``, every adapter has a finite gradient; as many are not zero as of the plain model's own
  weights (but 5 %: a saturated softmax stops queries, LoRA or not); the output moved;
- ``folded`` (ours): with folding and kernels, output and every gradient are the plain layers', in train mode, to 1e-9; or, where noise of
  1e-15 on the images changes the plain layers' own gradients by more than that, to ten times that change;
- ``precision`` (ours): in bf16, no gradient is further from float64 than four times what it is with plain layers (and 3 %); models at
  random weights whose plain gradients are more than 10 % off in bf16 have none to compare with;
- ``merge``: the merged model gives the unmerged one's output to 1e-9 of the largest logit;
- ``unmerge``: it restores every weight bit for bit (PEFT subtracts, so 1e-9 is asked of it here and below);
- ``reload``: saved and loaded into another model with the same base, the adapter gives the same output;
- ``remove``: classes, keys and weights are those of the plain model.

Each figure names what it was measured with: ours the sources of ``visionlora/lora``, ``visionlora/backbone`` and
``visionlora/speed`` without ``visionlora/backbone/placed``, PEFT's the versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from benchmarks.family_checks import check, theirs
from benchmarks.family_commands import PRELOAD, SHALLOW, smallest_size, through
from benchmarks.forks import Forks
from visionlora.common.files import replace_file

ROOT = Path(__file__).parents[1]
RESULTS, TABLE = ROOT / "benchmarks/results/families.json", ROOT / "docs/families.md"
SOURCES = ("visionlora/lora", "visionlora/backbone", "visionlora/speed")
PLACED = "visionlora/backbone/placed"
"""What no classifier goes through; ``dense_families.py`` has it."""
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


def fingerprint(sources: tuple[str, ...] = SOURCES, but: str | None = PLACED) -> str:
    """sha256 over names and contents of the sources that ours was measured with, all in these folders but one."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in sources for path in (ROOT / folder).rglob("*.py")):
        if but and path.is_relative_to(ROOT / but):
            continue
        digest.update(f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()


def versions(*packages: str) -> str:
    """As ``torch 2.10.0, timm 1.0.22``."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def measured_with(side: str) -> str:
    """What a cell depends on beside the model."""
    return fingerprint() if side == "visionlora" else versions("peft", "torch", "timm", "torchvision")


def peft_cell(full_name: str) -> dict[str, Any]:
    """One cell of PEFT, in a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    try:
        return check(full_name, theirs())
    except Exception:  # the model itself cannot be built or run
        return {"model": full_name, "failed": "build", "why": traceback.format_exc().splitlines()[-1][:160], "passed": []}


def cells(side: str, names: list[str], known: dict[str, Any], jobs: int, graphs: bool) -> Iterator[dict[str, Any]]:
    """Measure, so many at a time, and yield as they come."""
    if side == "peft":
        # Spawned, and renewed now and then, so that memory is given back.
        with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=8) as pool:
            yield from pool.imap_unordered(peft_cell, names)
        return
    forks, sizes = Forks(PRELOAD), known.setdefault("sizes", {})

    def one(name: str) -> dict[str, Any]:
        started = time.perf_counter()
        if name not in sizes:
            ended = forks.run(smallest_size, name)
            if ended.error:
                return {"model": name, "failed": "build", "why": ended.error, "passed": []}
            sizes[name] = ended.value
        return through(forks, name, sizes[name], graphs) | {"graphs": graphs, "seconds": round(time.perf_counter() - started, 1)}

    with ThreadPoolExecutor(jobs) as threads:
        yield from as_they_come(threads, one, names)


def as_they_come(threads: ThreadPoolExecutor, one: Callable[[Any], dict[str, Any]], of: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """``one`` of each, in the order in which they end."""
    for done in as_completed([threads.submit(partial(one, each)) for each in of]):
        yield done.result()


def table(known: dict[str, Any]) -> str:
    """Markdown: what was measured with what, and a line a family."""
    lines = ["| family | model | px | parameters, M | adapters | visionlora | PEFT |", "|---|---|---:|---:|---:|---|---|"]
    passed = {"visionlora": 0, "peft": 0}
    for family, name in known["families"].items():
        words = {}
        for side in passed:
            cell = known["cells"].get(f"{name} {side}")
            words[side] = "not run" if cell is None else "passes" if not cell["failed"] else f"{cell['failed']}: {cell['why']}"
            passed[side] += words[side] == "passes"
        mine = known["cells"].get(f"{name} visionlora") or {}
        fewer = ", fewer blocks" if name.partition("/")[2] in SHALLOW else ""
        note = f" ({mine['note']})" if mine.get("note") else ""
        size = f"{mine.get('image_size', '')} | {mine.get('parameters', 0) / 1e6:.1f} | {mine.get('adapters', 0)}"
        lines.append(f"| {family} | `{name}`{fewer} | {size} | {words['visionlora']}{note} | {words['peft']} |".replace("||", "| |"))
    total, ours = (
        len(known["families"]),
        sorted({str(c.get("measured_with")) for k, c in known["cells"].items() if k.endswith("visionlora")}),
    )
    theirs_with = sorted({str(c.get("measured_with")) for k, c in known["cells"].items() if k.endswith("peft")})
    graphs = sum(bool(c.get("graphs")) for k, c in known["cells"].items() if k.endswith("visionlora"))
    return (
        f"visionlora passes {passed['visionlora']} of {total}, PEFT {passed['peft']}.\n\n"
        f"Ours was measured with the sources `{', '.join(ours)}` (sha256 over {' and '.join(SOURCES)} without {PLACED}) and"
        f" {known.get('versions', '')}, {graphs} families with exports to ONNX and `torch.export` as well; PEFT's with"
        f" {'; '.join(theirs_with)}.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    """Measure what is missing or out of date and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sides", nargs="+", default=["visionlora"], choices=["visionlora", "peft"])
    parser.add_argument("--only", nargs="+", help="families, such as timm/resnet")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    parser.add_argument("--afresh", action="store_true", help="run again what has been measured with these very sources")
    parser.add_argument("--graphs", action="store_true", help="export to ONNX and torch.export too")
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    known.setdefault("families", {}) or known["families"].update(
        {f"timm/{family}": f"timm/{name}" for family, name in timm_families().items()}
        | {f"torchvision/{family}": f"torchvision/{name}" for family, name in torchvision_families().items()}
    )
    found = known.setdefault("cells", {})
    chosen = [name for family, name in known["families"].items() if not options.only or family in options.only]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for side in options.sides:
        now = measured_with(side)
        old = [n for n in chosen if options.afresh or found.get(f"{n} {side}", {}).get("measured_with") != now]
        for cell in cells(side, old, known, options.jobs, options.graphs):
            found[f"{cell['model']} {side}"] = cell | {"side": side, "measured_with": now}
            print(side, cell["model"], cell["failed"] or "passes", cell["why"], f"{cell.get('seconds', 0)} s", flush=True)
            if side == "visionlora":
                known["versions"] = versions("torch", "timm", "torchvision")
            replace_file(options.results, json.dumps(known | {"cells": dict(sorted(found.items()))}, indent=1).encode())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    intro = "# LoRA on every family\n\nWritten by `make test-families` (`benchmarks/families.py`, which says what is checked).\n\n"
    options.out.write_text(intro + table(known))
    if any(found[f"{name} visionlora"]["failed"] for name in chosen if f"{name} visionlora" in found):
        raise SystemExit("visionlora fails on a family; see the table.")


if __name__ == "__main__":
    main()
