"""The frozen front of a model: what comes before the first trained parameter, run once an image instead of once an epoch.

Where to cut is found by watching a forward pass, and proved by another one: with everything before the cut left out and the features
put in at the cut, the logits must be the same. So a model that reads an early layer again later on is cut earlier, or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.ops import StochasticDepth

from visionlora.backbone.freeze import moves_statistics
from visionlora.common.errors import UserError
from visionlora.common.watching import watching
from visionlora.lora.audit import undisturbed

TRIES = 12
"""How many places to cut are tried, the latest first."""


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass at the cut."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


@dataclass
class _Trace:
    """When each module was called, and what it returned."""

    time: int = 0
    starts: dict[nn.Module, list[int]] = field(default_factory=dict)
    ends: dict[nn.Module, list[int]] = field(default_factory=dict)
    outputs: dict[nn.Module, list[Any]] = field(default_factory=dict)


class Front:
    """The frozen front of ``model``, found with the batch ``example (N, C, H, W)``.

    Raises:
        UserError: there is none to speak of; the message says why.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        names = {module: name for name, module in model.named_modules()}
        with undisturbed(model), torch.no_grad():
            trace = _watch(model, example)
            first, owner = _first_trained(model, trace)
            done = sorted((m for m, ends in trace.ends.items() if ends[-1] < first), key=lambda m: -trace.ends[m][-1])
            done = [m for m in done if _batch(trace.outputs[m][-1], len(example))]
            if not done:
                raise UserError(f"{names[owner] or 'the model itself'} is trained, and nothing is computed before it")
            wanted = model(example)
            why = f"the part before {names[owner]} is used again later in the model"
            for module in done[:TRIES]:
                self.cut, self.name = module, names[module]
                self._left_out = _left_out(trace, trace.ends[module][-1])
                self.shape = tuple(trace.outputs[module][-1].shape[1:])
                if moves := _moves([m for part in self._left_out for m in part.modules()], names):
                    why = moves
                elif self._holds(example, wanted):
                    break
            else:
                raise UserError(why)

    def features(self, images: Tensor) -> Tensor:
        """The features at the cut, ``(N, *shape)``, of ``images (N, C, H, W)``; what comes after the cut is not computed."""
        calls = len(self._left_out[self.cut])
        seen = 0

        def reached(*args: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == calls:
                raise _Reached(args[2].detach())

        try:
            with watching([self.cut.register_forward_hook(reached)]):
                self.model(images)
        except _Reached as end:
            return end.features
        raise RuntimeError(f"{self.name} was not reached")

    def logits(self, features: Tensor) -> Tensor:
        """The logits of the rest of the model from ``features (N, *shape)``."""
        with self._without(features):
            images = features.new_zeros(1).expand(len(features), *self._image_shape).to(next(self.model.parameters()).dtype)
            return self.model(images)  # type: ignore[no-any-return]

    def _holds(self, example: Tensor, wanted: Any) -> bool:
        """Whether the logits are the same from the features alone."""
        self._image_shape = example.shape[1:]
        try:
            got = self.logits(self.features(example))
        except Exception:  # code between modules that does not take stand-ins
            return False
        pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(wanted), strict=True)
        return all(torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max())) for a, b in pairs)

    @contextlib.contextmanager
    def _without(self, features: Tensor) -> Iterator[None]:
        """A context in which nothing before the cut is computed: stand-ins take the modules' places, the features that of the last."""
        for module, outputs in self._left_out.items():
            module.__dict__["forward"] = _stand_in(outputs, features, last=module is self.cut)
        try:
            yield
        finally:
            for module in self._left_out:
                module.__dict__.pop("forward", None)


def _watch(model: nn.Module, example: Tensor) -> _Trace:
    trace = _Trace()

    def start(module: nn.Module, _: Any) -> None:
        trace.time += 1
        trace.starts.setdefault(module, []).append(trace.time)

    def end(module: nn.Module, _: Any, out: Any) -> None:
        trace.time += 1
        trace.ends.setdefault(module, []).append(trace.time)
        trace.outputs.setdefault(module, []).append(out)

    hooks = (h for m in model.modules() for h in (m.register_forward_pre_hook(start), m.register_forward_hook(end)))
    with watching(hooks):
        model(example)
    return trace


def _first_trained(model: nn.Module, trace: _Trace) -> tuple[int, nn.Module]:
    """The time at which the first module with a trained parameter of its own starts, and that module."""
    modules = dict(model.named_modules())
    first = (trace.time + 1, model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = name.rpartition(".")[0].partition(".lora.")[0]
            while modules[owner] not in trace.starts:  # read by the module it is in
                owner = owner.rpartition(".")[0]
            first = min(first, (trace.starts[modules[owner]][0], modules[owner]), key=lambda pair: pair[0])
    return first


def _left_out(trace: _Trace, until: int) -> dict[nn.Module, list[Any]]:
    """The largest modules that are done by the time ``until``, with their outputs."""
    done = [m for m, ends in trace.ends.items() if ends[-1] <= until]
    inner = {child for m in done for child in m.modules() if child is not m}
    return {m: trace.outputs[m] for m in done if m not in inner}


def _stand_in(outputs: list[Any], features: Tensor, last: bool) -> Callable[..., Any]:
    calls = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if last and calls == len(outputs):
            return features
        return pytree.tree_map(lambda t: _like(t, features), outputs[calls - 1])

    return forward


def _like(value: Any, features: Tensor) -> Any:
    """Zeros of the shape of ``value`` that take no memory, for as many images as there are features and on their device."""
    if not isinstance(value, Tensor):
        return value
    zero = torch.zeros(1, dtype=value.dtype, device=features.device)
    return zero.expand(len(features), *value.shape[1:]) if value.ndim else zero[0]


def _batch(out: Any, size: int) -> bool:
    return isinstance(out, Tensor) and out.ndim > 1 and len(out) == size and out.is_floating_point()


def _moves(modules: list[nn.Module], names: dict[nn.Module, str]) -> str:
    """Why the outputs of these modules are not the same each time in training, or ``""`` where they are."""
    for module in modules:
        if moves_statistics(module):
            return f"the statistics of {names[module]} move (model.freeze_bn=false)"
        random = isinstance(module, nn.modules.dropout._DropoutNd | StochasticDepth)
        chance = module.p if random else getattr(module, "drop_prob", None)
        if isinstance(chance, float) and chance > 0:
            return f"{names[module]} drops at random (model.drop_rate or model.drop_path_rate)"
    return ""
