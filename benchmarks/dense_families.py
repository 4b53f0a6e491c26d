"""LoRA on models for boxes and masks: the table of ``docs/dense_families.md``.

    python benchmarks/dense_families.py           # again where the sources have changed
    python benchmarks/dense_families.py --graphs  # with exports to ONNX

All of torchvision's models for masks and for boxes, and the smallest model of some families of timm below what ``task=segment`` and
``task=detect`` put over one, with random weights. Each goes through the commands at 64 px, or the smallest size that it takes, on
sixteen of the pictures of ``data=digits``, with masks for 8 proposals of an image where Mask R-CNN has 100, each command in a process of
its own (``forks.py``):

- ``train`` an epoch of four steps: the audit sees that every adapter gets a gradient; validate, test and save;
- ``evaluate``: of the run that was read back, every figure is what the training measured;
- ``load``: an adapter has moved, and the merged model gives the unmerged one's output to 1e-9, in float64;
- ``export`` as a state dict, read back and compared; with ``--graphs`` as ONNX too;
- then the checks of ``families.py`` in float64, with every linear and conv layer below what is made anew as a target: ``identity``,
  ``gradients``, ``folded``, ``precision``, ``merge``, ``unmerge``, ``reload``, ``remove``.

A model that gives no maps that a decoder takes is refused in a sentence, which the table shows.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.dense_commands import IMPORTED, Cell, smallest_size, through
from benchmarks.families import RESULTS as OF_CLASSIFIERS
from benchmarks.families import ROOT, as_they_come, fingerprint, versions
from benchmarks.forks import Forks
from visionlora.backbone.placed.torchvision_models import DETECTORS, segmenters
from visionlora.common.files import replace_file

RESULTS, TABLE = ROOT / "benchmarks/results/dense_families.json", ROOT / "docs/dense_families.md"
SOURCES = ("visionlora/lora", "visionlora/backbone", "visionlora/speed", "visionlora/tasks/detect", "visionlora/tasks/segment")
FAMILIES = (
    "resnet", "regnet", "efficientnet", "mobilenetv3", "convnext", "densenet", "dla", "hrnet", "swin_transformer", "byobnet", "maxxvit",
    "nfnet", "fasternet", "edgenext", "starnet", "mambaout", "vision_transformer", "levit", "pvt_v2", "ghostnet", "efficientvit_mit",
    "repvit", "vgg", "tiny_vit", "hiera", "res2net", "tresnet", "inception_v3", "swin_transformer_v2", "focalnet", "xception_aligned",
)  # fmt: skip
"""Of timm, in ``families.json``, which has the smallest model of each."""
MORE = {
    "resnext": "resnext50_32x4d",
    "convnextv2": "convnextv2_atto",
    "mixnet": "mixnet_s",
    "repvgg": "repvgg_a0",
    "mobilevit": "mobilevit_xxs",
}
"""What timm has in a module with others."""
ENDS = {"segment": "masks", "detect": "boxes"}


def cells() -> list[Cell]:
    """Every line of the table."""
    smallest = json.loads(OF_CLASSIFIERS.read_text())["families"]
    below = {family: str(smallest[f"timm/{family}"]) for family in FAMILIES} | {family: f"timm/{name}" for family, name in MORE.items()}
    own = [(name, "segment") for name in segmenters()] + [(name, "detect") for name in DETECTORS]
    over = {task: [Cell(f"timm/{family}", task, name) for family, name in below.items()] for task in ENDS}
    dpt = Cell("timm/vision_transformer", "segment", below["vision_transformer"], "dpt")
    return [*over["segment"], dpt, *(Cell(f"torchvision/{name}", task, f"torchvision/{name}") for name, task in own), *over["detect"]]


def measured(known: dict[str, Any], of: list[Cell], jobs: int, graphs: bool) -> Any:
    """Measure, so many at a time, and yield as they come."""
    forks, sizes = Forks(IMPORTED), known.setdefault("sizes", {})

    def one(cell: Cell) -> dict[str, Any]:
        started = time.perf_counter()
        if cell.key not in sizes:
            ended = forks.run(smallest_size, cell.full_name, cell.built_with)
            if ended.error:
                return {"key": cell.key, "failed": "build", "why": ended.error, "passed": []}
            sizes[cell.key] = ended.value
        found = through(forks, cell, sizes[cell.key], graphs)
        return found | {"key": cell.key, "graphs": graphs, "seconds": round(time.perf_counter() - started, 1)}

    with ThreadPoolExecutor(jobs) as threads:
        yield from as_they_come(threads, one, of)


def outcome(cell: dict[str, Any] | None) -> str:
    """``passes``, ``refused``, or ``fails``."""
    if cell is None:
        return "not run"
    if cell["failed"] == "train" and (": error: model.decoder=" in cell["why"] or "cannot take images of this size" in cell["why"]):
        return "refused"
    return "fails" if cell["failed"] else "passes"


def table(known: dict[str, Any]) -> str:
    """Markdown: what was measured with what, and a line a model."""
    found, lines = known["cells"], ["| | over it | model | px | adapters | |", "|---|---|---|---:|---:|---|"]
    counts: dict[tuple[str, str], list[str]] = {}
    for cell in cells():
        mine = found.get(cell.key)
        ended = outcome(mine)
        counts.setdefault((cell.task, cell.full_name.partition("/")[0]), []).append(ended)
        why = f": {mine['why'].rpartition('error: ')[2]}" if ended == "refused" and mine else ""
        why = f" at {mine['failed']}: {mine['why']}" if ended == "fails" and mine else why
        note = f" ({mine['note']})" if mine and mine.get("note") else ""
        over = cell.built_with or "its own"
        size = f"{mine.get('image_size', '')} | {mine.get('adapters', '')}" if mine else "| "
        lines.append(f"| {ENDS[cell.task]} | {over} | `{cell.full_name}` | {size} | {ended}{why}{note} |".replace("||", "| |"))
    said = [
        f"{ENDS[task]}, {source}: {ends.count('passes')} of {len(ends)} pass, {ends.count('refused')} are refused in a sentence"
        for (task, source), ends in counts.items()
    ]
    with_ = sorted({str(cell.get("measured_with")) for cell in found.values()})
    graphs = sum(bool(cell.get("graphs")) for cell in found.values())
    return (
        f"{'; '.join(said)}.\n\nMeasured with the sources `{', '.join(with_)}` (sha256 over {', '.join(SOURCES)}) and"
        f" {known.get('versions', '')}, {graphs} with exports to ONNX as well.\n\n" + "\n".join(lines) + "\n"
    )


INTRO = """# Families for boxes and masks

