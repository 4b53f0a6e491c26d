"""A run that is run again: its folder, and what is not as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import same_run
from visionlora.runs.provenance import differences, is_provenance


def repeated_run(config: TrainConfig) -> RunFolder | None:
    """The run that ``config`` runs again without a change: its split, ranks, base and what its finders found hold for this one too."""
    run = RunFolder(config.again) if config.again else None
    return run if run is not None and same_run(config, run) else None


def what_is_not_as_it_was(config: TrainConfig, now: Mapping[str, Any]) -> None:
    """Say in one line in what versions, machine, base or images differ from those of the run that is run again, if in anything.

    Args:
        config: of the run that begins.
        now: with what it is made, see ``provenance``.
    """
    if config.again is None:
        return
    run = RunFolder(config.again)
    then = run.read_results()
    if not same_run(config, run):  # another base or other images may be asked for
        then = {key: value for key, value in then.items() if not key.startswith("fingerprint/")}
    if not any(map(is_provenance, then)):
        print(f"again={config.again}: it does not say with which versions and on what machine it ran.")
    elif changed := differences(then, now):
        print(f"again={config.again}: not as it was are {', '.join(changed)}; the figures may differ.")
