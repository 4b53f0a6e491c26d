"""The formats: how each is written, and how its own runtime reads it back."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visionlora.backbone import timm_models, torchvision_models
from visionlora.backbone.info import BackboneInfo
from visionlora.common.quiet import hushed
from visionlora.errors import UserError
from visionlora.files import replace_file

WEIGHTS, TORCH_WEIGHTS, ONNX, PROGRAM = "model.safetensors", "model.pt", "model.onnx", "model.pt2"
PREPROCESSING = "preprocessing.json"
Logits = Callable[[Tensor], Tensor]
"""float32 ``(N, C, H, W)`` -> logits ``(N, classes)``."""


class Format(NamedTuple):
    """How a model is written into a folder, and how it is read back by something that does not know visionlora.

    ``write(model, info, example, folder)``, where only the shape of ``example`` counts: a file that is handed on holds nobody's pictures;
    ``read(folder, info)`` gives the logits. ``how`` says in a line of Python how to load it.
    """

    write: Callable[[nn.Module, BackboneInfo, Tensor, Path], None]
    read: Callable[[Path, BackboneInfo], Logits]
    how: Callable[[BackboneInfo], str]


def preprocessing(info: BackboneInfo) -> dict[str, Any]:
    """What travels with every export: how to prepare a picture, and what the logits are called."""
    return {"backbone": info.spec.full_name, "classes": info.classes, **asdict(info.preprocessing)}


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}


def _arguments(info: BackboneInfo) -> dict[str, Any]:
    """What a library's own constructor is called with."""
    spec = info.spec
    if spec.stem != "default":
        raise UserError(f"model.stem={spec.stem} is visionlora's own; {spec.source} cannot build it. Take format=state_dict, onnx or pt2.")
    arguments: dict[str, Any] = {"num_classes": spec.num_classes}
    if spec.source == "timm" and spec.in_chans != 3:
        arguments["in_chans"] = spec.in_chans
    if spec.source == "timm":
        arguments |= timm_models.size_argument(spec)
    return arguments


def _wants(info: BackboneInfo, source: str) -> None:
    if info.spec.source != source:
        raise UserError(f"format={source}: the run's backbone is {info.spec.full_name}; take format={info.spec.source}.")


def _write_timm(model: nn.Module, info: BackboneInfo, example: Tensor, folder: Path) -> None:
    from timm.models._hub import save_config_for_hf  # save_for_hf itself cannot save tensors that share their memory (CoaT's)

    _wants(info, "timm")
    prepared = asdict(info.preprocessing)
    size = prepared.pop("image_size")
    config = prepared | {"input_size": (info.preprocessing.channels, size, size)}
    names = {"num_classes": info.spec.num_classes, "label_names": info.classes, "pretrained_cfg": config}
    save_file(_plain_state(model), folder / WEIGHTS, {"format": "pt"})
    save_config_for_hf(model, str(folder / "config.json"), model_config=names, model_args=_arguments(info))


def _read_timm(folder: Path, info: BackboneInfo) -> Logits:
    import timm

    model = timm.create_model(info.spec.name.split(".")[0], checkpoint_path=str(folder / WEIGHTS), **_arguments(info))
    return model.eval()  # type: ignore[no-any-return]


def _write_torchvision(model: nn.Module, info: BackboneInfo, example: Tensor, folder: Path) -> None:
    _wants(info, "torchvision")
    if info.spec.in_chans != 3:
        raise UserError("torchvision builds its models for three channels; take format=state_dict, onnx or pt2.")
    _arguments(info)
    buffer = io.BytesIO()  # not the file: where that finds no room, torch's writer ends the process
    torch.save(_plain_state(model), buffer)
    replace_file(folder / TORCH_WEIGHTS, buffer.getvalue())


def _read_torchvision(folder: Path, info: BackboneInfo) -> Logits:
    import torchvision

    model = torchvision.models.get_model(info.spec.name, weights=None, **_torchvision_arguments(info))
    model.load_state_dict(torch.load(folder / TORCH_WEIGHTS, weights_only=True))
    return model.eval()  # type: ignore[no-any-return]


