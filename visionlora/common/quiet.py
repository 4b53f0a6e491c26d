"""Remarks of the libraries about what this project decides on purpose, and advertisements, are not passed on."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

LOGGERS = (
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",  # its parent is set back to INFO when it is imported, which may come later
    "lightning.fabric",
    "lightning.fabric.utilities.rank_zero",
    "timm.models",
    "matplotlib",
)
_REMARKS = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*number of training batches.*",
    ".*module\\(s\\) in eval mode.*",  # batch-norm keeps its statistics
    ".*LeafSpec.*",
    ".*across ranks is zero.*",  # no validation part
    ".*sync_dist=True.*",  # torchmetrics has done so
    ".*all_gather is deprecated.*",
    ".*broadcast_buffers.* is deprecated.*",
    ".*lr_scheduler.step.*",  # under mixed precision the first step may be skipped
)


def quiet() -> None:
    """Hide them for good: a command does so, before the libraries are imported. In a function there is ``quietly``."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    _hide_remarks()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide them inside; outside, levels and filters are as they were."""
    with warnings.catch_warnings(), hushed(*LOGGERS, level=logging.WARNING):
        _hide_remarks()
        yield


@contextlib.contextmanager
def hushed(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """A context in which loggers of these names (``""`` is the root) pass on nothing below ``level``. Afterwards their levels are as
    they were.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(level, logger.level))
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def _hide_remarks() -> None:
    for remark in _REMARKS:
        warnings.filterwarnings("ignore", remark)
