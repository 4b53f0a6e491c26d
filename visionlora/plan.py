"""``python -m visionlora.plan``: what ``visionlora.train`` would take with the same settings. Thin: compose, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.cli.command import USER_ERROR, run_command
from visionlora.runs.config import TrainConfig

if TYPE_CHECKING:
    from visionlora.planning.measure import Plan


def plan(config: TrainConfig, folder: Path) -> Plan:
    """Memory, time and disk that a run will take, measured on its beginning; nothing is left in ``folder`` or elsewhere."""
    from visionlora.planning.measure import plan as measured
    from visionlora.planning.table import print_plan

    found = measured(config)
    print_plan(found)
    return found


def main() -> None:
    """Run the command line; a run folder that it names is not made."""
    if {"-m", "--multirun"} & set(sys.argv) or any(word.startswith("sweep=") for word in sys.argv):
        print("error: a plan is for one run; leave -m and sweep= out, and choose one value for each key.", file=sys.stderr)
        sys.exit(USER_ERROR)
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith("hydra.run.dir=")]
    run_command("plan", TrainConfig, plan)


if __name__ == "__main__":
    main()
