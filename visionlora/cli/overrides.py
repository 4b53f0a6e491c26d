"""Hydra's parser of command lines, whose modules are internal to it: the one place that imports them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from functools import cache

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

__all__ = ["Override", "arguments_parser", "parsed"]


def arguments_parser() -> ArgumentParser:
    """Hydra's own options, such as ``--multirun``, as argparse has them."""
    return get_args_parser()


def parsed(words: Sequence[str]) -> list[Override]:
    """Words such as ``lora.r=1,2`` taken apart.

    Raises:
        hydra.errors.OverrideParseException: one is not as Hydra writes settings.
    """
    return _parser().parse_overrides(list(words))


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
