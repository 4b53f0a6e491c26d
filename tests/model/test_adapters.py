"""Several adapters on one backbone."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import unsealed
from model_parts import adapter_of, backbone_info, features, stored, tensor
from torch import Tensor, nn

import visionlora as vl
from visionlora import UserError

CLASSES = {"cats": 3, "dogs": 3, "birds": 5}


def plain(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return vl.create_backbone("timm/test_resnet", num_classes, pretrained=False).eval()


def spread(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Tensor], Tensor]:
    """``(folders, logits of each task's own model, images)``; birds also trains the norms."""
    folders, wanted = {}, {}
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for seed, (name, classes) in enumerate(CLASSES.items()):
        model = plain(classes)
        base = plain(3)  # the same frozen weights under another head
        model.load_state_dict({k: v for k, v in base.state_dict().items() if not k.startswith("fc.")}, strict=False)
        backbone_info(model).fingerprint = backbone_info(base).fingerprint
        backbone_info(model).classes = [f"{name}{i}" for i in range(classes)]
        vl.inject(model, vl.LoraConfig(r=2 + seed, train_norm=name == "birds", method="dora" if name == "dogs" else "lora"))
        spread(model, seed + 1)
        folders[name] = tmp_path_factory.mktemp(name)
        vl.save_adapter(model, folders[name])
        wanted[name] = model.eval()(images).detach()
    return folders, wanted, images


def loaded(folders: dict[str, Path]) -> nn.Module:
    model = plain()
    for name, folder in folders.items():
        vl.load_adapter(model, folder, name=name)
    return model.eval()


def test_each_task_gives_its_own_logits(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model = loaded(folders)
    assert vl.adapter_names(model) == list(CLASSES)
    for name in ("birds", "cats", "dogs", "birds", "dogs", "cats"):
        vl.activate(model, name)
        assert torch.allclose(model(images), wanted[name], atol=1e-5)
        assert backbone_info(model).classes == [f"{name}{i}" for i in range(CLASSES[name])]
        assert backbone_info(model).spec.num_classes == CLASSES[name]


def test_a_batch_in_which_each_image_names_its_adapter(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model = loaded(folders)
    vl.activate(model, "dogs")
    with vl.disabled(model):
        frozen = model(images)
    out = vl.forward_mixed(model, images, ["cats", "birds", None, "cats"])
    for i, name in enumerate(["cats", "birds", None, "cats"]):
        reference = wanted[name][i] if name else frozen[i]
        assert out[i].shape == reference.shape
        if name:
            assert torch.allclose(out[i], reference, atol=1e-5)
    assert torch.allclose(model(images), wanted["dogs"], atol=1e-5)
    with pytest.raises(UserError, match="4 images, but 2 names"):
        vl.forward_mixed(model, images, ["cats", "dogs"])


def test_disabled_is_the_frozen_backbone(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model, base = loaded(folders), plain()
    with vl.disabled(model):
        assert torch.equal(features(model, images), features(base, images))
    assert torch.allclose(model(images), wanted["birds"], atol=1e-5)


def test_weighted_sum(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, _, images = tasks
    model = plain()
    for name in ("cats", "birds"):
        vl.load_adapter(model, folders[name], name=name)
    vl.activate(model, {"cats": 0.25, "birds": 0.5})
    layer = "layer1.0.conv1"
    weight = tensor(model, f"{layer}.weight")
    deltas = {name: adapter_of(model, layer, name).delta().view_as(weight) for name in ("cats", "birds")}
    assert torch.allclose(weight, stored(model.get_submodule(layer)) + 0.25 * deltas["cats"] + 0.5 * deltas["birds"], atol=1e-6)
    assert model(images).shape[1] == CLASSES["cats"]
    vl.activate(model, {"cats": 0.25, "birds": 0.5}, head="birds")
    assert model(images).shape[1] == CLASSES["birds"]


def test_saving_one_of_several(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    folders, wanted, images = tasks
    model = loaded(folders)
    vl.activate(model, "birds")
    vl.save_adapter(model, tmp_path, name="cats")
    assert torch.allclose(vl.load_adapter(plain(), tmp_path).eval()(images), wanted["cats"], atol=1e-5)
    assert torch.allclose(model(images), wanted["birds"], atol=1e-5)


def test_copies_deletes_and_removes(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model = loaded(folders)
    other = copy.deepcopy(model)
    vl.delete_adapter(other, "cats")
    assert vl.adapter_names(other) == ["dogs", "birds"]
    vl.activate(other, "dogs")
    assert torch.allclose(other(images), wanted["dogs"], atol=1e-5)
    vl.activate(model, "cats")
    assert torch.allclose(model(images), wanted["cats"], atol=1e-5)
    base = plain()
    vl.remove(model)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(value, base.state_dict()[key]) for key, value in state.items())
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]


def test_the_first_may_come_by_injection(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model = plain()
    vl.inject(model, vl.LoraConfig(r=1), name="mine")
    spread(model, 9)
    own = model.eval()(images)
    vl.load_adapter(model, folders["birds"], name="birds")
    assert torch.allclose(model(images), wanted["birds"], atol=1e-5)
    vl.activate(model, "mine")
    assert torch.allclose(model(images), own, atol=1e-6)


def test_bad_names_and_files_change_nothing(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    folders, wanted, images = tasks
    model = loaded(folders)
    with pytest.raises(UserError, match=r"no adapter 'cat'.*Did you mean 'cats'"):
        vl.activate(model, "cat")
    with pytest.raises(UserError, match="'dogs' is a DoRA"):
        vl.activate(model, {"dogs": 1, "cats": 1})
    (tmp_path / "adapter_model.safetensors").write_bytes((folders["cats"] / "adapter_model.safetensors").read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged"):
        vl.load_adapter(model, tmp_path, name="broken")
    with pytest.raises(UserError, match="cannot be the name of an adapter"):
        vl.load_adapter(model, folders["cats"], name="a.b")
    vl.merge(model)
    with pytest.raises(UserError, match="call unmerge first"):
        vl.activate(model, "cats")
    vl.unmerge(model)
    assert vl.adapter_names(model) == list(CLASSES)
    assert torch.allclose(model(images), wanted["birds"], atol=1e-5)


def test_norms_trained_in_place_belong_to_their_task(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model, base = plain(), plain()
    vl.inject(model, vl.LoraConfig(train_norm=True, train_bias=True), name="mine")
    spread(model, 5)
    own = model.eval()(images)
    with vl.disabled(model):
        assert torch.equal(features(model, images), features(base, images))
    for name in ("cats", "birds"):
        vl.load_adapter(model, folders[name], name=name)
        assert torch.allclose(model(images), wanted[name], atol=1e-5)
    vl.activate(model, "mine")
    assert torch.allclose(model(images), own, atol=1e-6)
    vl.remove(model)
    assert torch.equal(features(model, images), features(base, images))


def test_a_second_injection_has_a_head_of_its_own() -> None:
    images = torch.randn(2, 3, 64, 64)
    model = plain()
    vl.inject(model, vl.LoraConfig(r=2), name="a")
    spread(model, 1)
    first = model.eval()(images)
    with pytest.raises(UserError, match="matches no linear or conv"):
        vl.inject(model, vl.LoraConfig(targets="nothing"), name="b")
    assert torch.equal(model(images), first)
    vl.inject(model, vl.LoraConfig(r=2, method="dora"), name="b")
    spread(model, 2)
    second = model.eval()(images)
    vl.activate(model, "a")
    assert torch.allclose(model(images), first, atol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not any(".b." in name for name in trained)
    vl.activate(model, "b")
    assert torch.allclose(model(images), second, atol=1e-6)


def test_a_head_trained_alone_is_an_adapter_too(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    folders, wanted, images = tasks
    probe = plain(7)
    probe.load_state_dict({k: v for k, v in plain().state_dict().items() if not k.startswith("fc.")}, strict=False)
    backbone_info(probe).fingerprint = backbone_info(plain()).fingerprint
    vl.inject(probe, vl.LoraConfig(method="none"))
    spread(probe, 3)
    vl.save_adapter(probe, tmp_path)
    model = plain()
    vl.load_adapter(model, tmp_path, name="probe")  # another number of classes than the backbone was made for
    vl.load_adapter(model, folders["cats"], name="cats")
    vl.activate(model, "probe")
    assert torch.allclose(model(images), probe.eval()(images), atol=1e-6)
    vl.activate(model, "cats")
    assert torch.allclose(model(images), wanted["cats"], atol=1e-5)


def test_other_tasks_follow_the_model(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor]) -> None:
    folders, wanted, images = tasks
    model = loaded(folders).double()
    vl.activate(model, "cats")
    assert torch.allclose(model(images.double()).float(), wanted["cats"], atol=1e-4)


def test_saved_again_it_is_the_same(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    folders, wanted, images = tasks
    model = plain()
    vl.load_adapter(model, folders["birds"], name="birds")
    vl.save_adapter(model, tmp_path)  # the only one needs no name
    again = vl.load_adapter(plain(), tmp_path).eval()
    assert torch.allclose(again(images), wanted["birds"], atol=1e-5)
    vl.load_adapter(model, folders["cats"], name="cats")
    with pytest.raises(UserError, match="no adapter 'default' to save; it has birds, cats"):
        vl.save_adapter(model, tmp_path)


def test_a_file_that_fails_leaves_norms_alone(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    folders, _, images = tasks
    for path in folders["birds"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors.pop(next(key for key in tensors if "lora_B" in key))
    safetensors.torch.save_file(tensors, weights)
    unsealed(tmp_path)
    model = plain()
    before = model(images)
    with pytest.raises(UserError, match="lacks its lora_B"):
        vl.load_adapter(model, tmp_path)
    assert torch.equal(model(images), before)
    assert vl.adapter_names(model) == []


def test_preprocessing_comes_with_the_task(tasks: tuple[dict[str, Path], dict[str, Tensor], Tensor], tmp_path: Path) -> None:
    folders, _, _ = tasks
    other = plain()
    backbone_info(other).preprocessing = replace(backbone_info(other).preprocessing, image_size=48, crop_mode="squash")
    vl.inject(other, vl.LoraConfig(r=1))
    vl.save_adapter(other, tmp_path)
    model = loaded({"cats": folders["cats"], "small": tmp_path})
    assert backbone_info(model).preprocessing.image_size == 48
    vl.activate(model, "cats")
    assert backbone_info(model).preprocessing.image_size == 160
