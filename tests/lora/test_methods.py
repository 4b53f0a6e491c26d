"""Every method against an outside reference in float64: PEFT where it has the method, its formula in plain torch where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_parts import adapter_of, adapters_of, gradient, part, stored, tensor
from torch import Tensor, nn

from visionlora import UserError
from visionlora.lora import LoraConfig, inject, merge
from visionlora.lora.adalora import AdaLoraAdapter, RankAllocator
from visionlora.lora.adapter import Adapter
from visionlora.lora.adaptive_config import AdaptiveConfig
from visionlora.lora.dora import DoraAdapter
from visionlora.lora.regularization import regularization
from visionlora.runs.config import OptimConfig
from visionlora.training.optimizer import parameter_groups

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(9, 8), (3, 9)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 9, 9)),
}


def first_adapter(model: nn.Module, name: str = "default") -> Any:
    """An adapter of the model's first layer, with the parameters that its method has."""
    return adapter_of(model, name=name)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return torch.allclose(a, b.reshape(a.shape), rtol=tolerance, atol=tolerance)


def same_output_and_gradients(ours: Any, theirs: Any, shape: tuple[int, ...], pairs: list[tuple[Tensor, Tensor]], tol: float) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    out, wanted = ours(xs[0]), theirs(xs[1])
    assert close(out, wanted, tol)
    weights = torch.randn_like(out)
    grads = torch.autograd.grad((out * weights).sum(), [xs[0], *(p for p, _ in pairs)])
    references = torch.autograd.grad((wanted * weights).sum(), [xs[1], *(p for _, p in pairs)])
    for grad, reference in zip(grads, references, strict=True):
        assert close(grad, reference, tol)
        assert grad.any()


