"""A model traced by torch, silently and for batches of any size."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from visionlora.common.quiet import hushed
from visionlora.exporting.facts import Facts


def blank(facts: Facts) -> Tensor:
    """What a model is traced with: two images of nothing, because a file that is handed on holds nobody's."""
    return torch.zeros((2, *facts.shape))


def batches() -> tuple[dict[int, torch.export.Dim]]:
    """The shapes that a traced model takes: any number of images."""
    return ({0: torch.export.Dim("batch", min=1, max=4096)},)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """A context in which torch traces a model silently; where tracing fails, it would print the whole graph beside the error."""
    with warnings.catch_warnings(), hushed("onnxscript", "onnx_ir"), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def to_onnx(model: nn.Module, example: Tensor, path: Path, takes: str, gives: Sequence[str]) -> None:
    """Write ``model`` as a graph of ONNX from ``takes`` to ``gives``."""
    with tracing():
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=[takes],
            output_names=list(gives),
            dynamic_shapes=batches(),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
