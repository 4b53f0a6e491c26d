"""The run folder: what a run leaves, by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from visionlora.common.errors import UserError
from visionlora.common.files import inside, remove_parts, replace_file
from visionlora.common.reading import read_json, read_yaml, sealed_json, sealed_yaml
from visionlora.common.rows import is_number
from visionlora.common.typed import check_known
from visionlora.runs.config import TrainConfig
from visionlora.runs.provenance import is_provenance
from visionlora.tasks.registry import USUAL

if TYPE_CHECKING:
    from torch import Tensor

_BESIDE = "# Beside it: "
_FIGURES = ("images_per_second", "threads", "epochs", "seed")
"""Keys of ``results.json`` that hold a number, beside those with a ``/``."""


class RunFolder:
    """Paths in a run folder, and how its files are read and written. Every file appears whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.results = self.path / "results.json"
        self.metrics = self.path / "metrics.csv"
        self.split = self.path / "split.json"
        self.ranks = self.path / "ranks.json"
        self.recipe = self.path / "recipe.json"
        self.strength = self.path / "strength.json"
        self.bad_files = self.path / "bad_files.csv"
        self.base = self.path / "base.safetensors"
        self.adapter = self.path / "adapter"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.folds = self.checkpoints / "folds.safetensors"
        self.previous = self.checkpoints / "previous.ckpt"
        self.figures = self.path / "figures"
        self.curves = self.path / "curves.png"
        self.rates = self.path / "lr_find.png"
        self.log = self.path / "train.log"
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
            for path in (*self._attempted, self.best, self.folds):
                path.unlink(missing_ok=True)
        self.mark()

    def go_on(self) -> None:
        """Mark the folder of a run that an earlier version began, and remove what a process that was killed while writing has left.

        Raises:
            UserError: one of the files that will be written is a symbolic link.
        """
        self.refuse_links()
        remove_parts(self.path, self.checkpoints, self.adapter, self.figures)
        self.mark()

    def refuse_links(self) -> None:
        """See that everything the run writes stays in its folder, and takes the place of nothing else.

        Raises:
            UserError: a file or folder of the run is a symbolic link, a file is a folder, or a folder is a file.
        """
        files = [*self._attempted, self.error, self.results, self.marker, self.lock, self.log]
        files += [self.adapter / name for name in ("adapter_model.safetensors", "adapter_config.json", "visionlora.json")]
        for path in (*files, self.best, self.last, self.previous, self.folds):
            inside(self.path, *path.relative_to(self.path).parts)
            if path.exists() and not path.is_file():
                raise UserError(f"{path} is not a file, where the run has to write one; move it away.")
        for path in (self.adapter, self.checkpoints, self.figures):
            if inside(self.path, path.name).exists() and not path.is_dir():
                raise UserError(f"{path} is a file where a folder has to be; move it away.")

    @property
    def _attempted(self) -> tuple[Path, ...]:
        drawn = [self.figures / f"{picture.stem}.pdf" for picture in (self.curves, self.rates)]
        beside = (self.recipe, self.strength, self.bad_files)
        return (self.config, self.base, self.split, self.ranks, self.metrics, self.curves, self.rates, *beside, *drawn)

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
        """The resolved config of the run. Nothing in it is resolved, and no class that it names is made.

        Raises:
            UserError: it is damaged, or a file that the run wrote beside it is missing.
        """
        values, beside = self._read_config()
        for name in beside:
            if not (self.path / name).is_file():
                raise UserError(f"{self.path / name} is missing: the run wrote it, and is not whole without it.")
        return OmegaConf.create(values)

    def read_plain_config(self) -> dict[str, Any]:
        """The resolved config as nested dicts, for those who need nothing beside it."""
        return self._read_config()[0]

    def _read_config(self) -> tuple[dict[str, Any], list[str]]:
        values, text = read_yaml(self.config)
        try:
            check_known(TrainConfig, {key: value for key, value in values.items() if key not in ("callbacks", "logger", "ckpt_path")})
        except ValueError as error:
            raise UserError(f"{self.config} is damaged: {error}.") from None
        for name in ("model", "data", "lora", "optim"):
            if name not in values:
                raise UserError(f"{self.config} is damaged: it has no section {name}.")
        values.setdefault("task", {"name": USUAL})  # runs of earlier versions do not say it
        values.setdefault("recipe", {"name": "plain"})  # what it was then
        return values, re.findall(r"\w+\.\w+", text.partition("\n")[0]) if text.startswith(_BESIDE) else []

    def read_split(self) -> dict[str, list[str]] | None:
        """Which images the run split off, or ``None``."""
        split = read_json(self.split) if _there(self.split) else None
        for part, names in (split or {}).items():
            if part not in ("train", "val", "test") or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{self.split} is damaged: {part[:80]!r} is not a part with a list of names.")
        return split

    def write_split(self, split: Mapping[str, list[str]]) -> None:
        replace_file(inside(self.path, self.split.name), sealed_json(split, indent=None))

    def read_ranks(self) -> dict[str, Any] | None:
        """Layer -> rank and alpha that ``lora.budget`` bought, or ``None``."""
        ranks = read_json(self.ranks) if _there(self.ranks) else None
        for name, value in (ranks or {}).items():
            two = isinstance(value, list) and len(value) == 2 and all(map(_is_figure, value))
            if not two or not isinstance(value[0], int) or min(value) <= 0:
                raise UserError(f"{self.ranks} is damaged: {name[:80]!r} has no rank and alpha there.")
        return ranks

    def write_ranks(self, ranks: Mapping[str, Any]) -> None:
        replace_file(inside(self.path, self.ranks.name), sealed_json(ranks, indent=1))

    def read_results(self) -> dict[str, Any]:
        """Every figure of a finished run.

        Raises:
            UserError: there is none, or it is damaged.
        """
        results = read_json(self.results)
        if not results:
            raise UserError(f"{self.results} is damaged: there is no figure in it.")
        for key, value in results.items():
            figure = ("/" in key and not is_provenance(key)) or key in _FIGURES
            if isinstance(value, list | dict) or (figure and not (value is None or _is_figure(value))):
                raise UserError(f"{self.results} is damaged: {key[:80]!r} is {str(value)[:80]!r}.")
        return results

    def read_base(self) -> dict[str, Tensor] | None:
        """Weights of a base that cannot be had again by name, or ``None``."""
        if not _there(self.base):
            return None
        from visionlora.backbone.info import fingerprint  # not above: a wrong folder is told before torch is imported
        from visionlora.common.tensors import read_tensors

        state, metadata = read_tensors(self.base)
        if metadata.get("fingerprint", known := fingerprint(state)) != known:
            raise UserError(f"{self.base} is damaged: its weights are not those that were written.")
        return state

    def write_base(self, state: Mapping[str, Tensor]) -> None:
        """Keep the weights of a base that cannot be had again by name."""
        from safetensors.torch import save

        from visionlora.backbone.info import fingerprint

        tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
        replace_file(inside(self.path, self.base.name), save(tensors, metadata={"fingerprint": fingerprint(tensors)}))

    def write_config(self, config: dict[str, Any], beside: Collection[str] = ()) -> None:
        """Write the resolved config; ``beside`` names the files that the run is not whole without."""
        text = OmegaConf.to_yaml(config)
        replace_file(inside(self.path, self.config.name), sealed_yaml(f"{_BESIDE}{', '.join(beside)}.\n{text}" if beside else text))

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write every figure: the last thing that a run does."""
        replace_file(inside(self.path, self.results.name), sealed_json(results))


def _is_figure(value: Any) -> bool:
    return is_number(value) and (value != value or abs(value) < 1e300)  # nan: memory that could not be measured


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
