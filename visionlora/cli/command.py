"""What the commands share: compose with Hydra, check, run, and tell a user's mistake in one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visionlora.cli.conf import chosen, conf_dir, groups, own_keys
from visionlora.cli.settings import named, opened, prepared
from visionlora.cli.suggest import unknown
from visionlora.cli.sweeps import SweepSummary, expanded, sweeping
from visionlora.common.config import checked
from visionlora.common.disk import STANDS, disk_trouble, quiet_threads
from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.files import inside, replace_file
from visionlora.common.processes import PATIENCE, TERMINATED, Termination, end_at_once, end_with, end_with_starter, peer_trouble
from visionlora.common.quiet import quiet
from visionlora.common.text import printable
from visionlora.runs.folder import RunFolder

USER_ERROR, INTERRUPTED = 2, 130
T = TypeVar("T")


def slug(text: Any) -> str:
    """``text`` as part of a folder name that Hydra takes back as a value: letters, digits, ``.``, ``_`` and ``-``."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", str(text)).strip("-")
    lossy = re.search(r"[^A-Za-z0-9._=,-]", str(text))  # other texts may look the same
    return short if len(short) <= 120 and not lossy else f"{short[:110]}-{hashlib.sha256(str(text).encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("slug", slug, replace=True)  # on import, so that the processes of a parallel sweep have it too


def run_command(name: str, schema: type[T], task: Callable[[T, Path], Any]) -> None:
    """Run ``task(config, output folder)`` for each job of the command line, with ``conf/NAME.yaml`` as its config.

    Exits with 2 and one sentence for a user's mistake or a disk that cannot be written, with 130 after Ctrl-C, with 143 after SIGTERM.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printing
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    quiet_threads()
    Termination.handle()
    jobs = _Jobs(schema, task, end_with_starter(), os.getpid())

    def job(composed: DictConfig) -> Any:
        return jobs.run(composed)

    try:
        refuse_huge_numbers(sys.argv[1:])
        sys.argv[1:] = named(sys.argv[1:])
        if _answered(name):
            return
        sys.argv[1:] = expanded(opened(name, sys.argv[1:]), conf_dir() / "sweep")
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
    except KeyboardInterrupt as interrupt:
        _tell_interrupted(interrupt)
        sys.exit(TERMINATED if Termination.asked else INTERRUPTED)
    except Exception as error:
        hydras = isinstance(error, HydraException | OmegaConfBaseException)
        sentence = explain(error, name) if hydras else _sentence(error)
        if not sentence and not jobs.begun and isinstance(error, ValueError | TypeError):  # Hydra's parser has no word for some mistakes
            sentence = explain(error, name)
        if not sentence:
            raise
        _tell(sentence)
        sys.exit(USER_ERROR)
    if jobs.failed or SweepSummary.failed:
        sys.exit(USER_ERROR)
    if jobs.started:
        end_at_once()


@dataclass
class _Jobs(Generic[T]):
    """The jobs of a command line: one, or those of a sweep.

    Args:
        schema: of their config.
        task: what each does.
        started: this process was started by another one of the same job.
        process: of the command; those of a parallel sweep are others.
    """

    schema: type[T]
    task: Callable[[T, Path], Any]
    started: bool
    process: int
    begun: list[Path] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)

    def run(self, composed: DictConfig) -> Any:
        """One job; a mistake is told here, as Hydra would put lines of its own before it, and drop the rest of a multirun."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        self.begun.append(folder)
        quiet()
        if os.getpid() != self.process:  # one of a parallel sweep
            end_with(self.process)
        if sweeping():
            RunFolder(folder).error.unlink(missing_ok=True)
        try:
            return self.task(checked(self.schema, composed), folder)
        except KeyboardInterrupt:
            if not sweeping():
                raise
            raise KeyboardInterrupt(f"; the same command with hydra.sweep.dir={HydraConfig.get().sweep.dir} goes on") from None
        except Exception as error:
            if self.started and peer_trouble(error):  # the one that has started this process tells why, and takes it along
                time.sleep(PATIENCE)
            if sentence := _sentence(error):
                self._told(sentence, folder)
            elif not sweeping():
                raise
            else:  # a fault of ours: the other jobs of a sweep go on
                traceback.print_exc()
                _note(folder, f"{type(error).__name__}: {error}")
        return None

    def _told(self, sentence: str, folder: Path) -> None:
        _tell(sentence)
        self.failed.append(folder)
        if not sweeping():
            _remove_if_unused(folder, f"{HydraConfig.get().job.name}.log")
        elif not RunFolder(folder).finished:  # what is there may be another run
            _note(folder, sentence)


