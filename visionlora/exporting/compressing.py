"""A finished run made smaller: int8 by onnxruntime's static quantisation, pruning of the merged weights; all measured in onnxruntime."""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from visionlora.common.errors import UserError
from visionlora.common.files import inside, library_writing, replace_file
from visionlora.common.quiet import hushed
from visionlora.data.module import ImageData
from visionlora.evaluation.measure import open_run
from visionlora.exporting.config import CompressConfig
from visionlora.exporting.facts import LOGITS, ONNX, PREPROCESSING, Facts, preprocessing_json
from visionlora.exporting.formats import FORMATS, require
from visionlora.exporting.onnx_graph import finish_graph, write_graph
from visionlora.exporting.places import workplace
from visionlora.model.inject import merge
from visionlora.runs.data import data_config
from visionlora.runs.folder import RunFolder
from visionlora.runs.predictor import load
from visionlora.speed.quantize import dequantize
from visionlora.tasks.measure import Measure
from visionlora.tasks.outcome import outcome_of

INT8 = "int8.onnx"
LATENCY_ROUNDS = 15
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators of ONNX that have weights."""


@dataclass(frozen=True)
class Compressed:
    """One row of the table.

    Args:
        name: of the model.
        measure: the leading one of the task.
        score: what it is.
        low: the lower end of its 95 % interval; ``None`` where there is none.
        high: the upper end.
        bytes: of the file.
        zipped: of the same under gzip, which is what zeros save.
        ms_1: milliseconds of a batch of 1.
        ms_32: milliseconds of a batch of 32.
    """

    name: str
    measure: Measure
    score: float
    low: float | None
    high: float | None
    bytes: int
    zipped: int
    ms_1: float
    ms_32: float


def compress(run: RunFolder, config: CompressConfig) -> list[Compressed]:
    """Write ``int8.onnx`` below ``compress/`` in the run folder, and measure it, the float model and pruned ones, all in onnxruntime.

    Beside it lie ``results.json``, and ``preprocessing.json`` as beside every export: with it, nobody needs the run to use the model.

    Args:
        run: a finished run; it is not touched beside that folder.
        config: images to calibrate on, shares to prune.

    Raises:
        UserError: the data or onnxruntime is not there.
    """
    require((*FORMATS["onnx"].packages, "onnxruntime.quantization"), "compressing")
    predictor, data = open_run(run, data_config(run, config.root))
    if config.split not in data.parts:
        raise UserError(f"the run's data has no {config.split} part; it has {', '.join(data.parts)}.")
    facts = Facts.of_run(predictor.info)
    folder = inside(run.path, "compress")
    with workplace(folder) as place, library_writing(folder):
        float_ = _exported(predictor.model, facts, place / "float")
        files = {"float32": float_, "int8": _quantized(float_, data, config.calibration, place / INT8)}
        finish_graph(files["int8"], predictor.model, facts)
        for share in sorted(set(config.prune)):
            files[f"pruned {100 * share:.3g}%"] = _pruned(run, share, facts, place / f"pruned{share}")
        rows = _measured(files, data, config.split)
        written = {
            INT8: files["int8"].read_bytes(),
            PREPROCESSING: preprocessing_json(facts).encode(),
            "results.json": json.dumps([_as_row(row) for row in rows], indent=2).encode(),
        }
        for name, content in written.items():
            replace_file(inside(folder, name), content)
    return rows


def _as_row(row: Compressed) -> dict[str, Any]:
    """As it is written: the leading measure under its own key."""
    return {row.measure.key if key == "score" else key: value for key, value in asdict(row).items() if key != "measure"}


def _exported(model: nn.Module, facts: Facts, folder: Path) -> Path:
    folder.mkdir()
    merge(model, keep=False)
    dequantize(model)
    write_graph(model.cpu(), facts, folder / ONNX)
    return folder / ONNX


def _pruned(run: RunFolder, share: float, facts: Facts, folder: Path) -> Path:
    """The smallest weights of all linear and conv layers but the head set to zero (Han et al. 2015, arXiv 1506.02626, in one step)."""
    predictor = load(run.path)
    merge(predictor.model, keep=False)
    dequantize(predictor.model)
    layers = [(module, "weight") for name, module in predictor.model.named_modules() if _prunable(name, module, predictor.info.head)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=share)
    for module, parameter in layers:
        prune.remove(module, parameter)
    return _exported(predictor.model, facts, folder)


def _prunable(name: str, module: nn.Module, head: tuple[str, ...]) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) and not f"{name}.".startswith(tuple(f"{part}." for part in head))


def _quantized(model: Path, data: ImageData, number: int, target: Path) -> Path:
    """Static, per channel, weights and activations in 8 bits, ranges from training images."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            loader = data.sample_dataloader(max(number // data.task.outputs, 1))
            self.batches = ({"images": data.on_after_batch_transfer(batch, 0)[0].numpy()} for batch in loader)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared = target.with_suffix(".prepared.onnx")
    with redirect_stdout(StringIO()), hushed(""):
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, Images(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax, nodes_to_exclude=_behind_layers(prepared),
        )  # fmt: skip
    return target


def _behind_layers(model: Path) -> list[str]:
    """Nodes behind which no layer comes: what joins numbers of different sizes, as anchors and logits of a detector, stays in float32."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    before: set[str] = set()  # tensors that a layer is made of
    behind = []
    for node in reversed(graph.node):  # which are sorted
        if node.op_type in LAYERS or before.intersection(node.output):
            before.update(node.input)
        else:
            behind.append(node.name)
    return behind


def _measured(files: dict[str, Path], data: ImageData, split: str) -> list[Compressed]:
    import onnxruntime

    sessions = {name: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for name, path in files.items()}
    logits: dict[str, list[Tensor]] = {name: [] for name in files}
    labels = []
    for images, targets in _batches(data, split):
        labels.append(targets)
        for name, session in sessions.items():
            logits[name].append(data.task.condensed(torch.from_numpy(session.run([LOGITS], {"images": images.numpy()})[0])))
    if not labels:
        raise UserError(f"none of the images of the {split} part can be read any more; compress measures on them.")
    latency = {n: _latency(sessions, images[:1].expand(n, -1, -1, -1).numpy()) for n in (1, 32)}
    rows = []
    for name, path in files.items():
        found = outcome_of(data.task, split, torch.cat(logits[name]), data.task.joined(labels), data.readable(split))
        content = path.read_bytes()
        lead = data.task.lead()
        score = found.metrics()[f"{split}/{lead.key}"]
        low, high = found.interval() or (None, None)
        rows.append(
            Compressed(name, lead, score, low, high, len(content), len(gzip.compress(content, 6)), latency[1][name], latency[32][name])
        )
    return rows


def _latency(sessions: dict[str, Any], images: np.ndarray) -> dict[str, float]:
    """Median milliseconds of each, in turn."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(LATENCY_ROUNDS + 2):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run([LOGITS], {"images": images})
            if number > 1:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def _batches(data: ImageData, split: str) -> Iterator[tuple[Tensor, Tensor]]:
    for images, targets in data.eval_dataloader(split):
        yield data.on_after_batch_transfer((images, torch.as_tensor(targets)), 0)
