"""Adapter folders: what training changed, saved, read back, and refused when it does not fit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from conftest import unsealed
from model_parts import backbone_info, part, tensor
from torch import nn

import visionlora as vl
from visionlora.lora.adalora import AdaLoraAdapter
from visionlora.lora.layer import LoraLayer
from visionlora.model.saving import trained_state

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES = ["timm/test_resnet", "timm/test_efficientnet", "timm/test_vit", "timm/test_byobnet", "torchvision/squeezenet1_1"]


def base(name: str = "timm/test_resnet", classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return vl.create_backbone(name, classes, pretrained=False, image_size=64).eval()


def trained(name: str = "timm/test_resnet", **config: Any) -> nn.Module:
    model = base(name)
    settings: dict[str, Any] = {"r": 3, "targets": "all"}
    vl.inject(model, vl.LoraConfig(**settings | config))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_fresh_model_with_the_adapter_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    model = trained(name)
    vl.save_adapter(model, tmp_path)
    fresh = vl.load_adapter(base(name), tmp_path).eval()
    assert torch.equal(fresh(X), model(X))


def test_holds_no_more_than_what_was_trained(tmp_path: Path) -> None:
    model = trained()
    vl.save_adapter(model, tmp_path)
    numbers = sum(t.numel() for t in safetensors.torch.load_file(tmp_path / "adapter_model.safetensors").values())
    assert numbers == sum(p.numel() for p in model.parameters() if p.requires_grad)
    card = json.loads((tmp_path / "visionlora.json").read_text())
    assert card["backbone"]["spec"]["name"] == "test_resnet"
    assert len(card["backbone"]["fingerprint"]) == 64


def test_head_is_saved_even_where_it_is_frozen(tmp_path: Path) -> None:
    model = trained(train_head=False)
    vl.save_adapter(model, tmp_path)
    other_head = base()
    nn.init.normal_(tensor(other_head, "fc.weight"))
    assert torch.equal(vl.load_adapter(other_head, tmp_path).eval()(X), model(X))


def test_merged_is_not_saved(tmp_path: Path) -> None:
    model = trained()
    vl.save_adapter(model, tmp_path)
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    with pytest.raises(vl.UserError, match="call unmerge"):
        vl.save_adapter(vl.merge(model), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before


def test_loaded_and_saved_again_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build: dict[str, Any] = {"num_classes": 3, "pretrained": False, "in_chans": 1}
    model = vl.create_backbone("timm/test_resnet", **build)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    vl.inject(model, vl.LoraConfig())
    vl.save_adapter(model, tmp_path / "one")
    again = vl.create_backbone("timm/test_resnet", **build)
    again.load_state_dict(state)
    backbone_info(again).fingerprint = backbone_info(model).fingerprint
    vl.save_adapter(vl.load_adapter(again, tmp_path / "one"), tmp_path / "two")
    one, two = (safetensors.torch.load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert "base_model.model.conv1.0.weight" in one
    norms = [module for module in again.train().modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_remove_leaves_nothing_of_ours() -> None:
    model = base()
    classes = [type(module) for module in model.modules()]
    vl.inject(model, vl.LoraConfig())
    assert [type(module) for module in vl.remove(model).modules()] == classes
    vl.inject(model, vl.LoraConfig())
    assert [type(module) for module in vl.merge(model, keep=False).modules()] == classes


def test_moving_statistics_are_part_of_it() -> None:
    model = base()
    vl.inject(model, vl.LoraConfig(method="full"), freeze_bn=False)
    assert "bn1.running_mean" in trained_state(model)
    model = base()
    vl.inject(model, vl.LoraConfig(method="full"))
    assert "bn1.running_mean" not in trained_state(model)
    assert "bn1.weight" in trained_state(model)


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = unsealed(folder) / "adapter_model.safetensors"
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path)

    return apply


def first(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(key for key in tensors if part in key)


def truncate(folder: Path) -> None:
    path = unsealed(folder) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "damaged"),
    "foreign bytes": (lambda f: (unsealed(f) / "adapter_model.safetensors").write_bytes(b"hello"), "damaged"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "not an adapter folder"),
    "replaced config": (lambda f: (f / "adapter_config.json").write_text("{"), "its sha256 differs"),
    "bad json": (lambda f: (unsealed(f) / "adapter_config.json").write_text("{"), "not valid JSON"),
    "lora_B missing": (edit(lambda t: t.pop(first(t, "lora_B"))), "lacks its lora_B"),
    "lora_A missing": (edit(lambda t: t.pop(first(t, "lora_A"))), "lacks its lora_A"),
    "head missing": (edit(lambda t: t.pop("base_model.model.fc.weight")), "lacks fc.weight"),
    "surplus key": (edit(lambda t: t.update({"base_model.model.extra.weight": torch.zeros(1)})), "no 'extra.weight'"),
    "surplus layer": (edit(lambda t: t.update({"base_model.model.x.lora_A.weight": torch.zeros(1, 1)})), "no linear or conv layer 'x'"),
    "wrong shape": (edit(lambda t: t.update({first(t, "lora_B"): torch.zeros(5, 3, 1, 1)})), "has shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_and_the_model_left_alone(case: str, tmp_path: Path) -> None:
    breaks, message = BROKEN[case]
    vl.save_adapter(trained(), tmp_path)
    breaks(tmp_path)
    fresh = base()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(vl.UserError, match=message):
        vl.load_adapter(fresh, tmp_path)
    assert not any(isinstance(module, LoraLayer) for module in fresh.modules())
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: base("timm/test_vit"), "is for timm/test_resnet, this model is timm/test_vit"),
        (lambda: base(seed=1), "trained on other weights"),
    ],
)
def test_another_backbone_is_refused(other: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    vl.save_adapter(trained(), tmp_path)
    with pytest.raises(vl.UserError, match=message):
        vl.load_adapter(other(), tmp_path)


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"method": "dora"},
    "pissa": {"init": "pissa"},
    "milora": {"init": "milora"},
    "olora": {"init": "olora"},
    "orthogonal": {"init": "orthogonal"},
    "lorafa": {"freeze_a": True},
    "adalora": {"method": "adalora"},
    "norms and biases": {"train_norm": True, "train_bias": True},
    "parts": {"targets": ["q", "v"]},
}


@pytest.mark.parametrize(
    ("name", "method"), [(n, m) for n in ("test_resnet", "test_vit") for m in METHODS if (n, m) != ("test_resnet", "parts")]
)
def test_every_method_is_saved_as_what_peft_can_load(name: str, method: str, tmp_path: Path) -> None:
    """Loaded into a fresh backbone by us, and by PEFT into timm's own, it gives the same logits."""
    torch.manual_seed(0)
    model = vl.create_backbone(f"timm/{name}", 3, pretrained=False)
    fresh = copy.deepcopy(model)
    plain = timm.create_model(name, num_classes=3)
    plain.load_state_dict(model.state_dict())
    vl.inject(model, vl.LoraConfig(**{"r": 3, "alpha": 5, **METHODS[method]}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, AdaLoraAdapter):
            module.alive[::2] = 0
    x = vl.example_batch(model)
    wanted = model.eval()(x)
    vl.save_adapter(model, tmp_path)
    assert torch.allclose(vl.load_adapter(fresh, tmp_path).eval()(x), wanted, rtol=1e-3, atol=1e-4)
    card = json.loads((tmp_path / "visionlora.json").read_text())
    if method == "parts":
        assert set(card["beyond_peft"].values()) == {"some rows of a fused weight"}
        return
    assert card["beyond_peft"] == {}
    peft = pytest.importorskip("peft")
    assert torch.allclose(peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()(x), wanted, rtol=1e-3, atol=1e-4)


def test_what_peft_cannot_represent_is_on_the_card(tmp_path: Path) -> None:
    model = vl.create_backbone("timm/test_convnext", 3, pretrained=False)
    report = vl.inject(model, vl.LoraConfig(r=2, targets="all"))
    vl.save_adapter(model, tmp_path)
    beyond = json.loads((tmp_path / "visionlora.json").read_text())["beyond_peft"]
    assert set(beyond) == {layer.name for layer in report.layers if "conv_dw" in layer.name}
    assert set(beyond.values()) == {"a grouped convolution"}


INTO: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # how the file was made, what the model has already
    ({"r": 3, "alpha": 32}, {"r": 3, "alpha": 2}),
    ({"r": 3}, {"r": 3, "method": "dora"}),
    ({"r": 3}, {"r": 3, "init": "pissa"}),
    ({"r": 3}, {"r": 3, "method": "adalora"}),
    ({"r": 3, "method": "dora"}, {"r": 3}),
    ({"r": 3, "init": "pissa"}, {"r": 3, "init": "pissa"}),
    ({"r": 3, "targets": "layer1"}, {"r": 2, "targets": "all"}),
    ({"r": 3}, {"r": 3}),
]