Written by `make test-dense-families` (`benchmarks/dense_families.py`, which says what is checked): the commands `train`, `evaluate` and
`export` on a few pictures of `data=digits`, then gradients, folding, precision, merging, reloading, removing. Weights are random; Mask
R-CNN gives a mask to 8 proposals of an image where it has 100. A line is what

    python -m visionlora.train task=segment data=digits model=timm model.name=test_resnet model.pretrained=false

comes to, with the model's name, and `task=detect` for boxes.

"""


def main() -> None:
    """Measure what is missing or out of date and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", help="families, such as timm/resnet")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    parser.add_argument("--afresh", action="store_true", help="run again what has been measured with these very sources")
    parser.add_argument("--graphs", action="store_true", help="export to ONNX too")
    parser.add_argument("--rest", action="store_true", help="only what has not been measured, or has failed, whatever the sources were")
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(options.results.read_text()) if options.results.is_file() else {}
    found, now = known.setdefault("cells", {}), fingerprint(SOURCES, but=None)
    chosen = [cell for cell in cells() if not options.only or cell.family in options.only]
    old = [cell for cell in chosen if options.afresh or found.get(cell.key, {}).get("measured_with") != now]
    if options.rest:
        old = [cell for cell in chosen if outcome(found.get(cell.key)) in ("not run", "fails")]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for cell in measured(known, old, options.jobs, options.graphs):
        found[cell.pop("key")] = cell | {"measured_with": now}
        print(cell["model"], outcome(cell), cell["failed"], cell["why"], f"{cell.get('seconds', 0)} s", flush=True)
        known["versions"] = versions("torch", "timm", "torchvision", "segmentation-models-pytorch")
        replace_file(options.results, json.dumps(known | {"cells": dict(sorted(found.items()))}, indent=1).encode())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(INTRO + table(known))
    if any(outcome(found[cell.key]) == "fails" for cell in chosen if cell.key in found):
        raise SystemExit("a model fails; see the table.")


if __name__ == "__main__":
    main()
