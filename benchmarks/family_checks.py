"""What the family table asks of a model, on either side; ``families.py`` says it in words."""

from __future__ import annotations

import contextlib
import copy
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import visionlora as vl
from visionlora.lora.kernel_table import without_kernels
from visionlora.lora.layer import lora_layers
from visionlora.lora.targets import candidates

CHECKS = ("identity", "gradients", "merge", "unmerge", "reload", "remove")
OURS = ("identity", "gradients", "folded", "precision", "merge", "unmerge", "reload", "remove")
TOLERANCE = 1e-9
NONZERO = 0.95
ROUNDING = 4.0
"""How much larger than with plain layers the error of a gradient in bf16 may be: than its own, and than the median of all."""
FLOOR = 0.03
"""Relative error of a gradient that bf16's rounding alone accounts for."""
TELLING = 0.1
"""Median error of the plain layers' gradients in bf16 above which they are mostly chance, and so is a comparison with them."""
SHAKEN = 1e-15
"""Relative noise on the images, a few roundings of float64: what it does to the plain layers' gradients, the order of a sum may do too."""


class CheckError(Exception):
    """A check that does not hold, and why."""


def build(full_name: str, size: int | None = None, decoder: str | None = None) -> nn.Module:
    """The model in float64, eval, nothing in it zero that training would fill."""
    torch.manual_seed(0)
    model = vl.create_backbone(full_name, 10, pretrained=False, image_size=size, decoder=decoder).double()
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


def example(model: nn.Module, size: int | None = None) -> Tensor:
    """Two images of noise, of that size, or small where the model takes any."""
    if size is not None:
        return vl.example_batch(model, size)
    own = vl.example_batch(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    smallest = (config.get("min_input_size") or own.shape)[-1]
    for side in () if config.get("fixed_input_size", False) else (128, 160, 192, smallest):
        if side < own.shape[-1]:
            try:
                with torch.no_grad():
                    model(own[..., :side, :side])
                return own[..., :side, :side].contiguous()
            except Exception:
                continue
    return own


@dataclass
class Side:
    """One library: how it does what the checks ask for."""

    inject: Callable[[nn.Module, Tensor], nn.Module]
    factors: Callable[[nn.Module], dict[str, nn.Parameter]]
    merge: Callable[[Any], Any]
    unmerge: Callable[[Any], Any]
    save: Callable[[Any, str], Any]
    load: Callable[[nn.Module, str], nn.Module]
    remove: Callable[[Any], nn.Module]
    exact: bool
    checks: tuple[str, ...] = CHECKS
    draws: int = 1
    """Batches on all of which ``precision`` has to fail: below a decoder, much of its error is whether rounding stops a ReLU or not."""


def ours() -> Side:
    """visionlora."""

    def inject(model: nn.Module, x: Tensor) -> nn.Module:
        vl.inject(model, vl.LoraConfig(r=4, targets="all"), x, freeze_bn=True)
        return model

    def factors(model: nn.Module) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}.{factor}": getattr(adapter, factor)
            for name, layer in lora_layers(model)
            for adapters in layer.adapter_sets.values()
            for key, adapter in adapters.items()
            for factor in ("lora_A", "lora_B")
        }

    return Side(inject, factors, vl.merge, vl.unmerge, vl.save_adapter, vl.load_adapter, vl.remove, exact=True, checks=OURS)


def theirs() -> Side:
    """PEFT, told the same layers; batch-norm is in eval mode throughout."""
    import peft

    def config(model: nn.Module) -> peft.LoraConfig:
        head = vl.find_head(model)
        names = [slot.module_name for slot in candidates(model, head).values() if not slot.part]
        pattern = "(" + "|".join(name.replace(".", r"\.") for name in names) + ")"
        return peft.LoraConfig(r=4, lora_alpha=8, target_modules=pattern, modules_to_save=list(head))

    def inject(model: nn.Module, x: Tensor) -> nn.Module:
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


