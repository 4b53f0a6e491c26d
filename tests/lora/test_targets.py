"""Which layers get an adapter, of which rank, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from visionlora import UserError
from visionlora.lora import LoraConfig, inject
from visionlora.lora.layer import LoraLayer, lora_layers
from visionlora.lora.targets import select


def net() -> nn.Module:
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "blocks": nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8, 16)),
            "norm": nn.BatchNorm2d(8),
            "head": nn.Linear(16, 5),
        }
    )


CHOSEN: list[tuple[Any, list[str]]] = [
    ("auto", ["stem", "blocks.1", "blocks.2"]),
    ("all", ["stem", "blocks.0", "blocks.1", "blocks.2"]),
    ("blocks", ["blocks.0", "blocks.1", "blocks.2"]),
    ("blocks.*", ["blocks.0", "blocks.1", "blocks.2"]),
    ("2", ["blocks.2"]),
    (["stem", "blocks.[12]"], ["stem", "blocks.1", "blocks.2"]),
    ({"stem": 2}, ["stem"]),
]


@pytest.mark.parametrize(("targets", "names"), CHOSEN)
def test_patterns(targets: Any, names: list[str]) -> None:
    model = net()
    inject(model, LoraConfig(targets=targets), head=["head"])
    assert [name for name, _ in lora_layers(model)] == names
    assert all(p.requires_grad for p in model.get_submodule("head").parameters())
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora" not in name and not name.startswith("head"))


def test_a_pattern_may_name_a_block_in_the_middle() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    inject(model, LoraConfig(targets="mlp", exclude=["blocks.0.mlp.fc2"]), head=["head"])
    names = [name for name, _ in lora_layers(model)]
    assert names == [
        name for name, m in model.named_modules() if ".mlp." in name and isinstance(m, nn.Linear) and name != "blocks.0.mlp.fc2"
    ]


def test_exclude_and_train_head() -> None:
    model = net()
    inject(model, LoraConfig(targets="all", exclude=["blocks"], train_head=False), head=["head"])
    assert [name for name, _ in lora_layers(model)] == ["stem"]
    assert not any(p.requires_grad for p in model.get_submodule("head").parameters())


def test_ranks_and_alphas() -> None:
    model = net()
    report = inject(model, LoraConfig(r=5, targets={"all": 2, "stem": {"r": 3, "alpha": 12}, "blocks.2": {"alpha": 4}}), head=["head"])
    found = {layer.name: (layer.r, layer.alpha) for layer in report.layers}
    assert found == {"stem": (3, 12), "blocks.0": (2, 4), "blocks.1": (2, 4), "blocks.2": (5, 4)}


@pytest.mark.parametrize("rslora", [False, True])
def test_capping_is_reported_and_keeps_the_scaling(rslora: bool) -> None:
    model = net()
    config = LoraConfig(r=16, targets="all", use_rslora=rslora)
    report = inject(model, config, head=["head"])
    assert {layer.name: layer.r for layer in report.capped} == {"stem": 6, "blocks.0": 4, "blocks.1": 6, "blocks.2": 5}
    for _, layer in lora_layers(model):
        assert layer.adapter_sets["weight"]["default"].scaling == pytest.approx(32 / 16**0.5 if rslora else 2.0)


def test_report_counts() -> None:
    model = net()
    report = inject(model, LoraConfig(r=2), head=["head"])
    assert report.adapter_parameters == 2 * (8 + 27) + 2 * (8 + 36) + 2 * (16 + 8)
    assert report.trainable == report.adapter_parameters + 16 * 5 + 5
    assert report.total == sum(p.numel() for p in model.parameters())
    assert "stem" in str(report)


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))


def parametrised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)))


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (net, {"targets": "blok"}, "'blok' matches no linear or conv layer.*Did you mean 'blocks'"),
    (net, {"targets": ["stem", "nothing"]}, "'nothing' matches no"),
    (net, {"targets": "head"}, "'head' matches no"),
    (net, {"targets": {"stem": 9}}, "stem cannot have rank 9; above 6 an update of its 8 × 27 weight has more parameters"),
    (net, {"exclude": ["sten"]}, "'sten' matches no layer.*Did you mean 'stem'"),
    (net, {"targets": "stem", "exclude": ["stem"]}, "leaves no layer"),
    (weight_normed, {"targets": "all"}, "layer 0"),
    (parametrised, {"targets": "all"}, "layer 0 is parametrised"),
    (lambda: nn.Sequential(nn.LazyLinear(3)), {"targets": "all"}, "layer 0 is lazy"),
]


@pytest.mark.parametrize(("build", "config", "message"), REFUSED)
def test_refused_before_anything_is_changed(build: Any, config: dict[str, Any], message: str) -> None:
    model = build()
    with pytest.raises(UserError, match=message):
        inject(model, LoraConfig(**config), head=["head"] if build is net else [])
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"r": 0}, "lora.r=0 is not a rank"),
    ({"r": 2.5}, "lora.r=2.5 is not a rank"),
    ({"targets": {"a": 0}}, "a.*=0 is not a rank"),
    ({"targets": {"a": {"rank": 2}}}, "unknown key 'rank'"),
    ({"targets": []}, "lora.targets"),
    ({"targets": 3}, "lora.targets=3"),
    ({"alpha": -1}, "lora.alpha=-1"),
    ({"dropout": 1.0}, "lora.dropout=1.0"),
    ({"method": "lore"}, "Did you mean 'lora'"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_config_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoraConfig(**values)


class Dead(nn.Module):
    """Has a layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.used(x)
        return out


