"""``python -m visionlora.train``: fine-tune a backbone. Thin: compose, call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from visionlora.app import run_command
from visionlora.config import TrainConfig
from visionlora.run_folder import RunFolder


def train(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train as ``config`` says; returns the figures of ``results.json``."""
    # Imported here: the config has been checked by now, and torch takes seconds to import.
    from visionlora.launch import own_command_line, requeued_on_signal
    from visionlora.resume import repeated_config, resumed_config
    from visionlora.runs.claim import claimed
    from visionlora.sweeps import continued

    words = HydraConfig.get().overrides.task
    config = repeated_config(config, words)
    with claimed(RunFolder(folder)):
        left = continued(config, folder)
        if left is None:
            return RunFolder(folder).read_results()
        config = resumed_config(left, folder)
        from visionlora.training import run

        resumed = left.ckpt_path is not None and not any(word.startswith("ckpt_path=") for word in words)
        with requeued_on_signal(), own_command_line(folder, [f"ckpt_path={left.ckpt_path}"] if resumed else []):
            return run(config, folder)


def main() -> None:
    """Run the command line."""
    run_command("train", TrainConfig, train)


if __name__ == "__main__":
    main()
