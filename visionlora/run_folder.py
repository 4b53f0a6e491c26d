"""The run folder: what a run leaves, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from visionlora.errors import UserError
from visionlora.files import inside, remove_parts, replace_file

if TYPE_CHECKING:
    from torch import Tensor


class RunFolder:
    """Paths in a run folder, and how its files are read and written. Every file appears whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.results = self.path / "results.json"
        self.metrics = self.path / "metrics.csv"
        self.split = self.path / "split.json"
        self.ranks = self.path / "ranks.json"
        self.bad_files = self.path / "bad_files.csv"
        self.base = self.path / "base.safetensors"
        self.adapter = self.path / "adapter"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.curves = self.path / "curves.png"
        self.rates = self.path / "lr_find.png"
        self.error = self.path / "error.txt"
        self.marker = self.path / ".visionlora"
        self.lock = self.path / ".lock"

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run with its adapter.

        Raises:
            UserError: there is no such folder, it is not a run, or the run has not finished.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"run={path}: there is no such folder.")
        if not run.config.is_file():
            raise UserError(f"run={path} is not a run folder: it has no config.yaml (a run is what visionlora.train wrote).")
        if not run.adapter.is_dir():
            raise UserError(f"run={path} has not finished: it has no adapter/; go on with ckpt_path=last hydra.run.dir={path}.")
        return run

    @property
    def used(self) -> bool:
        """Whether a run has left anything worth keeping here."""
        return any(path.exists() for path in (self.results, self.last, self.previous, self.adapter))

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.last.is_file() or self.previous.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: the results are the last thing written."""
        return self.results.is_file() and self.adapter.is_dir()

    @property
    def broke(self) -> bool:
        """Whether the last attempt ended in an error."""
        return self.error.exists() and not self.finished

    def refuse_foreign(self) -> None:
        """See that a new run would write over nothing that a run did not write.

        Raises:
            UserError: the folder holds a run, or files of other origin under the names of a run's files.
        """
        if self.used:
            raise UserError(f"{self.path} holds a run already; go on with it by ckpt_path=last, or choose another hydra.run.dir.")
        there = [path.name for path in (*self._attempted, self.checkpoints) if path.exists() or path.is_symlink()]
        if there and not self.marker.exists():
            raise UserError(
                f"{self.path} holds {', '.join(there)}, and nothing says that a run has written it; choose another hydra.run.dir."
            )

    def begin(self) -> None:
        """Mark the folder as a run's, by the first thing that the run writes, and remove what an attempt without checkpoint left.

        What is removed are files by name, and only in a folder that was marked before.

        Raises:
            UserError: see ``refuse_foreign``, or one of the files is a symbolic link.
        """
        self.refuse_foreign()
        self.refuse_links()
        if self.marker.exists():
            for path in (*self._attempted, self.best):
                path.unlink(missing_ok=True)
        self.mark()

    def go_on(self) -> None:
        """Mark the folder of a run that an earlier version began, and remove what a process that was killed while writing has left.

        Raises:
            UserError: one of the files that will be written is a symbolic link.
        """
        self.refuse_links()
        remove_parts(self.path, self.checkpoints, self.adapter)
        self.mark()

    def refuse_links(self) -> None:
        """See that everything the run writes stays in its folder.

        Raises:
            UserError: a file or folder of the run is a symbolic link.
        """
        own = (*self._attempted, self.error, self.results, self.adapter, self.checkpoints, self.marker, self.lock, self.path / "train.log")
        for path in own:
            inside(self.path, path.name)
        for path in (self.best, self.last, self.previous):
            inside(self.path, self.checkpoints.name, path.name)

    @property
    def _attempted(self) -> tuple[Path, ...]:
        return (self.config, self.base, self.split, self.ranks, self.metrics, self.curves, self.rates, self.bad_files)

    def mark(self) -> None:
        """Mark the folder as a run's, where it is not."""
        if not self.marker.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self.marker.touch(exist_ok=False)

    def read_section(self, name: str) -> DictConfig:
        """One section of the resolved config."""
        section = self.read_config().get(name)
        if not isinstance(section, DictConfig):
            raise UserError(f"{self.config} is damaged: it has no section {name}.")
        return section

    def read_config(self) -> DictConfig:
        """The resolved config of the run."""
        try:
            loaded = OmegaConf.load(self.config)
        except Exception as error:  # YAML and OmegaConf have many
            raise UserError(f"{self.config} is not readable: {str(error).splitlines()[0]}") from None
        if not isinstance(loaded, DictConfig):
            raise UserError(f"{self.config} does not hold a config.")
        if "${" in repr(OmegaConf.to_container(loaded, resolve=False)):  # a run writes values; this would read variables of ours
            raise UserError(f"{self.config} is damaged: it refers to other values (${{…}}), which no run writes.")
        return loaded

    def read_split(self) -> dict[str, list[str]] | None:
        """Which pictures the run split off, or ``None``."""
        return _read_json(self.split)

    def read_ranks(self) -> dict[str, Any] | None:
        """Layer -> rank and alpha that ``lora.budget`` bought, or ``None``."""
        return _read_json(self.ranks)

    def write_ranks(self, ranks: Mapping[str, Any]) -> None:
        replace_file(inside(self.path, self.ranks.name), json.dumps(dict(ranks), indent=1).encode())

    def read_results(self) -> dict[str, Any]:
        """Every figure of a finished run."""
        return _read_json(self.results) or {}

    def read_base(self) -> dict[str, Tensor] | None:
        """Weights of a base that cannot be had again by name, or ``None``."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # not above: a wrong folder is told before torch is imported

        try:
            return load_file(self.base) if self.base.is_file() else None
        except SafetensorError as error:
            raise UserError(f"{self.base} is damaged: {error}.") from None

    def write_base(self, state: Mapping[str, Tensor]) -> None:
        """Keep the weights of a base that cannot be had again by name."""
        from safetensors.torch import save

        tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
        replace_file(inside(self.path, self.base.name), save(tensors))

    def write_config(self, config: DictConfig | dict[str, Any]) -> None:
        replace_file(inside(self.path, self.config.name), OmegaConf.to_yaml(config).encode())

    def write_results(self, results: Mapping[str, Any]) -> None:
        replace_file(inside(self.path, self.results.name), json.dumps(dict(results), indent=2).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
