"""Boxes as an output of an ONNX graph: behind the detector's numbers stands the runtime's own ``NonMaxSuppression``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from visionlora.exporting.facts import FOUND, LOGITS
from visionlora.exporting.tracing import to_onnx
from visionlora.tasks.interfaces import Finding

if TYPE_CHECKING:
    import onnx


def add_found(written: onnx.ModelProto, finding: Finding, outputs: Tensor, place: Path) -> onnx.ModelProto:
    """The graph with a second output ``found (M, 8)``, likeliest first.

    Its columns are the number of the image in the batch, class, score, left, top, right and bottom in shares of the input's side, and the
    row of ``logits`` that it is made of.

    Args:
        written: a graph whose output ``logits`` a detector gives.
        finding: what makes boxes of these.
        outputs: of the detector for two images.
        place: a folder to write in.
    """
    import onnx

    path = place / "found.onnx"
    to_onnx(finding.module.eval(), outputs, path, "numbers", ["boxes", "scores", "rows"])
    behind = onnx.load(path)
    path.unlink()
    _suppress(behind.graph, finding)
    behind = onnx.compose.add_prefix(behind, "found/", rename_inputs=False, rename_outputs=False)
    behind.ir_version = written.ir_version
    return onnx.compose.merge_models(written, behind, [(LOGITS, "numbers")], outputs=[LOGITS, FOUND])


def _suppress(graph: onnx.GraphProto, finding: Finding) -> None:
    """From ``boxes (N, K, 4)``, ``scores (N, classes, K)`` and ``rows (N, K)`` to ``found``."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "most": np.array([finding.most], np.int64),
        "overlap": np.array([finding.overlap], np.float32),
        "least": np.array([finding.least], np.float32),
        "image_and_box": np.array([0, 2], np.int64),
        "image_and_class": np.array([0, 1], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        ("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["kept"], {}),  # (M, 3): image, class, box
        ("GatherND", ["scores", "kept"], ["likely"], {}),  # (M,)
        ("Shape", ["likely"], ["count"], {}),
        ("TopK", ["likely", "count"], ["best", "order"], {"axis": 0}),  # all of them, likeliest first
        ("Gather", ["kept", "order"], ["sorted"], {"axis": 0}),
        ("Gather", ["sorted", "image_and_box"], ["which"], {"axis": 1}),
        ("GatherND", ["boxes", "which"], ["corners"], {}),  # (M, 4)
        ("Gather", ["sorted", "image_and_class"], ["whose"], {"axis": 1}),
        ("Cast", ["whose"], ["numbers_of"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["best", "one"], ["best_column"], {}),
        ("GatherND", ["rows", "which"], ["row"], {}),  # (M,)
        ("Cast", ["row"], ["row_number"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["row_number", "one"], ["row_column"], {}),
        ("Concat", ["numbers_of", "best_column", "corners", "row_column"], [FOUND], {"axis": 1}),
    ]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(helper.make_node(kind, inputs, outputs, name=outputs[0], **more) for kind, inputs, outputs, more in nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(FOUND, TensorProto.FLOAT, ["objects", 8]))