def _tell_interrupted(interrupt: KeyboardInterrupt) -> None:
    if not interrupt.args and SweepSummary.folder:  # while a launcher waited for its processes
        interrupt.args = (f"; the same command with hydra.sweep.dir={SweepSummary.folder} goes on",)
    word = "terminated" if Termination.asked else "interrupted"
    print(" ".join([word, *map(str, interrupt.args)]).replace(" ;", ";") + ".", file=sys.stderr)
    Termination.told = True


def _sentence(error: Exception) -> str:
    """What is told of a user's mistake, the disk or another process; ``""`` for a fault of ours, which is shown whole."""
    if isinstance(error, UserError):
        return str(error)
    trouble = disk_trouble(error) or peer_trouble(error)
    return trouble and f"{trouble} {STANDS}"


def refuse_huge_numbers(words: Sequence[str]) -> None:
    """Refuse a number of more digits than Python turns into one: Hydra's parser would end in an error of its own.

    Raises:
        UserError: there is one.
    """
    for word in words:
        if digits := re.search(r"[\d_]{1000,}", word):
            raise UserError(f"{word[:40]}… has a number of {len(digits[0]):,} digits.")


def _answered(command: str) -> bool:
    """Whether the command line asks for a page or a completion, which has been given then; else its words have been checked."""
    if "--version" in sys.argv[1:]:
        from visionlora.cli.help import show_version

        show_version()
        return True
    line = prepared(command, sys.argv[1:])
    if line.options.shell_completion:
        from visionlora.cli.completion import complete

        complete([word for word, _ in line.settings], command)
    elif line.options.help:
        from visionlora.cli.help import show_help

        show_help(command, [word for word, _ in line.settings])
    else:
        sys.argv[1:] = line.words
        return False
    return True


def explain(error: Exception, command: str) -> str:
    """Hydra's complaint about an override or a config file, as one sentence; what is common has been told before, by ``prepared``."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r} as key=value; quote what the shell or Hydra would take apart."
    if match := re.search(r"Could not override '([^']+)'\.\nTo append", text):
        return unknown(match[1], "VALUE", dict.fromkeys((*own_keys(command), *chosen(command)), ""))
    if match := re.search(r"Could not override '([^']+)'\.\s*No match in the defaults list", text):
        return f"unknown config group {match[1]!r}; the groups are {', '.join(groups())}.{did_you_mean(match[1], groups())}"
    if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        group, option = match.groups()
        known = re.findall(r"^\t(\S+)$", text.partition("Available options")[2], re.MULTILINE)
        launcher = " pip install 'visionlora[joblib]' brings joblib, [submitit] SLURM, [ray] Ray." if group == "hydra/launcher" else ""
        return f"{group}={option} is not there; there are {', '.join(known)}.{did_you_mean(option, known)}{launcher}"
    return " ".join(text.split())


def _remove_if_unused(folder: Path, log: str) -> None:
    """Hydra makes the folder and its log before the job; a mistake told at once leaves neither. Nothing else is touched."""
    with contextlib.suppress(OSError):
        _remove_empty(folder, log)


def _remove_empty(folder: Path, log: str) -> None:
    if [path.name for path in folder.iterdir()] == [log] and not (folder / log).stat().st_size:
        (folder / log).unlink()
    made = [folder, *(parent for parent in list(folder.parents)[:2] if {"outputs", "multirun", "searches"} & set(parent.parts))]
    for empty in made:
        if empty != Path.cwd() and not any(empty.iterdir()):
            empty.rmdir()


def _note(folder: Path, error: str) -> None:
    """Leave ``error.txt`` for whoever looks at a sweep's folders; not at any price."""
    with contextlib.suppress(OSError, UserError):
        replace_file(inside(folder, "error.txt"), f"{error}\n".encode())


def _tell(message: str) -> None:
    # A worker process of the data loader wraps the error in its traceback.
    print(printable(f"error: {message.rpartition('visionlora.common.errors.UserError: ')[2].strip()}"), file=sys.stderr)
