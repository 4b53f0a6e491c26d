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
import copy
import json
import multiprocessing
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import visionlora as vl
from visionlora.files import replace_file
from visionlora.lora.layer import lora_layers
from visionlora.lora.targets import candidates

CHECKS = ("identity", "gradients", "merge", "unmerge", "reload", "remove")
TOLERANCE = 1e-9
NONZERO = 0.95
NO_CLASSIFIER = ("gemma4_vit",)  # of timm's modules


class CheckError(Exception):
    """A check that does not hold, and why."""


# ---------------------------------------------------------------------------------------------------- the models


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


def build(full_name: str) -> nn.Module:
    """The model in float64, eval, nothing in it zero that training would fill."""
    torch.manual_seed(0)
    model = vl.create_backbone(full_name, 10, pretrained=False).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.abs().max() < 1e-3:
                if parameter.ndim > 1 or name.endswith("bias"):
                    nn.init.normal_(parameter, std=0.05)
                else:
                    nn.init.uniform_(parameter, 0.2, 0.4)
    return model.eval()


def calibrate(model: nn.Module, x: Tensor) -> None:
    """Batch-norm statistics of this very input."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = {norm: norm.momentum for norm in norms}
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(x)
    for norm in norms:
        norm.momentum = momenta[norm]
    model.eval()


def example(model: nn.Module) -> Tensor:
    """Two pictures of noise, small where the model takes any size."""
    own = vl.example_batch(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    fixed = config.get("fixed_input_size", False)
    for side in () if fixed else (128, 160, 192):
        if side < own.shape[-1]:
            try:
                with torch.no_grad():
                    model(own[..., :side, :side])
                return own[..., :side, :side].contiguous()
            except Exception:
                continue
    return own


# ---------------------------------------------------------------------------------------------------- the two sides


@dataclass
class Side:
    """One library: how it does what the checks ask for."""

    inject: Callable[[nn.Module], nn.Module]
    factors: Callable[[nn.Module], dict[str, nn.Parameter]]
    merge: Callable[[Any], Any]
    unmerge: Callable[[Any], Any]
    save: Callable[[Any, str], Any]
    load: Callable[[nn.Module, str], nn.Module]
    remove: Callable[[Any], nn.Module]
    exact: bool


def ours() -> Side:
    """visionlora."""

    def inject(model: nn.Module) -> nn.Module:
        vl.inject(model, vl.LoraConfig(r=4, targets="all"), freeze_bn=True)
        return model

    def factors(model: nn.Module) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}.{factor}": getattr(adapter, factor)
            for name, layer in lora_layers(model)
            for adapters in layer.adapter_sets.values()
            for key, adapter in adapters.items()
            for factor in ("lora_A", "lora_B")
        }

    return Side(inject, factors, vl.merge, vl.unmerge, vl.save_adapter, vl.load_adapter, vl.remove, exact=True)


def theirs() -> Side:
    """PEFT, told the same layers; batch-norm is in eval mode throughout."""
    import peft

    def config(model: nn.Module) -> peft.LoraConfig:
        head = vl.find_head(model)
        names = [slot.module_name for slot in candidates(model, head).values() if not slot.part]
        pattern = "(" + "|".join(name.replace(".", r"\.") for name in names) + ")"
        return peft.LoraConfig(r=4, lora_alpha=8, target_modules=pattern, modules_to_save=list(head))

    def inject(model: nn.Module) -> nn.Module:
        return peft.get_peft_model(model, config(model)).double().eval()  # type: ignore[no-any-return]

    def factors(model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: p for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name}

    return Side(
        inject,
        factors,
        lambda model: model.merge_adapter(),
        lambda model: model.unmerge_adapter(),
        lambda model, folder: model.save_pretrained(folder),
        lambda model, folder: peft.PeftModel.from_pretrained(model, folder).double().eval(),
        lambda model: model.unload(),
        exact=False,
    )


# ---------------------------------------------------------------------------------------------------- the checks


def check(full_name: str, side: Side) -> dict[str, Any]:
    """Every check of one model; ``failed`` names the first that does not hold, the later ones are not tried."""
    model = build(full_name)
    x = example(model).double()
    calibrate(model, x)
    result: dict[str, Any] = {"model": full_name, "parameters": sum(p.numel() for p in model.parameters()), "adapters": 0, "passed": []}
    steps = _checks(model, x, side, result)
    try:
        for name in CHECKS:
            result["failed"], result["why"] = name, ""
            next(steps)
            result["passed"].append(name)
        result["failed"] = ""
    except Exception as error:  # whatever a library raises
        text = " ".join(str(error).split())[:160]
        result["why"] = text if isinstance(error, CheckError) else f"{type(error).__name__}: {text}"
    return result


def _checks(model: nn.Module, x: Tensor, side: Side, result: dict[str, Any]) -> Any:
    before = logits(model, x)
    learning = share_of_nonzero(before, [slot.raw for slot in candidates(model, vl.find_head(model)).values() if not slot.part])
    before = before.detach()
    classes = [type(module) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())  # with the modules' versions

    adapted = side.inject(model)
    factors = side.factors(adapted)
    result["adapters"] = sum(name.endswith(("lora_A", "lora_A.default.weight")) for name in factors)
    adapted.eval()
    with torch.no_grad():
        near(logits(adapted, x), before, "the output changed at injection")
    yield

    torch.manual_seed(1)
    for parameter in factors.values():
        nn.init.normal_(parameter, std=0.1 * parameter[0].numel() ** -0.5)
    out = logits(adapted, x)
    grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), list(factors.values()), allow_unused=True)
    dead = [name for name, grad in zip(factors, grads, strict=True) if grad is None]
    if dead:
        raise CheckError(f"{len(dead)} of {len(factors)} factors get no gradient, {dead[0]} first")
    if not all(bool(grad.isfinite().all()) for grad in grads):
        raise CheckError("a gradient is not finite")
    nonzero = sum(bool(grad.any()) for grad in grads) / len(grads)
    if nonzero < NONZERO * learning:
        raise CheckError(f"only {nonzero:.0%} of the gradients are not zero, {learning:.0%} of the weights' own")
    if float((out - before).abs().max() / before.abs().max()) < 1e-3:
        raise CheckError("the output did not move")
    adapted_out = out.detach()
    yield

    with torch.no_grad():
        side.merge(adapted)
        near(logits(adapted, x), adapted_out, "the merged model differs")
        yield

        side.unmerge(adapted)
        now = adapted.state_dict()
        for key, value in state.items():
            for candidate in (key, f"base_model.model.{key}", _peft_base(key), _peft_saved(key)):
                if candidate in now:
                    if not (torch.equal(now[candidate], value) if side.exact else _close(now[candidate], value)):
                        raise CheckError(f"{key} is not restored")
                    break
            else:
                raise CheckError(f"{key} is gone")
        near(logits(adapted, x), adapted_out, "the unmerged model differs")
        yield

        with tempfile.TemporaryDirectory() as folder:
            side.save(adapted, folder)
            fresh = build(result["model"])
            fresh.load_state_dict(state)
            near(logits(side.load(fresh, folder), x), adapted_out, "the reloaded adapter differs")
        yield

        plain = side.remove(adapted)
        if [type(module) for module in plain.modules()] != classes:
            raise CheckError("the modules are not of their own classes again")
        same = torch.equal if side.exact else _close
        now = plain.state_dict()
        if list(now) != list(state) or not all(same(now[key], state[key]) for key in state):
            raise CheckError("the weights or keys are not what they were")
        near(logits(plain, x), before, "the output is not what it was, it differs")
        yield


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Of a classifier that may return several, joined."""
    out = model(x)
    return out if isinstance(out, Tensor) else torch.cat([t.flatten(1) for t in out], 1)


def share_of_nonzero(out: Tensor, weights: list[nn.Parameter]) -> float:
    """Of the gradients of the plain model's own weights: a saturated softmax leaves some at zero, LoRA or not."""
    grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), weights, allow_unused=True)
    return sum(grad is not None and bool(grad.any()) for grad in grads) / len(grads)


def near(now: Tensor, wanted: Tensor, what: str) -> None:
    """Raise ``CheckError`` unless the two agree to ``TOLERANCE`` of the largest."""
    gap = float((now.detach() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not gap < TOLERANCE:
        raise CheckError(f"{what} by {gap:.1g}")


def _close(a: Tensor, b: Tensor) -> bool:
    return not a.is_floating_point() or float((a - b).abs().max()) <= TOLERANCE * max(float(b.abs().max()), 1e-12)


def _peft_base(key: str) -> str:
    module, _, leaf = key.rpartition(".")
    return f"base_model.model.{module}.base_layer.{leaf}"


def _peft_saved(key: str) -> str:
    module, _, leaf = key.rpartition(".")
    return f"base_model.model.{module}.original_module.{leaf}"


# ---------------------------------------------------------------------------------------------------- the table


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
