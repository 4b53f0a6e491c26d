"""Safetensors files of strangers."""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch
from torch import Tensor

from visionlora.common.errors import UserError

MOST_HEADER = 4 * 2**20
"""Bytes of the list of tensors: some thirty thousand of them. A million take the library a minute."""

_DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file on the CPU, and what its header says beside them.

    Raises:
        UserError: it is missing, damaged, not a safetensors file, or lists more tensors than any model has.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is {'not a file' if path.exists() else 'missing'}.")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if MOST_HEADER < header <= path.stat().st_size:
            raise UserError(f"{path}: its list of tensors has {header:,} bytes; that of a model has fewer than {MOST_HEADER:,}.")
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        for key, tensor in tensors.items():
            if tensor.dtype not in _DTYPES:
                raise UserError(f"{path}: {key[:80]!r} holds {tensor.dtype}, which no model here has.")
        return tensors, metadata
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (safetensors.SafetensorError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {' '.join(str(error).split())}.") from None