@pytest.mark.parametrize("layer", LAYERS)
def test_dora_is_pefts(layer: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    build, shape = LAYERS[layer]
    ours, theirs = nn.Sequential(build()).double(), nn.Sequential(build()).double()
    theirs.load_state_dict(ours.state_dict())
    inject(ours, LoraConfig(r=3, alpha=5, method="dora", targets="all"))
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=["0"])).double()
    there, mine = adapted.base_model.model[0], first_adapter(ours)
    magnitude = there.lora_magnitude_vector["default"].weight
    assert close(mine.magnitude, magnitude)
    for parameter in (mine.lora_B, mine.magnitude):
        parameter.data += torch.rand_like(parameter)
    for parameter, other in ((mine.lora_A, there.lora_A), (mine.lora_B, there.lora_B)):
        other["default"].weight.data = parameter.detach().reshape(other["default"].weight.shape).clone()
    magnitude.data = mine.magnitude.detach().reshape(magnitude.shape).clone()
    pairs = [(mine.lora_A, there.lora_A["default"].weight), (mine.lora_B, there.lora_B["default"].weight), (mine.magnitude, magnitude)]
    same_output_and_gradients(ours, adapted, shape, pairs, 1e-10)
    merge(ours)
    assert close(tensor(ours, "0.weight"), adapted.merge_and_unload()[0].weight)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_starts_from_the_weight_are_pefts(init: str) -> None:
    """PEFT takes the start out of the base; here it stays in, and the update counts from it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    ours, theirs = nn.Sequential(nn.Linear(12, 10)), nn.Sequential(nn.Linear(12, 10))
    theirs.load_state_dict(ours.state_dict())
    base = tensor(ours, "0.weight").detach().clone()
    inject(ours, LoraConfig(r=3, alpha=6, init=init, targets="all"))
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=6, init_lora_weights=init, target_modules=["0"]))
    there, mine = adapted.base_model.model[0], first_adapter(ours)
    their_a, their_b = there.lora_A["default"].weight, there.lora_B["default"].weight
    assert torch.equal(stored(ours[0]), base)
    assert close(mine.lora_B @ mine.lora_A, their_b @ their_a, 1e-5)
    assert close(tensor(ours, "0.weight"), base, 1e-6)
    ours.double(), adapted.double()
    for own, other in ((mine.lora_A, their_a), (mine.lora_B, their_b)):  # signs of singular vectors are arbitrary
        other.data = own.detach() + 0.1 * torch.randn_like(own)
        own.data = other.detach().clone()
    same_output_and_gradients(ours, adapted, (3, 12), [(mine.lora_A, their_a), (mine.lora_B, their_b)], 1e-5)


def triplets(w: Tensor, which: slice) -> Tensor:
    u, s, v = torch.linalg.svd(w.flatten(1), full_matrices=False)
    out: Tensor = u[:, which] @ torch.diag(s[which]) @ v[which]
    return out


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("init", "which"), [("pissa", slice(0, 3)), ("milora", slice(-3, None))])
def test_svd_starts_are_singular_triplets(layer: str, init: str, which: slice) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[layer][0]()).double()
    w = tensor(model, "0.weight").detach().clone()
    inject(model, LoraConfig(r=3, alpha=5, init=init, targets="all"))
    adapter = first_adapter(model)
    assert close(adapter.scaling * adapter.lora_B @ adapter.lora_A, triplets(w, which))
    assert torch.equal(stored(model[0]), w)
    adapter.lora_B.data.zero_()  # the update is then what the start was, taken away
    assert close(tensor(model, "0.weight").flatten(1), w.flatten(1) - triplets(w, which))


def test_orthogonal_start() -> None:
    torch.manual_seed(0)
    for r in (1, 4, 5):
        model = nn.Sequential(nn.Linear(20, 30)).double()
        inject(model, LoraConfig(r=r, init="orthogonal", targets="all"))
        adapter = first_adapter(model)
        assert close(adapter.lora_B @ adapter.lora_A, torch.zeros(30, 20).double(), 1e-12)
        assert bool(adapter.lora_B.any()) == (r > 1)


@pytest.mark.parametrize("layer", LAYERS)
def test_adalora_is_its_formula(layer: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[layer]
    model = nn.Sequential(build()).double()
    inject(model, LoraConfig(r=2, alpha=5, method="adalora", targets="all"))
    adapter = first_adapter(model)
    eye = torch.eye(3).double()
    assert close(adapter.lora_B.T @ adapter.lora_B, eye)
    assert close(adapter.lora_A @ adapter.lora_A.T, eye)
    adapter.lora_E.data.normal_()
    adapter.alive[1] = 0
    w, bias = stored(model[0]).detach(), tensor(model, "0.bias")
    p, lam, q = (t.detach().clone().requires_grad_() for t in (adapter.lora_B, adapter.lora_E, adapter.lora_A))

    def reference(x: Tensor) -> Tensor:
        mask = torch.tensor([1.0, 0.0, 1.0]).double()
        weight = w + (2.5 * len(p) ** 0.5 * p @ torch.diag(lam * mask) @ q).view(w.shape)
        return nn.functional.linear(x, weight, bias) if layer == "linear" else nn.functional.conv2d(x, weight, bias, 2, 1)

    pairs = [(adapter.lora_B, p), (adapter.lora_E, lam), (adapter.lora_A, q)]
    same_output_and_gradients(model, reference, shape, pairs, 1e-10)
    assert len(adapter.to_lora()["lora_A"]) == 2


def test_lora_fa_trains_b_alone_and_keeps_no_input() -> None:
    kept: dict[bool, list[tuple[int, ...]]] = {}
    for freeze in (False, True):
        model = nn.Sequential(nn.Linear(64, 32))
        inject(model, LoraConfig(r=2, targets="all", freeze_a=freeze))
        shapes = kept[freeze] = []

        def note(t: Tensor, shapes: list[tuple[int, ...]] = shapes) -> Tensor:
            shapes.append(tuple(t.shape))
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            model(torch.randn(5, 64)).sum()
        assert first_adapter(model).lora_A.requires_grad != freeze
        assert first_adapter(model).lora_B.requires_grad
    assert (5, 64) in kept[False]
    assert (5, 64) not in kept[True]


def test_rates_and_decay_by_group() -> None:
    model = nn.ModuleDict({"body": nn.Linear(20, 20), "head": nn.Linear(20, 3)})
    inject(model, LoraConfig(r=2, targets="all", method="dora"), head=["head"])
    config = OptimConfig(lr=1e-3, head_lr=5e-3, weight_decay=0.1)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, ["head"], config, lr_ratio=16) for p in g["params"]}
    dora, head = adapter_of(model, "body"), part(model, "head", nn.Linear)
    assert isinstance(dora, DoraAdapter)
    wanted: dict[Tensor, tuple[float, float]] = {dora.lora_A: (1e-3, 0.1), dora.lora_B: (16e-3, 0.1), dora.magnitude: (1e-3, 0.0)}
    wanted |= {head.weight: (5e-3, 0.1), head.bias: (5e-3, 0.0)}
    assert found == {id(p): values for p, values in wanted.items()}


def test_a_start_from_the_weight_is_not_decayed() -> None:
    """Decay would pull the singular triplets out of the weight."""
    model = nn.Sequential(nn.Linear(20, 20))
    inject(model, LoraConfig(r=2, targets="all", init="pissa"))
    assert {g["weight_decay"] for g in parameter_groups(model, [], OptimConfig(weight_decay=0.1))} == {0.0}
    assert regularization(model, LoraConfig(delta_decay=1.0)) == 0


def test_decay_of_the_update() -> None:
    model = nn.Sequential(nn.Linear(6, 6)).double()
    inject(model, LoraConfig(r=2, targets="all"))
    adapter = first_adapter(model)
    nn.init.normal_(adapter.lora_B)
    penalty = regularization(model, LoraConfig(delta_decay=0.5))
    assert penalty is not None
    assert close(penalty, 0.25 * (adapter.lora_A.square().sum() + adapter.lora_B.square().sum()))
    assert 2 * torch.linalg.matrix_norm(adapter.lora_B @ adapter.lora_A, "nuc") <= 4 * penalty
    assert regularization(model, LoraConfig()) is None


# ------------------------------------------------------------------------------------------------ ranks that move


def adaptive(steps: int = 40, **schedule: Any) -> tuple[nn.Module, RankAllocator]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 1), nn.Flatten(), nn.Linear(32 * 16, 5))
    config = LoraConfig(r=4, method="adalora", targets="all", adaptive=AdaptiveConfig(**schedule))
    inject(model, config, head=["4"])
    return model, RankAllocator(model, config.adaptive, steps)


def test_budget_falls_with_the_cube_of_the_time_left() -> None:
    _, allocator = adaptive(100, warmup=0.2, final=0.3)
    costs = (16 + 27) + (32 + 144) + (32 + 32)
    begin, end = 6 * costs, 4 * costs
    assert [allocator.budget_at(t) for t in (0, 20, 70, 100)] == [begin, begin, end, end]
    assert allocator.budget_at(45) == round(end + (begin - end) * 0.5**3)


def train(model: nn.Module, allocator: RankAllocator, steps: range) -> None:
    # As in a run: the factors are trained, the input of a step depends on its number alone.
    parameters = [p for p in model.parameters() if p.requires_grad]
    for step in steps:
        torch.manual_seed(step)
        x, y = torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
        for parameter in parameters:
            parameter.grad = None
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(0.1 * gradient(parameter))
        allocator.step(step)


def test_ranks_end_within_the_budget_and_differ() -> None:
    model, allocator = adaptive()
    train(model, allocator, range(1, 24))
    for key in ("lora_A", "lora_B", "lora_E"):
        allocator.sensitivity["2.weight.default"].mean[key] *= 1e4  # the last layer matters most
    train(model, allocator, range(24, 41))
    adapters = list(allocator.adapters.values())
    assert 0.9 * allocator.budget < sum(a.parameter_count() for a in adapters) <= allocator.budget
    ranks = [len(a.to_lora()["lora_A"]) for a in adapters]
    assert ranks[2] == 6 > min(ranks)
    for adapter in adapters:
        lora = adapter.to_lora()
        assert torch.allclose(adapter.scaling * lora["lora_B"] @ lora["lora_A"], adapter.delta(), atol=1e-6)


def test_ranks_stand_still_at_the_end() -> None:
    model, allocator = adaptive(final=0.5)
    train(model, allocator, range(1, 21))
    settled = [a.alive.clone() for a in allocator.adapters.values()]
    assert not all(bool(alive.all()) for alive in settled)
    train(model, allocator, range(21, 41))
    assert all(torch.equal(a.alive, alive) for a, alive in zip(allocator.adapters.values(), settled, strict=True))


def test_allocation_goes_on_after_a_resume() -> None:
    (model, allocator), (other, second) = adaptive(), adaptive()
    train(model, allocator, range(1, 41))
    train(other, second, range(1, 18))
    third = RankAllocator(other, second.config, second.steps)
    third.load_state_dict(second.state_dict())
    train(other, third, range(18, 41))
    for name, adapter in allocator.adapters.items():
        assert torch.equal(adapter.delta(), third.adapters[name].delta())


def test_orthogonality_is_asked_for() -> None:
    model, _ = adaptive()
    config = LoraConfig(method="adalora")
    start = regularization(model, config)
    assert start is not None
    assert start < 1e-5
    for adapter in model.modules():
        if isinstance(adapter, AdaLoraAdapter):
            nn.init.normal_(adapter.lora_A)
    spread = regularization(model, config)
    assert spread is not None
    assert spread > 0.1


# ------------------------------------------------------------------------------------------------ what does not go together


def test_dora_is_not_summed() -> None:
    model = nn.Sequential(nn.Linear(20, 20))
    inject(model, LoraConfig(r=2, targets="all", method="dora"), name="one")
    inject(model, LoraConfig(r=2, targets="all"), name="two")
    both = adapters_of(model)
    for weights in ({"one": 1, "two": 1}, {"one": 0.5}):
        with pytest.raises(UserError, match="'one' is a DoRA"):
            both.activate(weights)
    both.activate({"two": 0.5})
    assert [(type(a), w) for a, w in both.active_adapters()] == [(Adapter, 0.5)]
