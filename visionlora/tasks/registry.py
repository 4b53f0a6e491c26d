"""The tasks by name, and a task of a config. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.common.registry import Registry
from visionlora.common.typed import typed

if TYPE_CHECKING:
    from visionlora.tasks.task import Task

TASKS: Registry[type[Task]] = Registry(
    "task",
    "visionlora.tasks",
    classify="visionlora.tasks.classify.task:Classify",
    multilabel="visionlora.tasks.multilabel.task:Multilabel",
    regression="visionlora.tasks.regression.task:Regression",
    segment="visionlora.tasks.segment.task:Segment",
    detect="visionlora.tasks.detect.task:Detect",
    ordinal="visionlora.tasks.ordinal.task:Ordinal",
)
"""Name -> subclass of ``Task``."""
USUAL = "classify"
"""What a run does that says nothing else, as all runs of earlier versions."""


def kind_of(section: Mapping[str, Any] | str | None) -> type[Task]:
    """The class of a task.

    Args:
        section: the section ``task`` of a config, the task's name alone, or ``None`` for the usual one.

    Raises:
        UserError: there is no such task.
    """
    name = section if isinstance(section, str) else section.get("name", USUAL) if isinstance(section, Mapping) else section or USUAL
    TASKS.check(str(name))
    return TASKS[str(name)]


def make_task(section: Mapping[str, Any] | str | None, names: Sequence[str]) -> Task:
    """The task of a config.

    Args:
        section: as for ``kind_of``; the keys beside ``name`` are the fields of the task's ``Options``.
        names: of the model's outputs, in their order.

    Raises:
        UserError: there is no such task, or it has no such option.
    """
    kind = kind_of(section)
    given = {key: value for key, value in section.items() if key != "name"} if isinstance(section, Mapping) else {}
    known = [field.name for field in fields(kind.Options)]
    for key in given:
        if key not in known:
            raise UserError(f"unknown key task.{key}: task={kind.name} has {', '.join(known) or 'no options'}.{did_you_mean(key, known)}")
    try:
        return kind(names, typed(kind.Options, given, "task"))  # as it is, nothing in it resolved: it may be from a stranger's file
    except ValueError as error:
        raise UserError(f"{error}.") from None


def check_section(section: Mapping[str, Any]) -> None:
    """See that the section ``task`` of a config names a task and options that it has.

    Raises:
        UserError: it does not.
    """
    if "name" not in section:
        raise UserError(f"task needs a name, as in task={USUAL}.")
    make_task(section, ())
