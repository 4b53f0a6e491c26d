"""The adapter folder: PEFT's two files, and a card beside them that says which backbone the adapter is for.

``adapter_model.safetensors`` holds what training changed, under PEFT's key names and shapes; ``adapter_config.json`` is PEFT's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.common.files import replace_file
from visionlora.common.reading import sealed_json
from visionlora.lora.adapter import Adapter
from visionlora.lora.adapter_files import CARD, CONFIG, PREFIX, TENSORS, WEIGHTS, AdapterFiles
from visionlora.lora.config import LayerRank, LoraConfig
from visionlora.lora.init import FROM_WEIGHT
from visionlora.lora.injection import inject
from visionlora.lora.layer import LoraLayer
from visionlora.lora.merging import take_out
from visionlora.lora.methods import METHODS
from visionlora.lora.peft_format import beyond_peft, peft_config, peft_key, peft_shape, without_ones
from visionlora.lora.slots import Slot, slots


def write(
    model: nn.Module, folder: str | Path, state: Mapping[str, Tensor], whole: Iterable[str], card: Mapping[str, Any], name: str = "default"
) -> None:
    """Write an adapter folder; each file appears whole or not at all.

    Args:
        model: with the adapter injected, not merged.
        folder: made when missing.
        state: what training changed beside the adapters, by state-dict key.
        whole: names of modules saved whole (PEFT's ``modules_to_save``).
        card: contents of ``visionlora.json``.
        name: the adapter to save.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    adapters = {slot.name: (slot, adapter) for slot in slots(model).values() if (adapter := adapter_of(slot, name)) is not None}
    adapted = {slot.module_name for slot, _ in adapters.values()}
    tensors = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        tensors[f"{PREFIX}{module}.base_layer.{leaf}" if module in adapted else PREFIX + key] = value
    saved: dict[str, tuple[int, Adapter]] = {}
    for slot, adapter in adapters.values():
        own = adapter.to_lora()
        if r := len(own["lora_A"]):  # AdaLoRA may leave a layer no rank at all
            saved[slot.name] = r, adapter
            tensors |= {peft_key(slot.name, key): value.reshape(peft_shape(slot, key, r)) for key, value in own.items()}
    # Cloned: tied layers share their adapter's memory, which safetensors refuses.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    content = {WEIGHTS: safetensors.torch.save(tensors, metadata={"format": "pt"})}
    if saved:
        biases = any(key.rpartition(".")[2].endswith("bias") and not key.startswith(tuple(w + "." for w in whole)) for key in state)
        content[CONFIG] = json.dumps(peft_config(saved, sorted(whole), biases), indent=2).encode()
    else:
        (folder / CONFIG).unlink(missing_ok=True)
    for name_, bytes_ in content.items():
        replace_file(folder / name_, bytes_)
    hashes = {name_: hashlib.sha256(bytes_).hexdigest() for name_, bytes_ in content.items()}
    layers = {layer: {"r": r, "alpha": adapter.scaling * r} for layer, (r, adapter) in saved.items()}
    beyond = {slot.name: why for slot, _ in adapters.values() if slot.name in saved and (why := beyond_peft(slot))}
    replace_file(folder / CARD, sealed_json({**card, "layers": layers, "beyond_peft": beyond, "files": hashes}))


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
    own, layers, known = model.state_dict(), files.layers, slots(model)
    config, ranks = files.lora_config(), files.ranks()
    loaded = dict(files.others)
    for key, value in loaded.items():
        if key not in own:
            raise UserError(f"{files.folder}: the adapter is for another model: this one has no {key!r}.")
        if value.is_floating_point() != own[key].is_floating_point():
            raise UserError(f"{files.folder}: {key} holds {value.dtype}, the model's {own[key].dtype}: it is damaged or for another model.")
        if value.shape != own[key].shape:
            reason = "the number of classes differs" if key.startswith(tuple(h + "." for h in head)) else "it is for another model"
            raise UserError(f"{files.folder}: {key} has shape {tuple(value.shape)}, the model's has {tuple(own[key].shape)}: {reason}.")
    for layer, tensors in layers.items():
        _check(files, layer, tensors, known, config)
    present = {slot.name: adapter for slot in known.values() if (adapter := adapter_of(slot, name)) is not None}
    if set(present) != set(ranks) or not all(_fits(present[layer], rank, config) for layer, rank in ranks.items()):
        take_out(model, name)
        if ranks:
            inject(model, config, head=head, also_train=also_train, ranks=ranks, name=name)
    for layer, tensors in layers.items():
        names = {"lora_magnitude_vector": "magnitude"}
        loaded |= {known[layer].state_key(names.get(key, key), name): tensor for key, tensor in tensors.items()}
    own = model.state_dict()
    with torch.no_grad():
        for key, value in loaded.items():
            own[key].copy_(value.reshape(own[key].shape))


def _fits(adapter: Adapter, rank: LayerRank, config: LoraConfig) -> bool:
    """Whether the file's tensors are just what this adapter holds."""
    plain = type(adapter) is METHODS[config.method] and adapter.start_A is None and config.init not in FROM_WEIGHT
    return plain and adapter.r == rank.r and adapter.scaling == config.scaling(rank)


def _check(files: AdapterFiles, layer: str, tensors: dict[str, Tensor], known: Mapping[str, Slot], config: LoraConfig) -> None:
    """Make certain that the model has the layer and every tensor fits."""
    if layer not in known:
        raise UserError(f"{files.folder}: the adapter is for another model: this one has no linear or conv layer {layer!r}.")
    needed = TENSORS if config.method == "dora" else TENSORS[:2]
    for key in (*needed, *tensors):
        if key not in tensors:
            raise UserError(f"{files.folder / WEIGHTS}: layer {layer} lacks its {key}; the file is incomplete.")
        if key not in needed:
            raise UserError(f"{files.folder / WEIGHTS}: layer {layer} has a {key} that {CONFIG} knows nothing of.")
        r = len(tensors["lora_A"]) if "lora_A" in tensors else 0
        if (shape := tuple(tensors[key].shape)) not in (wanted := peft_shape(known[layer], key, r), without_ones(wanted)):
            grouped = getattr(known[layer].module, "groups", 1) != 1 and files.config is not None and not files.card
            reason = "PEFT means another update of grouped convolutions" if grouped else "the adapter is for another model"
            raise UserError(f"{files.folder}: {key} of {layer} has shape {shape}, the model needs {wanted}: {reason}.")


def adapter_of(slot: Slot, name: str) -> Adapter | None:
    """The adapter of that name in this slot, if there is one."""
    if not isinstance(slot.module, LoraLayer) or slot.parameter not in slot.module.adapter_sets:
        return None
    return slot.module.adapter_sets[slot.parameter].of(name).get(slot.part)
