"""From a budget to ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import visionlora as vl
from visionlora import UserError
from visionlora.lora.targets import candidates, most
from visionlora.training.allocation import distribution_shifts, fitted_head, gradient_spectra

Batches = list[tuple[Tensor, Tensor]]


def backbone(name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(0)
    model = vl.create_backbone(f"timm/{name}", 4, pretrained=False)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model


def pictures(shift: float = 0.0, size: int = 160) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, size, size, generator=generator) + shift, torch.arange(8) % 4) for _ in range(2)]


@pytest.mark.parametrize("allocate", ["uniform", "structure", "importance", "shift"])
@pytest.mark.parametrize("budget", ["2%", 9000])
def test_a_budget_is_spent_and_kept(allocate: str, budget: Any) -> None:
    model = backbone()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    config = vl.LoraConfig(targets="all", budget=budget, allocate=allocate)
    ranks = vl.allocate(model, config, pictures())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    total = sum(p.numel() for p in model.parameters())
    report = vl.inject(model, config, ranks=ranks)
    limit = 9000 if budget == 9000 else 0.02 * total
    assert 0.95 * limit < report.adapter_parameters <= limit
    assert {layer.name: layer.r for layer in report.layers} == {name: rank.r for name, rank in ranks.items()}
    assert {layer.alpha / layer.r for layer in report.layers} == {2.0}
    known = candidates(model, ("fc",))
    assert all(rank.r <= most(known[name]) for name, rank in ranks.items())


def test_uniform_is_one_rank_for_all_but_the_rest() -> None:
    model = backbone()
    ranks = {rank.r for rank in vl.allocate(model, vl.LoraConfig(budget="4%")).values()}
    assert max(ranks) - min(ranks) <= 1


def test_importance_is_the_spectrum_of_the_gradient() -> None:
    """Against autograd by hand: the largest is the gradient's spectral norm, all together its Frobenius norm."""
    model = backbone().double().eval()
    batches = [(x.double(), y) for x, y in pictures()]
    slots = [slot for slot in candidates(model, ("fc",)).values() if not slot.part][3:5]
    head = {key: value.clone() for key, value in model.get_submodule("fc").state_dict().items()}
    spectra = gradient_spectra(model, slots, "fc", batches, nn.functional.cross_entropy)
    assert all(torch.equal(value, head[key]) for key, value in model.get_submodule("fc").state_dict().items())
    with fitted_head(model, "fc", batches, nn.functional.cross_entropy):
        losses = [nn.functional.cross_entropy(model(x), y) for x, y in batches]
        weights = [slot.raw for slot in slots]
        grads = [a + b for a, b in zip(*(torch.autograd.grad(loss, weights) for loss in losses), strict=True)]
    for slot, grad in zip(slots, grads, strict=True):
        matrix, spectrum = grad.flatten(1), torch.tensor(spectra[slot.name]).double()
        assert len(spectrum) == min(slot.shape)
        assert torch.allclose(spectrum.square().sum(), matrix.square().sum(), rtol=1e-4)
        assert torch.allclose(spectrum[0], torch.linalg.matrix_norm(matrix, 2), rtol=1e-4)


def test_shift_finds_the_layer_whose_statistics_moved() -> None:
    model = backbone().train()
    same, moved = pictures(), pictures(shift=3.0)
    with torch.no_grad():
        for _ in range(60):
            model(torch.cat([x for x, _ in same]))
    slots = [slot for slot in candidates(model, ("fc",)).values() if not slot.part]
    before, after = (distribution_shifts(model.eval(), slots, batches) for batches in (same, moved))
    assert max(before.values()) < 0.1
    assert after["conv1.0"] > 10 * before["conv1.0"]


def test_shift_without_batch_norm_needs_a_reference() -> None:
    model = backbone("test_vit")
    config = vl.LoraConfig(budget="2%", allocate="shift")
    with pytest.raises(UserError, match=r"lora\.reference=DIR"):
        vl.allocate(model, config, pictures())
    slots = [slot for slot in candidates(model, ("head",)).values() if not slot.part]
    shifts = distribution_shifts(model, slots, pictures(shift=2.0), pictures())
    same = distribution_shifts(model, slots, pictures(), pictures())
    assert set(shifts) == set(same) == {slot.name for slot in slots}
    assert max(same.values()) < 1e-6
    assert min(shifts.values()) > 1e-3
    assert shifts["patch_embed.proj"] > 0.1
    assert vl.allocate(model, config, pictures(shift=2.0), pictures())


def test_dora_spends_no_more_than_its_budget() -> None:
    model = backbone()
    config = vl.LoraConfig(budget=9000, method="dora")
    assert 8000 < vl.inject(model, config, ranks=vl.allocate(model, config)).adapter_parameters <= 9000


@pytest.mark.parametrize("allocate", ["importance", "shift"])
def test_looking_needs_pictures_and_a_plain_model(allocate: str) -> None:
    model, config = backbone(), vl.LoraConfig(budget=9000, allocate=allocate)
    with pytest.raises(UserError, match="looks at training images"):
        vl.allocate(model, config)
    vl.inject(model, vl.LoraConfig())
    with pytest.raises(UserError, match="wants the plain model"):
        vl.allocate(model, config, pictures())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"budget": "10"}, "do not pay for a single rank"),
    ({"budget": "lots"}, "neither a number of parameters nor a share"),
    ({"budget": "-1%"}, "must be above 0"),
    ({"budget": "1%", "targets": {"layer1": 3}}, r"lora.targets cannot name them as well"),
    ({"budget": "1%", "method": "adalora"}, "has a budget of its own"),
    ({"allocate": "importance"}, "needs a budget"),
    ({"budget": "1%", "allocate": "importanc"}, "Did you mean 'importance'"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_budgets_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vl.allocate(backbone(), vl.LoraConfig(**values), pictures())


def test_tied_layers_are_paid_for_once() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, 3))
    model[1].weight = model[0].weight
    config = vl.LoraConfig(budget=300)
    report = vl.inject(model, config, ranks=vl.allocate(model, config), example=torch.randn(2, 30))
    assert report.adapter_parameters == 300
