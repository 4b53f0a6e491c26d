"""Every linear and conv geometry of all families in torch's own CPU library: does it write beyond its memory, and is its gradient right?

    python benchmarks/cpu_kernels.py

A layer of each geometry (class, channels, kernel, stride, padding, dilation, groups) is run forward and backward, float32 and bf16, in
channels_last and contiguous, on a heap that tells when it is broken (``forks.py``); the weight's gradient is compared with float64. Once as
torch computes it and once as visionlora does (a frozen layer with adapters, and a trained one). Only ours has to hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

import visionlora as vl
from benchmarks.families import RESULTS
from benchmarks.family_commands import build_shallow
from benchmarks.forks import Ended, Forks
from visionlora.lora import LoraConfig
from visionlora.lora.injection import inject
from visionlora.lora.slots import slots
from visionlora.lora.targets import most
from visionlora.speed.strided import subsample

WRONG = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative error of a gradient above which it is not rounding."""
CHUNK = 40


def geometries(full_name: str) -> list[list[Any]]:
    """Of one model's linear and conv layers: kind, inputs, outputs, kernel, stride, padding, dilation, groups."""
    warnings.filterwarnings("ignore")
    build_shallow()
    model = vl.create_backbone(full_name, 10, pretrained=False)
    found = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            padding = module.padding if isinstance(module.padding, str) else list(module.padding)
            shape = [list(module.kernel_size), list(module.stride), padding, list(module.dilation), module.groups]
            found.append(["conv", module.in_channels, module.out_channels, *shape])
        elif isinstance(module, nn.Linear):
            found.append(["linear", module.in_features, module.out_features])
    return found


def run(geometry: list[Any], how: str) -> list[str]:
    """What is wrong with it: ``how`` is ``torch`` or ``visionlora``."""
    torch.set_num_threads(1)
    kind, inputs, outputs, *shape = geometry
    wrong = []
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            if kind == "linear":
                layer: nn.Module = nn.Linear(inputs, outputs)
                x = torch.randn(2, 33, inputs)
            else:
                kernel, stride, padding, dilation, groups = shape
                layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups)
                reach = max((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
                # Where few channels come in, the images are large: the kernel that breaks does so there alone.
                side = 256 if inputs <= 4 else max(reach, 16) + 3
                x = torch.randn(2, inputs, side, side).contiguous(memory_format=layout)
            weight = cast_parameter(layer)
            exact = gradient(layer.double(), weight, x.double(), torch.float64)
            layer.float()
            if how == "visionlora":
                subsample(layer)
            for _ in range(3):  # what is beyond the memory may be free the first time
                got = gradient(layer, weight, x, dtype)
            error = float((got.double() - exact).norm() / exact.norm().clamp_min(1e-12))
            if not error < WRONG[dtype]:
                wrong.append(f"{dtype}, {layout}: the weight's gradient is {error:.2g} off")
            if how == "visionlora":
                model = nn.Sequential(layer)
                vl.unfold(model)
                model.requires_grad_(False)
                adapted(model, x, dtype)
    return wrong


def cast_parameter(layer: nn.Module) -> nn.Parameter:
    """Its weight."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def gradient(layer: nn.Module, weight: nn.Parameter, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Of the weight, in that type; the input's is computed too."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x)
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return torch.autograd.grad(y, [weight, x], seed)[0]


def adapted(model: nn.Sequential, x: Tensor, dtype: torch.dtype) -> None:
    """A step of the layer with adapters."""
    if not any(most(slot) for slot in slots(model).values()):
        return  # a layer of so few weights gets none
    inject(model, LoraConfig(r=1, targets="all"))
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = model(x.detach().requires_grad_())
        y.float().square().sum().backward()
    vl.remove(model)


def run_all(chunk: list[list[Any]], how: str) -> list[list[Any]]:
    """Those of a chunk that are wrong, with why."""
    return [[geometry, wrong] for geometry in chunk if (wrong := run(geometry, how))]


def main() -> None:
    """Collect, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="models, such as timm/fastvit_t8")
    options = parser.parse_args()
    forks = Forks(("benchmarks.cpu_kernels",))
    names = options.only or list(json.loads(RESULTS.read_text())["families"].values())
    with ThreadPoolExecutor(options.jobs) as threads:
        lists: list[Ended] = list(threads.map(lambda name: forks.run(geometries, name), names))
        distinct = sorted({json.dumps(each) for ended in lists for each in ended.value or ()})
        print(f"{len(distinct)} distinct geometries of {len(names)} models", flush=True)
        chunks = [[json.loads(each) for each in distinct[i : i + CHUNK]] for i in range(0, len(distinct), CHUNK)]
        bad = 0
        for how in ("torch", "visionlora"):
            for chunk, ended in zip(chunks, threads.map(lambda c, h=how: forks.run(run_all, c, h), chunks), strict=True):
                found = ended.value or []
                if ended.error:  # which of them was it?
                    found = []
                    for geometry in chunk:
                        alone = forks.run(run, geometry, how)
                        found += [[geometry, [alone.error] if alone.error else alone.value]] if alone.error or alone.value else []
                    found = found or [["these together", [ended.error]]]
                for geometry, why in found:
                    print(how, *geometry if isinstance(geometry, list) else [geometry], *why, sep="  ", flush=True)
                    bad += how == "visionlora"
    sys.exit(f"{bad} geometries break or are wrong with visionlora" if bad else 0)


if __name__ == "__main__":
    main()
