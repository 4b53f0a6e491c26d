"""Remarks of the libraries about what this project decides on purpose, and advertisements, are not passed on."""

from __future__ import annotations

import logging
import warnings

_LOGGERS = ("lightning.pytorch", "lightning.fabric", "timm.models", "matplotlib")
_REMARKS = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*number of training batches.*",
    ".*module\\(s\\) in eval mode.*",  # batch-norm keeps its statistics
    ".*LeafSpec.*",
    ".*across ranks is zero.*",  # no validation part
    ".*lr_scheduler.step.*",  # under mixed precision the first step may be skipped
)


def quiet() -> None:
    """Hide them. Called before the libraries are imported, and once more after: Lightning sets its own level then."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", remark)
