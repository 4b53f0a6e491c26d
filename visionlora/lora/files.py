"""The adapter folder: PEFT's two files, and a card beside them that says which backbone the adapter is for.

``adapter_model.safetensors`` holds what training changed, under PEFT's key names and shapes; ``adapter_config.json`` is PEFT's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from visionlora.errors import UserError
from visionlora.files import replace_file
from visionlora.lora.adapter import Adapter
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.injection import inject
from visionlora.lora.layer import LoraLayer, adaptable, lora_layers

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "visionlora.json"
PREFIX = "base_model.model."
"""Of every key in PEFT's files."""


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter folder as read: PEFT's config (empty when nothing was adapted), our card, tensors by PEFT's keys."""

    folder: Path
    config: dict[str, Any]
    card: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: str | Path) -> AdapterFiles:
        """Read and check a folder.

        Raises:
            UserError: it is not an adapter folder, or a file in it is damaged.
        """
        folder = Path(folder)
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder} is not an adapter folder: it has no {WEIGHTS}.")
        try:
            tensors = safetensors.torch.load_file(folder / WEIGHTS)
        except safetensors.SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS} is damaged or not a safetensors file: {error}.") from None
        return cls(folder, _read_json(folder / CONFIG), _read_json(folder / CARD), tensors)

    def ranks(self) -> dict[str, LayerRank]:
        """Layer name -> rank (from the tensors) and alpha (from the config)."""
        found = {}
        for key, tensor in self.tensors.items():
            if match := re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_A\.weight", key):
                patterns = self.config.get("alpha_pattern") or {}
                alphas = [a for pattern, a in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", match[1])]
                found[match[1]] = LayerRank(
                    tensor.shape[0], float(alphas[0] if alphas else self.config.get("lora_alpha", 8)), explicit=True
                )
        return found


@dataclass(frozen=True)
class Slot:
    """One parameter that an adapter can be for, under the name PEFT's keys have for it."""

    name: str
    module: str
    weight: Tensor
    parameter: str

    def state_key(self, factor: str, adapter: str) -> str:
        return f"{self.module}.lora.{self.parameter}.{adapter}.{factor}"

    def peft_key(self, factor: str) -> str:
        return f"{PREFIX}{self.name}.{factor}.weight"

    def peft_shape(self, factor: str, r: int) -> tuple[int, ...]:
        """Conv factors as PEFT has them: A ``(r, in/groups, *kernel)``, B ``(out, r, 1, …)``."""
        out, *rest = self.weight.shape
        return (r, *rest) if factor == "lora_A" else (out, r, *(1,) * (len(rest) - 1))


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every adaptable parameter of ``model`` by its name in PEFT's keys: the module's, for the rare second parameter ``module::name``."""
    found = {}
    for module_name, module in model.named_modules():
        parameters = adaptable(module)
        for parameter in parameters:
            name = module_name if len(parameters) == 1 else f"{module_name}::{parameter}"
            weight = module._parameters[parameter]
            assert weight is not None
            found[name] = Slot(name, module_name, weight, parameter)
    return found


def write(
    model: nn.Module, folder: str | Path, state: Mapping[str, Tensor], whole: Iterable[str], card: Mapping[str, Any], name: str = "default"
) -> None:
    """Write an adapter folder; each file appears whole or not at all.

    Args:
        model: with the adapter injected, not merged.
        folder: made when missing.
        state: what training changed, by state-dict key.
        whole: names of modules saved whole (PEFT's ``modules_to_save``).
        card: contents of ``visionlora.json``.
        name: the adapter to save.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + key: value for key, value in state.items() if ".lora." not in key}
    adapters = {}
    for slot in slots(model).values():
        if slot.state_key("lora_A", name) in state:
            adapter = adapters[slot.name] = _adapter(model, slot, name)
            for factor in ("lora_A", "lora_B"):
                tensors[slot.peft_key(factor)] = state[slot.state_key(factor, name)].reshape(slot.peft_shape(factor, adapter.r))
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    replace_file(folder / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    if adapters:
        replace_file(folder / CONFIG, json.dumps(_peft_config(adapters, sorted(whole)), indent=2).encode())
    else:
        (folder / CONFIG).unlink(missing_ok=True)
    replace_file(folder / CARD, json.dumps(card, indent=2).encode())


def attach(model: nn.Module, files: AdapterFiles, head: Iterable[str] = (), also_train: Iterable[str] = (), name: str = "default") -> None:
    """Give ``model`` the adapter of ``files``: inject its layers, unless they are there, and load its tensors.

    Args:
        model: plain, or adapted in the same layers.
        files: as read.
        head: names of the classifier's modules.
        also_train: names of other modules that are trained whole.
        name: name for the adapter.

    Raises:
        UserError: a layer, shape or key does not fit; the model is then as it was.
    """
    loaded, own = {}, model.state_dict()
    for key, value in files.tensors.items():
        if ".lora_" not in key:
            loaded[key.removeprefix(PREFIX)] = value
    for key, value in loaded.items():
        if key not in own:
            raise UserError(f"{files.folder}: the adapter is for another model: this one has no {key!r}.")
        if value.shape != own[key].shape:
            reason = "the number of classes differs" if key.startswith(tuple(h + "." for h in head)) else "it is for another model"
            raise UserError(f"{files.folder}: {key} has shape {tuple(value.shape)}, the model's has {tuple(own[key].shape)}: {reason}.")
    ranks, known = files.ranks(), slots(model)
    for layer, rank in ranks.items():
        if layer not in known:
            raise UserError(f"{files.folder}: the adapter is for another model: this one has no linear or conv layer {layer!r}.")
        for factor in ("lora_A", "lora_B"):
            tensor = files.tensors.get(known[layer].peft_key(factor))
            if tensor is None:
                raise UserError(f"{files.folder / WEIGHTS}: layer {layer} lacks its {factor}; the file is incomplete.")
            if tuple(tensor.shape) != known[layer].peft_shape(factor, rank.r):
                raise UserError(
                    f"{files.folder}: {factor} of {layer} has shape {tuple(tensor.shape)},"
                    f" the model needs {known[layer].peft_shape(factor, rank.r)}: the adapter is for another model."
                )
            loaded[known[layer].state_key(factor, name)] = tensor
    if len(loaded) != len(files.tensors):
        raise UserError(f"{files.folder / WEIGHTS} has adapter tensors without their partner; the file is incomplete.")
    _prepare(model, files, {known[layer].module: rank for layer, rank in ranks.items()}, head, also_train, name)
    own = model.state_dict()
    with torch.no_grad():
        for key, value in loaded.items():
            own[key].copy_(value.reshape(own[key].shape))


def _prepare(
    model: nn.Module, files: AdapterFiles, ranks: dict[str, LayerRank], head: Iterable[str], also_train: Iterable[str], name: str
) -> None:
    present = {
        module_name: adapters[name].r
        for module_name, layer in lora_layers(model)
        for adapters in layer.adapter_sets.values()
        if name in adapters
    }
    if ranks and not present:
        config = LoraConfig(dropout=files.config.get("lora_dropout", 0.0), use_rslora=bool(files.config.get("use_rslora")))
        inject(model, config, head=head, also_train=also_train, ranks=ranks, name=name)
    elif present != {layer: rank.r for layer, rank in ranks.items()}:
        odd = sorted(set(present.items()) ^ {(layer, rank.r) for layer, rank in ranks.items()})[0][0]
        raise UserError(f"{files.folder}: the adapter and the model's {name!r} differ in their layers or ranks, at {odd} first.")


def _adapter(model: nn.Module, slot: Slot, name: str) -> Adapter:
    layer = model.get_submodule(slot.module)
    assert isinstance(layer, LoraLayer)
    return cast(Adapter, layer.adapter_sets[slot.parameter][name])


def _peft_config(adapters: dict[str, Adapter], whole: list[str]) -> dict[str, Any]:
    # Scaling is written out as alpha = scaling · r, so that PEFT needs no rsLoRA switch to read it.
    ranks = {name: adapter.r for name, adapter in adapters.items()}
    alphas = {name: adapter.scaling * adapter.r for name, adapter in adapters.items()}
    r, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": next(iter(adapters.values())).dropout,
        "target_modules": "(" + "|".join(re.escape(name) for name in adapters) + ")",
        "rank_pattern": {f"^{re.escape(name)}": value for name, value in ranks.items() if value != r},
        "alpha_pattern": {f"^{re.escape(name)}": value for name, value in alphas.items() if value != alpha},
        "modules_to_save": whole or None,
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
        "task_type": None,
    }


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} does not hold a JSON object.")
    return loaded
