"""The data of a finished run, for commands that only read. Free of torch."""

from __future__ import annotations

import os
from dataclasses import replace

from visionlora.common.config import checked
from visionlora.common.errors import UserError
from visionlora.data.config import SOURCES, DataConfig
from visionlora.runs.folder import RunFolder
from visionlora.runs.identity import WITHOUT_FILES


def data_config(run: RunFolder, root: str | None = None) -> DataConfig:
    """What the run's config says of its data. A run may be a stranger's: nothing is made or downloaded where its config points to,
    and it starts no more processes than there are processors.

    Args:
        run: a finished run.
        root: the folder that the user names instead; there, what is missing may be downloaded as the config says.

    Raises:
        UserError: the config is damaged, or names a folder that is not there.
    """
    own = replace(checked(DataConfig, run.read_section("data")), decoded=None)
    if own.num_workers is not None:
        own = replace(own, num_workers=min(own.num_workers, os.cpu_count() or 1))
    if root is not None:
        return replace(own, root=root)
    if own.name in SOURCES.built_in and own.name not in WITHOUT_FILES and not own.there:
        raise UserError(f"{run.config} says that its images are in {own.root}, which is not here; name their place with root=DIR.")
    return replace(own, download=False)
