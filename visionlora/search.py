"""``python -m visionlora.search``: look for good settings with Optuna; every trial is a run folder. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionlora.cli.command import run_command
from visionlora.cli.search_config import SearchConfig


def search(config: SearchConfig, folder: Path) -> dict[str, Any]:
    """Run what is left of ``search.trials`` and return the best trial's settings; the study and the trials are in ``folder``."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        from visionlora.common.errors import UserError

        raise UserError('the search is Optuna\'s; install it with: pip install "visionlora[search]"') from None
    from visionlora.cli.searching import run_study

    try:
        return run_study(config, folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; the same command with hydra.run.dir={folder} goes on") from None


def main() -> None:
    """Run the command line."""
    run_command("search", SearchConfig, search)


if __name__ == "__main__":
    main()