def test_audit_names_a_dead_adapter_and_leaves_the_model_alone() -> None:
    model, x = Dead(), torch.randn(2, 4)
    with pytest.raises(UserError, match=r"unused.* would never learn"):
        inject(model, LoraConfig(targets="all"), example=x)
    assert type(model.used) is nn.Linear
    assert all(p.requires_grad for p in model.parameters())
    inject(model, LoraConfig(targets="all", exclude=["unused"]), example=x)


def test_audit_leaves_no_trace() -> None:
    model = timm.create_model("test_resnet", num_classes=3).train()
    x = torch.randn(2, 3, 32, 32)
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    torch.manual_seed(0)
    inject(model, LoraConfig())
    without = torch.rand(3)
    model = timm.create_model("test_resnet", num_classes=3).train()
    model.load_state_dict(buffers, strict=False)
    torch.manual_seed(0)
    report = inject(model, LoraConfig(), example=x)
    assert torch.equal(torch.rand(3), without)  # the random state is as it would be without the audit
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    # Before a norm that starts at zero, and nowhere else.
    assert {name.rpartition(".conv")[0] for name in report.zero_gradient} == {f"layer{n}.0" for n in (1, 2, 3, 4)}


def test_second_adapter_on_other_layers_is_audited_alone() -> None:
    x = torch.randn(2, 3, 32, 32)
    model = timm.create_model("test_resnet", num_classes=3)
    inject(model, LoraConfig(targets="layer1"), example=x)
    inject(model, LoraConfig(targets="layer2"), example=x, name="two")
    assert {name for s in lora_layers(model) for name in s[1].adapter_sets["weight"]} == {"default", "two"}
    dead, y = Dead(), torch.randn(2, 4)
    inject(dead, LoraConfig(targets="used"), example=y)
    with pytest.raises(UserError, match="would never learn"):
        inject(dead, LoraConfig(targets="unused"), example=y, name="two")
    assert [name for name, _ in lora_layers(dead)] == ["used"]
    assert {name for name, p in dead.named_parameters() if p.requires_grad} == {f"used.lora.weight.default.lora_{f}" for f in "AB"}


def test_layers_that_share_a_weight_are_chosen_together() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    inject(model, LoraConfig(targets="a"))
    assert [name for name, _ in lora_layers(model)] == ["a", "b"]
    table = nn.ModuleDict({"a": nn.Linear(4, 4), "words": nn.Embedding(4, 4)})
    table["words"].weight = table["a"].weight
    with pytest.raises(UserError, match="shares its weight with words"):
        inject(table, LoraConfig(targets="a"))


def test_second_injection_needs_another_name() -> None:
    model = net()
    inject(model, LoraConfig(), head=["head"])
    with pytest.raises(UserError, match="has an adapter 'default' already"):
        inject(model, LoraConfig(), head=["head"])


@pytest.mark.parametrize("name", ["", "a.b", "a:b", "items", "train", "active"])
def test_names_an_adapter_cannot_have(name: str) -> None:
    model = net()
    with pytest.raises(UserError, match="cannot be the name of an adapter"):
        inject(model, LoraConfig(), head=["head"], name=name)
    assert all(p.requires_grad for p in model.parameters())


def test_norms_and_biases_on_the_side() -> None:
    model = net()
    inject(model, LoraConfig(train_norm=True, train_bias=True, train_head=False), head=["head"])
    beside = {name for name, p in model.named_parameters() if p.requires_grad and ".lora." not in name}
    assert beside == {"stem.bias", *(f"blocks.{i}.bias" for i in range(3)), "norm.weight", "norm.bias"}


def test_dora_pays_for_its_magnitudes() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    report = inject(model, LoraConfig(r=99, method="dora", targets="all"))
    assert report.adapter_parameters <= 256


def test_one_pattern_to_exclude_needs_no_list() -> None:
    assert [t.slot.name for t in select(net(), LoraConfig(targets="all", exclude="blocks"), ["head"])] == ["stem"]
    with pytest.raises(UserError, match=r"lora\.exclude=3 must be a pattern"):
        LoraConfig(exclude=3)
