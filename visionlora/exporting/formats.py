"""The formats: how each is written, and how its own runtime reads it back."""

from __future__ import annotations

import copy
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visionlora.common.compat import save_hub_config, versioned
from visionlora.common.errors import UserError
from visionlora.common.files import replace_file
from visionlora.exporting import snippets
from visionlora.exporting.building import (
    own_arguments,
    refuse_other_source,
    spec_of,
    timm_arguments,
    timm_name,
    torchvision_arguments,
)
from visionlora.exporting.facts import ONNX, PREPROCESSING, PROGRAM, TORCH_WEIGHTS, WEIGHTS, Facts, preprocessing_json
from visionlora.exporting.onnx_graph import finish_graph, read_graph, write_graph
from visionlora.exporting.tracing import batches, blank, tracing

Logits = Callable[[Tensor], Tensor]
"""float32 ``(N, C, H, W)`` -> logits ``(N, classes)``."""


class Format(NamedTuple):
    """How a model is written into a folder, and how it is read back by something that does not know visionlora.

    ``refuse(facts)`` raises ``UserError`` where it is known beforehand that the model cannot be written; ``write(model, facts, folder)``
    writes it, and ``read(folder, facts, model)`` gives the logits, where ``model`` is for a module from elsewhere: nothing but its own
    code can build it. ``how`` is the Python that classifies an image with the export. ``packages`` are those beside torch, timm and
    torchvision that the format needs. ``any_module`` says that it holds the computation too, and so takes modules that nobody can build.
    """

    refuse: Callable[[Facts], None]
    write: Callable[[nn.Module, Facts, Path], None]
    read: Callable[[Path, Facts, nn.Module], Logits]
    how: Callable[[Facts], str]
    packages: tuple[str, ...] = ()
    any_module: bool = False


def require(packages: Sequence[str], what: str) -> None:
    """See that ``packages`` of the extra ``onnx`` can be imported.

    Raises:
        UserError: one of them is missing; ``what`` begins the sentence.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(f'{what} needs the package {error.name}; install it with: pip install "visionlora[onnx]"') from None


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}


def _write_timm(model: nn.Module, facts: Facts, folder: Path) -> None:
    config: dict[str, Any] = {"input_size": facts.shape}
    if facts.preprocessing is not None:
        config |= asdict(facts.preprocessing)
        config.pop("image_size")
    names: dict[str, Any] = {"num_classes": facts.num_classes, "pretrained_cfg": config}
    if facts.classes:
        names["label_names"] = list(facts.classes)
    model.num_classes = facts.num_classes  # type: ignore[assignment]  # a head that was exchanged by hand does not tell timm so
    save_file(_plain_state(model), folder / WEIGHTS, {"format": "pt"})
    save_hub_config(model, folder / "config.json", names, timm_arguments(facts))


def _read_timm(folder: Path, facts: Facts, model: nn.Module) -> Logits:
    import timm

    built = timm.create_model(timm_name(facts), checkpoint_path=str(folder / WEIGHTS), **timm_arguments(facts))
    return built.eval()  # type: ignore[no-any-return]


def _write_torchvision(model: nn.Module, facts: Facts, folder: Path) -> None:
    buffer = io.BytesIO()  # not the file: where that finds no room, torch's writer ends the process
    torch.save(versioned(model, _plain_state(model)), buffer)
    replace_file(folder / TORCH_WEIGHTS, buffer.getvalue())


def _read_torchvision(folder: Path, facts: Facts, model: nn.Module) -> Logits:
    import torchvision

    built = torchvision.models.get_model(spec_of(facts).name, weights=None, **torchvision_arguments(facts))
    built.load_state_dict(torch.load(folder / TORCH_WEIGHTS, weights_only=True))
    return built.eval()  # type: ignore[no-any-return]


def _write_state_dict(model: nn.Module, facts: Facts, folder: Path) -> None:
    save_file(_plain_state(model), folder / WEIGHTS, {"format": "pt", "backbone": facts.name})


def _read_state_dict(folder: Path, facts: Facts, model: nn.Module) -> Logits:
    from visionlora.backbone.create import create_backbone

    if facts.spec is None:
        built = copy.deepcopy(model)
        for value in built.state_dict().values():  # so that what agrees afterwards has come from the file
            value.zero_()
    else:
        built = create_backbone(facts.name, facts.num_classes, **own_arguments(facts))
    built.load_state_dict(load_file(folder / WEIGHTS))
    return built.eval()


def _write_onnx(model: nn.Module, facts: Facts, folder: Path) -> None:
    write_graph(model, facts, folder / ONNX)
    finish_graph(folder / ONNX, model, facts)


def _read_onnx(folder: Path, facts: Facts, model: nn.Module) -> Logits:
    return read_graph(folder / ONNX, facts)


def _write_program(model: nn.Module, facts: Facts, folder: Path) -> None:
    with tracing():
        program = torch.export.export(model, (blank(facts),), dynamic_shapes=batches())
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # where on this machine each line of the model's code lies
    buffer = io.BytesIO()  # as above
    torch.export.save(program, buffer, extra_files={PREPROCESSING: preprocessing_json(facts)})
    replace_file(folder / PROGRAM, buffer.getvalue())


def _read_program(folder: Path, facts: Facts, model: nn.Module) -> Logits:
    return torch.export.load(folder / PROGRAM).module()


def _refuse_nothing(facts: Facts) -> None:
    """Any model can be tried."""


def _refuse_versions(facts: Facts) -> None:
    if facts.spec is not None and facts.spec.source == "torchvision" and facts.spec.name.startswith("mnasnet"):
        raise UserError(
            f"format=state_dict: {facts.spec.name} asks for the version of its layers, which safetensors does not keep; take"
            " format=torchvision, onnx or pt2."
        )


FORMATS = {
    "timm": Format(partial(refuse_other_source, source="timm"), _write_timm, _read_timm, snippets.with_timm),
    "torchvision": Format(
        partial(refuse_other_source, source="torchvision"), _write_torchvision, _read_torchvision, snippets.with_torchvision
    ),
    "state_dict": Format(_refuse_versions, _write_state_dict, _read_state_dict, snippets.with_visionlora),
    "onnx": Format(_refuse_nothing, _write_onnx, _read_onnx, snippets.with_onnxruntime, ("onnx", "onnxscript", "onnxruntime"), True),
    "pt2": Format(_refuse_nothing, _write_program, _read_program, snippets.with_torch_export, any_module=True),
}