def check(full_name: str, side: Side, size: int | None = None, decoder: str | None = None) -> dict[str, Any]:
    """Every check of one model; ``failed`` names the first that does not hold, the later ones are not tried."""
    model = build(full_name, size, decoder)
    x = example(model, size).double()
    calibrate(model, x)
    result: dict[str, Any] = {
        "model": full_name,
        "image_size": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "adapters": 0,
        "passed": [],
    }
    steps = _checks(model, x, side, result, partial(build, full_name, size, decoder))
    try:
        for name in side.checks:
            result["failed"], result["why"] = name, ""
            next(steps)
            result["passed"].append(name)
        result["failed"] = ""
    except Exception as error:  # whatever a library raises
        text = " ".join(str(error).split())[:160]
        result["why"] = text if isinstance(error, CheckError) else f"{type(error).__name__}: {text}"
    return result


def _checks(model: nn.Module, x: Tensor, side: Side, result: dict[str, Any], again: Callable[[], nn.Module]) -> Any:
    before = logits(model, x)
    learning = share_of_nonzero(before, [slot.raw for slot in candidates(model, vl.find_head(model)).values() if not slot.part])
    before = before.detach()
    classes = [type(module) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())  # with the modules' versions

    adapted = side.inject(model, x)
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
    if float((out - before).detach().abs().max() / before.detach().abs().max()) < 1e-3:
        raise CheckError("the output did not move")
    adapted_out = out.detach()
    yield

    if "folded" in side.checks:
        reference = train_gradients(adapted, x, folded=False)
        exact = train_gradients(adapted, x, folded=True, result=result)
        if any(not error(exact[name], wanted) < TOLERANCE for name, wanted in reference.items()):
            shaken = train_gradients(adapted, x * (1 + SHAKEN * torch.randn_like(x)), folded=False)
            result["conditioned"] = max(error(shaken[name], wanted) for name, wanted in reference.items())
            for name, wanted in reference.items():
                if not error(exact[name], wanted) < max(TOLERANCE, 10 * error(shaken[name], wanted)):
                    raise CheckError(f"{name} differs by {error(exact[name], wanted):.1g} from the plain layers'")
        yield
        twin, images = copy.deepcopy(adapted).float(), x
        for left in reversed(range(side.draws)):
            rough, fast = (train_gradients(twin, images.float(), folded, torch.bfloat16) for folded in (False, True))
            off = {name: (error(fast[name], wanted), error(rough[name], wanted)) for name, wanted in reference.items()}
            ours_, theirs_ = (statistics.median(errors) for errors in zip(*off.values(), strict=True))
            worst = max(off, key=lambda name: off[name][0] / (ROUNDING * max(off[name][1], theirs_) + FLOOR))
            result["bf16"] = {"median": ours_, "plain": theirs_, "worst": [worst, *off[worst]]}
            worse = not ours_ < 1.5 * theirs_ + 0.3 * FLOOR or not off[worst][0] < ROUNDING * max(off[worst][1], theirs_) + FLOOR
            if not worse or theirs_ >= TELLING:
                break
            if not left:
                raise CheckError(f"in bf16 the gradients are {ours_:.2g} off, {worst} {off[worst][0]:.2g}; plain layers' {theirs_:.2g}")
            images = torch.randn(x.shape, generator=torch.Generator().manual_seed(left), dtype=x.dtype)
            reference = train_gradients(adapted, images, folded=False)
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
            other = again()
            other.load_state_dict(state)
            near(logits(side.load(other, folder), x), adapted_out, "the reloaded adapter differs")
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


def train_gradients(
    model: nn.Module, x: Tensor, folded: bool, autocast: torch.dtype | None = None, result: dict[str, Any] | None = None
) -> dict[str, Tensor]:
    """The gradient of everything that is trained, in train mode, with all that makes it fast or with none of it; and the output."""
    if folded:
        report = vl.fold(model, x)
        if result is not None:
            result |= {"folded": len(report.folded), "note": report.note}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a head that is made anew learns statistics
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # the same random numbers fall on other pixels where an image lies otherwise in memory
    torch.manual_seed(2)  # the same stochastic depth
    with contextlib.nullcontext() if folded else without_kernels(model), torch.autocast("cpu", autocast, enabled=autocast is not None):
        out = logits(model, x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad((out.double() * weights).sum(), list(learning.values()))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    vl.unfold(model)
    model.eval()
    return {"the output": out.detach()} | {f"the gradient of {name}": grad for name, grad in zip(learning, grads, strict=True)}


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative, of the whole tensor; of one that is nothing, none."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-12))


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