@pytest.mark.parametrize(("made", "present"), INTO)
def test_loading_into_an_adapted_model_gives_what_the_file_says(made: dict[str, Any], present: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**made)
    vl.save_adapter(model, tmp_path)
    other = base()
    vl.inject(other, vl.LoraConfig(**present))
    assert torch.allclose(vl.load_adapter(other, tmp_path).eval()(X), model.eval()(X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_alpha": "x"}, "is damaged"),
        ({"alpha_pattern": {"(": 3}}, "not a regular expression"),
        ({"alpha_pattern": [1]}, "is damaged"),
        ({"lora_bias": True}, "lora_bias=true cannot be read"),
    ],
)
def test_damaged_settings_are_told(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    vl.save_adapter(trained(), tmp_path)
    path = unsealed(tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(vl.UserError, match=message):
        vl.load_adapter(base(), tmp_path)


def test_without_its_settings_the_strength_is_unknown(tmp_path: Path) -> None:
    vl.save_adapter(trained(), tmp_path)
    (unsealed(tmp_path) / "adapter_config.json").unlink()
    with pytest.raises(vl.UserError, match=r"has no adapter_config\.json"):
        vl.load_adapter(base(), tmp_path)


def test_tied_layers_are_saved(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = base("timm/test_vit")
        part(model, "blocks.1.attn.qkv", nn.Linear).weight = part(model, "blocks.0.attn.qkv", nn.Linear).weight
        return model

    model = tied()
    vl.inject(model, vl.LoraConfig(targets={"blocks.0.attn.qkv": 2, "blocks.1.attn.qkv.q": 2}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    vl.save_adapter(model, tmp_path)
    assert torch.allclose(vl.load_adapter(tied(), tmp_path).eval()(X), model.eval()(X), rtol=1e-3, atol=1e-4)


def test_no_adapter_fits_a_base_it_was_merged_into(tmp_path: Path) -> None:
    model = trained()
    vl.save_adapter(model, tmp_path)
    vl.merge(model, keep=False)
    with pytest.raises(vl.UserError, match="trained on other weights"):
        vl.load_adapter(model, tmp_path)


def elsewhere(kind: str, seed: int) -> nn.Module:
    """A model that ``create_backbone`` has not made."""
    torch.manual_seed(seed)
    if kind == "timm":
        model: nn.Module = timm.create_model("test_resnet", num_classes=3)
        return model
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("config", [{}, {"train_norm": True}, {"method": "none"}], ids=["lora", "norms too", "probe"])
@pytest.mark.parametrize("kind", ["timm", "own"])
def test_a_model_from_elsewhere_is_known_by_its_weights(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    model = elsewhere(kind, 0)
    vl.inject(model, vl.LoraConfig(r=2, targets="all", **config), X)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    vl.fold(model, X)
    vl.save_adapter(model, tmp_path)
    fresh = vl.load_adapter(elsewhere(kind, 0), tmp_path)
    assert torch.allclose(fresh.eval()(X), model.eval()(X), rtol=1e-4, atol=1e-5)
    vl.load_adapter(fresh, tmp_path, name="second")  # the first one's norms stand in it
    for wrong in (elsewhere(kind, 1), one_weight_changed(elsewhere(kind, 0))):
        state = {key: value.clone() for key, value in wrong.state_dict().items()}
        with pytest.raises(vl.UserError, match=r"trained on other weights \(fingerprint .*load the weights it was trained on"):
            vl.load_adapter(wrong, tmp_path)
        assert list(wrong.state_dict()) == list(state)
        assert all(torch.equal(value, state[key]) for key, value in wrong.state_dict().items())
    with pytest.warns(UserWarning, match="it cannot be told whether"):
        vl.load_adapter(elsewhere(kind, 0).bfloat16(), tmp_path)
    (tmp_path / "visionlora.json").unlink()  # as PEFT has it: nothing says for which weights
    vl.load_adapter(elsewhere(kind, 1), tmp_path)


def one_weight_changed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    return model


def test_an_adapter_of_a_known_backbone_knows_the_librarys_own_model(tmp_path: Path) -> None:
    model = trained()
    vl.save_adapter(model, tmp_path)
    plain = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(vl.UserError, match="trained on other weights"):
        vl.load_adapter(plain, tmp_path)
    plain.load_state_dict(base().state_dict())
    assert torch.allclose(vl.load_adapter(plain, tmp_path).eval()(X), model.eval()(X), rtol=1e-4, atol=1e-5)
