"""``python -m visionlora.train``: fine-tune a backbone. Thin: compose, call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from visionlora.cli.command import run_command
from visionlora.common.errors import UserError
from visionlora.runs.config import TrainConfig
from visionlora.runs.folder import RunFolder


def train(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train as ``config`` says; returns the figures of ``results.json``."""
    refuse_missing_files(config)
    # Imported here: the config has been checked by now, and torch takes seconds to import.
    from visionlora.cli.launch import own_command_line, requeued_on_signal
    from visionlora.cli.resume import repeated_config, resumed_config
    from visionlora.cli.sweeps import continued
    from visionlora.runs.claim import claimed

    words = HydraConfig.get().overrides.task
    config = repeated_config(config, words)
    refuse_missing_files(config)
    with claimed(RunFolder(folder)):
        left = continued(config, folder)
        if left is None:
            return RunFolder(folder).read_results()
        config = resumed_config(left, folder)
        from visionlora.training.run import run

        resumed = left.ckpt_path is not None and not any(word.startswith("ckpt_path=") for word in words)
        with requeued_on_signal(), own_command_line(folder, [f"ckpt_path={left.ckpt_path}"] if resumed else []):
            return run(config, folder)


def refuse_missing_files(config: TrainConfig) -> None:
    """Look for the images and files that the config names, before torch is imported.

    Raises:
        UserError: one is not there, or the folder of the images cannot be one of class folders.
    """
    from visionlora.data.class_names import WORDNET
    from visionlora.data.sources.folders import is_archive, part_folders

    if config.ckpt_path is not None:  # what a run is resumed with is in its folder
        if config.ckpt_path not in ("last", "best") and not Path(config.ckpt_path).is_file():
            raise UserError(f"ckpt_path={config.ckpt_path}: there is no such file; last and best are those of hydra.run.dir=DIR.")
        return
    if config.data.name in ("imagefolder", "imagenet") and not is_archive(Path(config.data.root)):
        part_folders(Path(config.data.root), config.data.name)
    if config.data.exclude is not None and not Path(config.data.exclude).is_file():
        raise UserError(f"data.exclude={config.data.exclude}: there is no such file.")
    if config.data.classes not in (None, WORDNET) and not Path(str(config.data.classes)).is_file():
        raise UserError(f"data.classes={config.data.classes}: there is no such file.")
    weights = config.model.weights
    if weights is not None and not weights.startswith("pip:") and not Path(weights).is_file():
        raise UserError(f"model.weights={weights}: there is no such file.")
    if config.lora.reference is not None and not Path(config.lora.reference).exists():
        raise UserError(f"lora.reference={config.lora.reference}: there is no such file or folder.")


def main() -> None:
    """Run the command line."""
    run_command("train", TrainConfig, train)


if __name__ == "__main__":
    main()
