"""A graph of ONNX: written, finished with what a runtime finds by itself and how images are prepared, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from visionlora.common.errors import UserError
from visionlora.exporting.facts import FOUND, LOGITS, Facts, preprocessing
from visionlora.exporting.found import add_found
from visionlora.exporting.tracing import blank, to_onnx

IMAGES = "images"
"""Input of a graph."""


def write_graph(model: nn.Module, facts: Facts, path: Path) -> None:
    """Write the model as a graph from ``images`` to ``logits``, with nothing beside them."""
    to_onnx(model, blank(facts), path, IMAGES, [LOGITS])


def finish_graph(path: Path, model: nn.Module, facts: Facts) -> None:
    """Add what the task finds in the outputs, and how images are prepared; take away what tells of this machine."""
    import onnx

    written = onnx.load(path)
    outputs = model(blank(facts))
    if finding := facts.task.finding(outputs, facts.num_classes):
        written = add_found(written, finding, outputs, path.parent)
    for key, value in preprocessing(facts).items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    for node in (*written.graph.node, *(node for function in written.functions for node in function.node)):
        del node.metadata_props[:]  # where on this machine each line of the model's code lies
    onnx.checker.check_model(written)
    onnx.save(written, path)


def read_graph(path: Path, facts: Facts) -> Callable[[Tensor], Tensor]:
    """The logits as onnxruntime computes them, from ``(N, C, H, W)``.

    Raises:
        UserError: called for images in which the graph finds other things than there are in its logits.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def logits(images: Tensor) -> Tensor:
        given: dict[str, Tensor] = dict(zip(names, map(torch.as_tensor, session.run(names, {IMAGES: images.numpy()})), strict=True))
        finding = facts.task.finding(given[LOGITS], facts.num_classes) if FOUND in given else None
        if finding and finding.differs(given[FOUND], given[LOGITS]):
            raise UserError("format=onnx: the runtime finds other boxes than there are; nothing was written. Please report it.")
        return given[LOGITS]

    return logits