def _torchvision_arguments(info: BackboneInfo) -> dict[str, Any]:
    more: dict[str, Any] = torchvision_models.size_argument(info.spec.name, info.preprocessing.image_size)
    if info.spec.name in ("googlenet", "inception_v3"):
        more["init_weights"] = True
    return {**_arguments(info), **more}


def _write_state_dict(model: nn.Module, info: BackboneInfo, example: Tensor, folder: Path) -> None:
    save_file(_plain_state(model), folder / WEIGHTS, {"format": "pt", "backbone": info.spec.full_name})


def _read_state_dict(folder: Path, info: BackboneInfo) -> Logits:
    from visionlora.backbone.create import create_backbone

    model = create_backbone(info.spec.full_name, info.spec.num_classes, pretrained=False, **_own_arguments(info))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval()


def _own_arguments(info: BackboneInfo) -> dict[str, Any]:
    spec = info.spec
    said = {"in_chans": (spec.in_chans, 3), "stem": (spec.stem, "default"), "image_size": (spec.image_size, None)}
    return {key: value for key, (value, usual) in said.items() if value != usual}


def _write_onnx(model: nn.Module, info: BackboneInfo, example: Tensor, folder: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    with warnings.catch_warnings(), hushed("onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
        blank = torch.zeros_like(example)
        torch.onnx.export(model, (blank,), folder / ONNX, dynamo=True, external_data=False, verbose=False, dynamic_shapes=shapes, **names)
    written = onnx.load(folder / ONNX)
    for key, value in preprocessing(info).items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    for node in (*written.graph.node, *(node for function in written.functions for node in function.node)):
        del node.metadata_props[:]  # where on this machine each line of the model's code lies
    onnx.checker.check_model(written)
    onnx.save(written, folder / ONNX)


def _read_onnx(folder: Path, info: BackboneInfo) -> Logits:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(np.asarray(session.run(["logits"], {"images": images.numpy()})[0]))


def _write_program(model: nn.Module, info: BackboneInfo, example: Tensor, folder: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (torch.zeros_like(example),), dynamic_shapes=({0: batch},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # where on this machine each line of the model's code lies
    buffer = io.BytesIO()  # as above
    torch.export.save(program, buffer, extra_files={PREPROCESSING: json.dumps(preprocessing(info))})
    replace_file(folder / PROGRAM, buffer.getvalue())


def _read_program(folder: Path, info: BackboneInfo) -> Logits:
    return torch.export.load(folder / PROGRAM).module()


def _missing(error: ModuleNotFoundError) -> UserError:
    return UserError(f'format=onnx needs the package {error.name}; install it with: pip install "visionlora[onnx]"')


FORMATS = {
    "timm": Format(_write_timm, _read_timm, lambda info: _call("timm.create_model", info.spec.name.split(".")[0], info, WEIGHTS)),
    "torchvision": Format(
        _write_torchvision,
        _read_torchvision,
        lambda info: (
            f'model = torchvision.models.get_model("{info.spec.name}", {_words(_torchvision_arguments(info))})\n'
            f'model.load_state_dict(torch.load("{TORCH_WEIGHTS}", weights_only=True))'
        ),
    ),
    "state_dict": Format(
        _write_state_dict,
        _read_state_dict,
        lambda info: (
            f'model = vl.create_backbone("{info.spec.full_name}", {info.spec.num_classes}, pretrained=False)\n'
            f'model.load_state_dict(safetensors.torch.load_file("{WEIGHTS}"))'
        ),
    ),
    "onnx": Format(
        _write_onnx,
        _read_onnx,
        lambda info: f'session = onnxruntime.InferenceSession("{ONNX}")\n(logits,) = session.run(["logits"], {{"images": images}})',
    ),
    "pt2": Format(_write_program, _read_program, lambda info: f'model = torch.export.load("{PROGRAM}").module()'),
}


def _words(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _call(function: str, name: str, info: BackboneInfo, weights: str) -> str:
    return f'model = {function}("{name}", checkpoint_path="{weights}", {_words(_arguments(info))}).eval()'
