"""A dozen families × what the family table asks of all (``make test-families`` runs every one), and what else happens to a model."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from model_parts import tensor
from quickly import quickly
from torch import Tensor, nn

import visionlora as vl
from benchmarks import family_checks
from visionlora.lora.layer import lora_layers

CHOSEN = [
    "timm/test_resnet",
    "timm/test_vit",  # fused qkv
    "timm/mobilenetv3_small_050",  # depthwise, squeeze and excitation
    "torchvision/squeezenet1_1",  # its head is a conv
    "timm/test_convnext",  # layer scale, depthwise
    "timm/test_nfnet",  # weight standardisation
    "timm/test_efficientnet_gn",
    "timm/levit_128s",  # two heads
    "timm/edgenext_xx_small",  # transposed attention
    "timm/pvt_v2_b0",  # q and kv
    "timm/gernet_s",
    "torchvision/shufflenet_v2_x0_5",
]


@pytest.mark.parametrize("name", quickly(CHOSEN, 4))
def test_every_check_of_the_table(name: str) -> None:
    torch.set_num_threads(1)
    side = family_checks.ours()
    result = family_checks.check(name, side)
    assert result["failed"] == "", result["why"]
    assert result["passed"] == list(side.checks)


def spread(model: nn.Module) -> None:
    for _, layer in lora_layers(model):
        for adapters in layer.adapter_sets.values():
            for adapter in adapters.values():
                nn.init.normal_(tensor(adapter, "lora_B"), std=0.05)


def adapted(name: str, **options: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = vl.create_backbone(name, 5, pretrained=False, **options)
    x = vl.example_batch(model, 64 if name != "timm/test_vit" else None)
    vl.inject(model, vl.LoraConfig(r=2, targets="all"), example=x)
    return model, x


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_convnext", "timm/mobilenetv3_small_050", "torchvision/resnet18"])
def test_in_train_mode(name: str) -> None:
    """With stochastic depth and dropout, the same random numbers give the same output, merged or not; every adapter learns."""
    options = {"drop_path_rate": 0.2, "drop_rate": 0.3} if name.startswith("timm") else {}
    model, x = adapted(name, **options)
    spread(model)
    model.train()
    torch.manual_seed(1)
    out = model(x)
    assert not options or not torch.allclose(out, model(x))
    grads = torch.autograd.grad(out.square().sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in grads)
    vl.merge(model)
    torch.manual_seed(1)
    assert torch.allclose(model(x), out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", quickly(["timm/test_vit", "timm/test_nfnet", "torchvision/shufflenet_v2_x0_5"], 1))
def test_compiles_copies_and_pickles(name: str) -> None:
    model, x = adapted(name)
    spread(model)
    wanted = model.eval()(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.compile(model, backend="aot_eager", fullgraph=True)):
        assert torch.allclose(other(x), wanted, rtol=1e-4, atol=1e-5)


def _logits(model: nn.Module, x: Tensor) -> Any:
    return model.eval()(x).detach().numpy()


def test_reaches_a_spawned_process() -> None:
    model, x = adapted("timm/test_vit")
    spread(model)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.allclose(torch.from_numpy(pool.apply(_logits, (model, x))), model.eval()(x), atol=1e-5)


def test_auxiliary_heads_are_left_alone() -> None:
    model = torchvision.models.googlenet(num_classes=5, aux_logits=True, init_weights=False)
    report = vl.inject(model, vl.LoraConfig(r=2, targets="all"), torch.randn(2, 3, 64, 64))
    assert not any(layer.name.startswith("aux") for layer in report.layers)
    assert vl.find_head(model) == ("fc",)
    assert model.fc.weight.requires_grad
    assert not model.aux1.fc1.weight.requires_grad


def test_two_heads_are_trained_and_not_adapted() -> None:
    model = timm.create_model("levit_128s", num_classes=5)
    report = vl.inject(model, vl.LoraConfig(r=2, targets="all"))
    assert not any(layer.name.startswith("head") for layer in report.layers)
    assert model.head.linear.weight.requires_grad
    assert model.head_dist.linear.weight.requires_grad


SHARDED = """
import sys, timm, torch, torch.distributed as dist, visionlora as vl
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from visionlora.lora.layer import LoraLayer
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
for name in ("test_vit", "test_resnet"):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    x = vl.example_batch(model)
    vl.inject(model, vl.LoraConfig(r=2, targets="all"), example=x)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    wanted = model(x)
    wanted.square().sum().backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for block in model.children():
        if any(True for _ in block.parameters()) and not isinstance(block, torch.nn.ModuleDict):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    sharded = next(m for m in model.modules() if isinstance(m, LoraLayer))
    try:
        sharded.weight
        raise SystemExit("the frozen weight was handed out as the effective one")
    except RuntimeError as error:
        assert "merge the adapters first" in str(error), error
    out = model(x)
    assert torch.allclose(out, wanted, atol=1e-5)
    out.square().sum().backward()
    for k, p in model.named_parameters():
        if k in grads:
            assert torch.allclose(p.grad.full_tensor(), grads[k], rtol=1e-3, atol=1e-4), k
for name in ("test_vit", "test_resnet"):  # as tensor parallelism has it: spread while it computes
    model = timm.create_model(name, num_classes=3)
    x = vl.example_batch(model)
    vl.inject(model, vl.LoraConfig(r=2, targets="all"), example=x)
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    layer._parameters["weight"] = torch.nn.Parameter(distribute_tensor(layer._parameters["weight"].data, mesh, [Shard(0)]))
    for use in (lambda: layer.weight, lambda: model(x)):
        try:
            use()
            raise SystemExit("a weight without its update was used")
        except RuntimeError as error:
            assert "merge the adapters first" in str(error), error
dist.destroy_process_group()
print("sharded")
"""


def test_fully_sharded(tmp_path: Path) -> None:
    """FSDP2 on one process: what it reads while it shards must be the frozen parameter, and the gradients must come out right.

    Whoever else reads a weight that is spread over processes is told so: the frozen one would be a layer without its update.
    """
    done = subprocess.run([sys.executable, "-c", SHARDED, str(tmp_path / "rendezvous")], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("sharded"), done.stderr[-2000:]
